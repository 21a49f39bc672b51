"""The scenario of what a cluster must bear: something is wrong, and nobody, or nobody else, is let down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from failover import LIMITS, kept, web

from labctl.checks import (
    Claim,
    Verdict,
    affinity_kept,
    claim,
    clients_of,
    connections_kept,
    fault_confirmed,
    heal_confirmed,
    machines_lived,
    members_agree,
    members_answer,
    members_stay,
    no_failures,
    only_affected,
    steady_state_restored,
)
from labctl.checks.faults import injection
from labctl.faults import Fault
from labctl.history import History, Window

REJOIN_WITHIN_S = 30.0


@dataclass(frozen=True)
class Disturbance:
    """What is wrong with a member of the first cluster, and what that may do.

    Attributes:
        faults: all of one node, at the same time.
        lasts_s: at least.
        missed: how many times members may miss each other; None where the others have to miss the node: then they take
            it for dead, and reset the connections that it has.
        lets_down: whether the node's own clients may fail.
    """

    faults: Sequence[Fault]
    lasts_s: float
    missed: int | None = 0
    lets_down: bool = False
    limits: dict = field(default_factory=lambda: {"limits": LIMITS})

    def run(self, lab, probe, inject, history, verdict) -> Verdict:
        """Do it under load, and judge what the clients saw; wants the fixture `watch`."""
        round_s = len(kept(lab).sources) * kept(lab).interval_s + 0.5
        with probe(kept(lab)), probe(web(lab)) as serving:
            serving.sample_rounds(1, at_least_s=round_s)
            with inject(*self.faults):
                serving.sample_rounds(1, at_least_s=self.lasts_s)
            healed_s = lab.clock.now_s()
            lab.wait_converged(REJOIN_WITHIN_S)
            settled_s = lab.clock.now_s()
            serving.sample_rounds(1, at_least_s=round_s)
        return verdict(*self.claims(history.read(), lab, healed_s, settled_s))

    def claims(self, seen: History, lab, healed_s: float, settled_s: float) -> tuple[Claim, ...]:
        """What the history has to show."""
        cluster = lab.spec.clusters[0]
        members = [m.node for m in cluster.members]
        node, first = self.faults[0].node, {"fault": self.faults[0].kind, "target": self.faults[0].target}
        begun = injection(seen, **first)
        calm = Window(until_s=begun.at_s)
        agree = claim(members_agree, cluster.name, members, after_s=healed_s, within_s=REJOIN_WITHIN_S + 5.0)
        return (
            *(claim(fault_confirmed, f.kind, f.target) for f in self.faults),
            *(claim(heal_confirmed, f.kind, f.target) for f in self.faults),
            claim(machines_lived),
            claim(members_answer, "web", members, window=calm, **self.limits),
            claim(no_failures, "web", window=calm, **self.limits),
            *self._borne(seen, node, first, begun.at_s),
            *([agree] if self.missed is None else self._stayed(cluster.name, members)),
            claim(steady_state_restored, "web", within_s=max(0.0, settled_s - healed_s) + 1.0, **first, **self.limits),
        )

    def _stayed(self, cluster: str, members: list[str]) -> tuple[Claim, ...]:
        return (
            claim(members_stay, cluster, members, most=self.missed),
            claim(affinity_kept, "web", cluster=cluster, **self.limits),
        )

    def _borne(self, seen: History, node: str, first: dict[str, str], begun_s: float) -> tuple[Claim, ...]:
        theirs = clients_of(seen, "kept", node, before_s=begun_s) if self.lets_down or self.missed is None else ()
        lasting = [s for s in kept_sources(seen) if s not in theirs]
        return (
            claim(only_affected, "web", **first, **self.limits)
            if self.lets_down
            else claim(no_failures, "web", **self.limits),
            claim(connections_kept, "kept", lasting, **self.limits),
        )


def kept_sources(seen: History) -> tuple[str, ...]:
    """The clients whose connections are to last."""
    return tuple(sorted({s.source for s in seen.samples("kept")}))
