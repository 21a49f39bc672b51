"""Campaigns: faults drawn by chance, invariants checked after each, and a failing sequence made as short as it gets.

Every step is drawn from the campaign's seed and its own number alone, so a part of a campaign repeats as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from labctl.checks import (
    Claim,
    Finding,
    Result,
    SamplerLimits,
    Verdict,
    claim,
    fault_confirmed,
    heal_confirmed,
    judge,
    judged,
    machines_lived,
    members_agree,
    no_failures,
    sampler_healthy,
)
from labctl.cluster.watch import watching
from labctl.errors import DeadlineExceeded, InputError, LabError
from labctl.faults import (
    ClockJump,
    CpuHog,
    Delay,
    Duplicate,
    Fault,
    FreezeProcess,
    LinkDown,
    Loss,
    Partition,
    Pause,
    PowerOff,
    Reorder,
    Reset,
    injected,
    watching_machines,
)
from labctl.history import HistoryWriter, LabEvent, Window
from labctl.lab import Lab
from labctl.probes import Kind, Probe, RunningProbe
from labctl.topology.spec import ClusterSpec, LabSpec, RuleProtocol

__all__ = ["Step", "draw", "run_step", "shrunk"]

T = TypeVar("T")

CLIENTS = 12
CONVERGE_WITHIN_S = 120.0
# Emulated guests under faults of their own: from so much on nothing is concluded.
LIMITS = SamplerLimits(rate_share=0.8, gap_s=4.0, late_share=0.5)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a campaign.

    Attributes:
        number: in the campaign, from 1.
        lasts_s: from when it was seen to be in effect.
    """

    number: int
    fault: Fault
    lasts_s: float

    def __str__(self) -> str:
        return f"step {self.number}: {self.fault.kind} of {self.fault.target} for {self.lasts_s:.0f} s"


def draw(seed: int, steps: int, lab: LabSpec) -> tuple[Step, ...]:
    """The steps of a campaign against the first cluster of a lab.

    Raises:
        InputError: the lab has no cluster, or nobody to ask from.
    """
    cluster = _cluster(lab)
    return tuple(_step(random.Random(f"{seed} {n}"), n, cluster) for n in range(1, steps + 1))  # noqa: S311 - no secret


def _cluster(lab: LabSpec) -> ClusterSpec:
    if not (lab.clusters and any("client" in n.roles for n in lab.nodes)):
        raise InputError(f"lab {lab.name}: a campaign needs a cluster, and a node with the role client")
    return lab.clusters[0]


def _step(chance: random.Random, number: int, cluster: ClusterSpec) -> Step:
    member = chance.choice(cluster.members)
    node, nic = member.node, member.nic
    share, late_ms = chance.randint(5, 40), chance.randint(20, 400)
    others = tuple(m.node for m in cluster.members if m.node != node)
    kinds: list[Fault] = [
        PowerOff(node),
        Reset(node),
        Pause(node),
        LinkDown(node, nic),
        Loss(node, nic, share, seed=number),
        Delay(node, nic, late_ms, jitter_ms=late_ms / 4),
        Duplicate(node, nic, share, seed=number),
        Reorder(node, nic, share, seed=number),
        CpuHog(node, workers=chance.randint(1, 4)),
        ClockJump(node, by_s=chance.choice([-86400.0, -60.0, 60.0, 86400.0])),
        FreezeProcess(node, "keepalived"),
        *([Partition(((node,), others), heartbeat_only=chance.random() < 0.5)] if others else []),
    ]
    return Step(number, chance.choice(kinds), lasts_s=float(chance.randint(3, 12)))


