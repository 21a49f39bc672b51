"""The scenario of the failover tests: a member breaks under load and comes back. True and sabotaged tests run the same
one, on tiny guests and on the real lab, so that a scenario that can't fail would show."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass

from labctl.checks import (
    Claim,
    SamplerLimits,
    Verdict,
    affinity_kept,
    claim,
    clients_of,
    connections_kept,
    fault_confirmed,
    heal_confirmed,
    interrupted_at_most,
    machines_lived,
    members_agree,
    members_answer,
    no_failures,
    only_affected,
    recovers_unaided,
    recovers_within,
    steady_state_restored,
)
from labctl.checks.faults import injection, phase_after
from labctl.errors import DeadlineExceeded
from labctl.faults import Fault
from labctl.history import FaultPhase, History, Window
from labctl.probes.probe import Probe
from labctl.topology.spec import ClusterSpec


@dataclass(frozen=True)
class Takeover:
    """What breaks, and how it is looked at.

    Attributes:
        serves: asks for the service, and learns who answers.
        connects: asks often enough to time the outage; the same one where that is cheap.
        keeps: asks on connections that last.
        limits: from so much on, nothing is concluded: guests that are emulated on few cores pause now and then.
        rejoin_within_s: from the heal until the members see each other.
        alone: the member runs on, with its link up, and takes all for its own, until it hears the others again: in that
            moment it answers, and resets, their clients as well.
    """

    fault: Fault
    cluster: ClusterSpec
    serves: Probe
    connects: Probe
    keeps: Probe
    limits: SamplerLimits
    rejoin_within_s: float
    alone: bool = False

    @property
    def bound_s(self) -> float:
        """The longest outage: the heartbeat's, and the last failed request gives up `timeout_s` after it began.

        The rest is for a busy host: the bound has to tell a broken takeover from a slow one.
        """
        return self.cluster.heartbeat.down_after_s + self.connects.timeout_s + 2.0

    def run(self, lab, probe, inject, history, verdict) -> Verdict:
        """Inject the fault under load, heal it, and judge what the clients saw; wants the fixture `watch`."""
        with ExitStack() as stack:
            for spec in dict.fromkeys([self.keeps, self.connects, self.serves]):
                serving = stack.enter_context(probe(spec))
            serving.sample_rounds(2)
            with inject(self.fault):
                serving.sample_rounds(3, at_least_s=3 * self.cluster.heartbeat.down_after_s)
            healed_s = lab.clock.now_s()
            with suppress(DeadlineExceeded):  # the history says so, too, and is judged
                lab.wait_converged(self.rejoin_within_s)
            rejoined_s = lab.clock.now_s()
            serving.sample_rounds(3)
        return verdict(*self.claims(history.read(), healed_s, rejoined_s))

    def claims(self, seen: History, healed_s: float, rejoined_s: float) -> tuple[Claim, ...]:
        """What the history has to show."""
        name, when, limits = self.serves.name, self.connects.name, {"limits": self.limits}
        fault = {"fault": self.fault.kind, "target": self.fault.target}
        begun = injection(seen, **fault)
        members = [m.node for m in self.cluster.members]
        theirs = clients_of(seen, name, self.fault.node, before_s=begun.at_s)
        others = [m for m in members if m != self.fault.node]
        kept = [
            source for member in others for source in clients_of(seen, self.keeps.name, member, before_s=begun.at_s)
        ]
        before, after = Window(until_s=begun.at_s), Window(from_s=rejoined_s)
        over_s = phase_after(seen, begun, FaultPhase.HEALED).at_s
        taken_over = Window(begun.at_s + self.bound_s, over_s)
        lasting = Window(until_s=over_s) if self.alone else Window()
        heard_within_s = self.cluster.heartbeat.period_ms / 1000 + 2.0
        returns = claim(interrupted_at_most, name, window=Window(over_s), bound_s=heard_within_s, **limits)
        return (
            claim(fault_confirmed, **fault),
            claim(heal_confirmed, **fault),
            claim(machines_lived),
            claim(members_answer, name, members, window=before, **limits),
            claim(no_failures, name, window=before, **limits),
            claim(only_affected, name, **fault, **limits),
            claim(connections_kept, self.keeps.name, kept, window=lasting, **limits),
            *([returns] if self.alone else []),
            claim(recovers_within, when, theirs, bound_s=self.bound_s, **fault, **limits),
            claim(recovers_unaided, name, **fault, **limits),
            claim(members_answer, name, others, window=taken_over, **limits),
            claim(members_agree, self.cluster.name, members, after_s=healed_s, within_s=self.rejoin_within_s + 5.0),
            claim(members_answer, name, members, window=after, **limits),
            claim(no_failures, name, window=after, **limits),
            claim(affinity_kept, name, window=after, cluster=self.cluster.name, **limits),
            claim(steady_state_restored, name, within_s=max(0.0, rejoined_s - healed_s), **fault, **limits),
        )
