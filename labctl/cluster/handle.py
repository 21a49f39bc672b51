"""A cluster of a lab that is up, for those who look at it and tell it what to do: NLB's verbs, out of band."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from labctl.clock import Clock, Deadline
from labctl.cluster.control import Control, Order, drainstop, give, rules_named
from labctl.cluster.membership import ClusterView, look, wait_converged, wait_settled
from labctl.errors import GuestError, InputError
from labctl.guest.agent import Guest
from labctl.topology.spec import ClusterSpec

__all__ = ["SETTLES_WITHIN_S", "Cluster"]

SETTLES_WITHIN_S = 20.0  # beside the heartbeat's bound; emulated guests answer slowly


class Cluster:
    """One cluster.

    Args:
        guests: what asks each member, by node.
    """

    def __init__(self, spec: ClusterSpec, guests: Mapping[str, Callable[[], Guest]], clock: Clock) -> None:
        self.spec = spec
        self._guests, self._clock = guests, clock
        self._told: dict[str, None] = {}

    def look(self) -> ClusterView:
        """What the members see now."""
        return look(self.spec, self._guests)

    def wait_converged(self, within_s: float = 120.0) -> ClusterView:
        """Wait until every member sees every member that was not told to stay out.

        Raises:
            DeadlineExceeded: with what each member saw last.
        """
        return wait_converged(self.spec, self._guests, Deadline.within(within_s, self._clock))

    def tell(self, verb: str, *nodes: str, port: str = "") -> ClusterView:
        """Tell members, all of them by default, what `labctl cluster VERB` does, and wait until they agree on it.

        `drainstop` has a wait of its own, which is `drain_and_stop`.

        Args:
            verb: `start`, `stop`, `suspend`, `resume`; with a port, `enable`, `disable` or `drain`.
            port: the port rules that are meant: `443`, `443/tcp`, `all`.

        Raises:
            GuestError: members that ignored it, and why; the others did it.
            LabError, ExceptionGroup: a member could not be told, or may not start.
        """
        told = self._nodes(nodes)
        ignored = give(
            self.spec, self._guests, Order(Control(verb), told, rules_named(self.spec, port) if port else ())
        )
        return self._settled(ignored)

    def drain_and_stop(self, *nodes: str, within_s: float = 60.0) -> ClusterView:
        """Drain members, wait until their connections have ended, and stop them.

        Raises:
            DeadlineExceeded: how many connections are left on a member, which goes on draining.
        """
        return self._settled(
            drainstop(self.spec, self._guests, self._nodes(nodes), Deadline.within(within_s, self._clock))
        )

    def serve_again(self) -> None:
        """Take back whatever members were told by way of this object."""
        nodes = tuple(self._told)
        for verb, rules in ((Control.RESUME, ()), (Control.ENABLE, rules_named(self.spec, "all")), (Control.START, ())):
            if nodes:
                give(self.spec, self._guests, Order(verb, nodes, rules))
        if nodes:
            self.wait_converged()
        self._told.clear()

    def _nodes(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        known = [m.node for m in self.spec.members]
        if strangers := [node for node in nodes if node not in known]:
            unknown = f"cluster {self.spec.name} has no member {', '.join(strangers)}"
            raise InputError(unknown, hint=f"its members: {', '.join(known)}")
        self._told.update(dict.fromkeys(nodes or known))
        return nodes or tuple(known)

    def _settled(self, ignored: Mapping[str, str]) -> ClusterView:
        deadline = Deadline.within(self.spec.heartbeat.down_after_s + SETTLES_WITHIN_S, self._clock)
        view = wait_settled(self.spec, self._guests, deadline)
        if ignored:
            raise GuestError("; ".join(f"{node}: {why}" for node, why in ignored.items()))
        return view
