"""The scenario of the failover tests on tiny guests: a member breaks under load and comes back. True and sabotaged
tests run the same one, so that a scenario that can't fail would show."""

from __future__ import annotations

from labctl.checks import (
    Finding,
    Result,
    SamplerLimits,
    Verdict,
    affinity_kept,
    clients_of,
    fault_confirmed,
    heal_confirmed,
    judge,
    members_answer,
    no_failures,
    recovers_within,
    summary,
)
from labctl.clock import Deadline, wait_until
from labctl.errors import DeadlineExceeded
from labctl.faults import Fault, PowerOff
from labctl.history import FaultPhase, History, Window
from labctl.probes.probe import Kind, Probe

TIMEOUT_S = 0.9
# Three emulated guests on few cores: the client pauses now and then, and from so much on nothing is concluded.
LIMITS = SamplerLimits(rate_share=0.9, gap_s=2.0, late_share=0.25)


def web(lab, *, clients=30, rate_hz=20.0) -> Probe:
    """HTTP to the virtual address from many source addresses, at a fixed rate."""
    cluster = lab.spec.clusters[0]
    sources = lab.spec.node("client").nics[0].extra_addresses[:clients]
    return Probe(
        name="web",
        kind=Kind.HTTP,
        address=str(cluster.address.ip),
        port=80,
        host=cluster.fqdn,
        sources=tuple(str(a) for a in sources),
        rate_hz=rate_hz,
        timeout_s=TIMEOUT_S,
        late_s=0.5,
    )


def a_member_breaks_and_comes_back(fault: Fault, lab, probe, inject, history) -> Verdict:
    """Inject the fault under load, heal it, and judge what the clients saw."""
    spec = web(lab)
    with probe(spec):
        sampled_for(lab, history, spec, rounds=2)
        with inject(fault):
            sampled_for(lab, history, spec, rounds=3, at_least_s=3 * lab.spec.clusters[0].heartbeat.down_after_s)
        converged = _converges(lab, 60.0 if isinstance(fault, PowerOff) else 10.0)
        rejoined_s = lab.clock.now_s()
        sampled_for(lab, history, spec, rounds=3)
    verdict = _verdict(fault, lab.spec.clusters[0], history.read(), rejoined_s, converged)
    print(summary(verdict))
    return verdict


def _verdict(fault: Fault, cluster, seen: History, rejoined_s: float, converged: Finding) -> Verdict:
    members = [m.node for m in cluster.members]
    injected = next(e for e in seen.faults(fault.kind, fault.node) if e.phase is FaultPhase.INJECTED)
    theirs = clients_of(seen, "web", fault.node, before_s=injected.at_s)
    others = [s for s in web_sources(seen) if s not in theirs]
    # The last failed request gives up TIMEOUT_S after it began; the rest is for a busy host.
    bound_s = cluster.heartbeat.down_after_s + TIMEOUT_S + 2.0
    return judge(
        fault_confirmed(seen, fault.kind, fault.node),
        heal_confirmed(seen, fault.kind, fault.node),
        converged,
        members_answer(seen, "web", members, window=Window(until_s=injected.at_s), limits=LIMITS),
        no_failures(seen, "web", others, window=Window(until_s=injected.at_s + bound_s), limits=LIMITS),
        recovers_within(seen, "web", theirs, fault=fault.kind, target=fault.node, bound_s=bound_s, limits=LIMITS),
        members_answer(seen, "web", members, window=Window(from_s=rejoined_s), limits=LIMITS),
        no_failures(seen, "web", window=Window(from_s=rejoined_s), limits=LIMITS),
        affinity_kept(seen, "web", window=Window(from_s=rejoined_s), cluster=cluster.name, limits=LIMITS),
        evidence=seen.path,
    )


def web_sources(seen: History) -> tuple[str, ...]:
    return tuple(seen.by_source("web"))


def _converges(lab, within_s: float) -> Finding:
    check = f"the members see each other again within {within_s:.0f} s"
    try:
        lab.wait_converged(within_s)
    except DeadlineExceeded as late:
        return Finding(check, Result.FAIL, str(late))
    return Finding(check, Result.PASS, "they do")


def sampled_for(lab, history, spec, *, rounds, at_least_s=0.0) -> None:
    """Let the probe go round its clients so many times, as counted by what it has written."""
    began_s = lab.clock.now_s()
    wanted = rounds * len(spec.sources)

    def enough():
        fresh = sum(1 for s in history.read().samples(spec.name) if s.at_s >= began_s)
        done = fresh >= wanted and lab.clock.now_s() >= began_s + at_least_s
        return (True if done else None), f"{fresh} samples"

    wait_until(f"probe {spec.name}: {wanted} samples", enough, Deadline.within(120, lab.clock), every_s=0.5)