def run_step(lab: Lab, step: Step, path: Path) -> Verdict:
    """Do a step under load, and judge what must hold afterwards: all is healed, everybody is served again.

    Args:
        path: of the history.
    """
    cluster = _cluster(lab.spec)
    path.unlink(missing_ok=True)
    client = next(n.name for n in lab.spec.nodes if "client" in n.roles)
    with HistoryWriter(path, lab.clock) as history:
        made_from = (lab.record.file, lab.record.text, str(lab.spec.accelerator))
        history.append(LabEvent(history.now_s(), lab.name, *made_from))
        history.note(str(step))
        with ExitStack() as stack:
            stack.enter_context(watching(lambda: lab.look(cluster), history, lab.clock))
            stack.enter_context(watching_machines(lab.ground(), history))
            probe = stack.enter_context(RunningProbe(_probe(lab.spec, client), lab.guest(client), history))
            probe.sample_rounds(2)
            trouble = _broken(step, lab, history, probe)
            healed_s = lab.clock.now_s()
            with suppress(DeadlineExceeded):  # the history says so, too, and is judged
                lab.wait_converged(CONVERGE_WITHIN_S)
            settled_s = lab.clock.now_s()
            probe.sample_rounds(3)
        verdict = judged(history, *_claims(step, cluster, healed_s, settled_s))
    if trouble:
        trouble_told = Finding(f"{step} is done and undone", Result.INCONCLUSIVE, trouble)
        return judge(*verdict.findings, trouble_told, evidence=verdict.evidence)
    return verdict


def _broken(step: Step, lab: Lab, history: HistoryWriter, probe: RunningProbe) -> str:
    """Do a step's fault under load and undo it; what went wrong with that, which the campaign survives, or nothing."""
    try:
        with injected(step.fault, lab.ground(), history):
            probe.sample_rounds(1, at_least_s=step.lasts_s)
    except LabError as failure:
        history.note(f"{step}: {failure}")
        return str(failure)
    return ""


def _probe(lab: LabSpec, client: str) -> Probe:
    """Connections to the first TCP port of the cluster, from many addresses."""
    cluster = lab.clusters[0]
    ports = [r.first_port for r in cluster.port_rules if r.protocol is not RuleProtocol.UDP]
    if not ports:
        raise InputError(f"lab {lab.name}: cluster {cluster.name} has no TCP port for a campaign to ask")
    sources = tuple(str(a) for a in lab.node(client).nics[0].extra_addresses[:CLIENTS])
    address = str(cluster.address.ip)
    # What is asked is whether anybody is let down, not for how long: with patience, for a busy host is not at fault.
    return Probe("clients", Kind.TCP, address, ports[0], sources=sources, rate_hz=8.0, timeout_s=6.0, late_s=1.0)


def _claims(step: Step, cluster: ClusterSpec, healed_s: float, settled_s: float) -> tuple[Claim, ...]:
    fault, members = (step.fault.kind, step.fault.target), [m.node for m in cluster.members]
    return (
        claim(fault_confirmed, *fault),
        claim(heal_confirmed, *fault),
        claim(machines_lived),
        claim(members_agree, cluster.name, members, after_s=healed_s, within_s=CONVERGE_WITHIN_S + 5.0),
        claim(no_failures, "clients", window=Window(from_s=settled_s), limits=LIMITS),
        claim(sampler_healthy, "clients", limits=LIMITS),
    )


def shrunk(steps: Sequence[T], fails: Callable[[Sequence[T]], bool], most_tries: int = 12) -> tuple[T, ...]:
    """A part of a failing sequence that still fails, as short as it gets within so many tries (Zeller's ddmin).

    Args:
        fails: tries a part, from a clean start.
    """
    current, pieces, tries = list(steps), 2, 0
    while len(current) > 1 and tries < most_tries:
        size = -(-len(current) // pieces)
        parts = [current[i : i + size] for i in range(0, len(current), size)]
        rests = [[s for other in parts if other is not part for s in other] for part in parts] if pieces > 2 else []
        smaller = None
        for candidate in [*reversed(parts), *rests]:  # what failed last is the likeliest to fail alone
            tries += 1
            if tries <= most_tries and fails(candidate):
                smaller = candidate
                break
        if smaller is not None:
            current, pieces = smaller, 2
        elif pieces >= len(current):
            break
        else:
            pieces = min(len(current), 2 * pieces)
    return tuple(current)
