"""Members: making a node one, and what each of them sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from labctl.clock import Deadline, wait_until
from labctl.cluster.advert import key_of
from labctl.cluster.knowledge import Knowledge, Word, read_knowledge
from labctl.cluster.ownership import buckets_owned, preferences_of_rule
from labctl.cluster.render import leftovers, member_files, table_of
from labctl.errors import CommandFailed, LabError
from labctl.guest.agent import Guest
from labctl.parallel import for_all
from labctl.topology.spec import ClusterSpec, Filtering, LabSpec, NodeSpec, PortRule

__all__ = ["ClusterView", "MemberState", "MemberView", "join", "look", "wait_converged", "wait_settled"]

KEEPALIVED = "/etc/keepalived/keepalived.conf"
JOIN_WITHIN_S = 300.0  # of each step of it: in 32 emulated guests at once, the packet filter takes minutes to load


class MemberState(StrEnum):
    """How a member is doing, in NLB's words where it has one."""

    CONVERGED = "converged"
    CONVERGING = "converging"
    DRAINING = "draining"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


_STATES = {
    Word.STOPPED: MemberState.STOPPED,
    Word.DISABLED: MemberState.STOPPED,
    Word.SUSPENDED: MemberState.SUSPENDED,
    Word.REFUSED: MemberState.REFUSED,
    Word.DRAINING: MemberState.DRAINING,
}


@dataclass(frozen=True, slots=True)
class MemberView:
    """What one member sees.

    Attributes:
        knows: None if it can't be asked.
        why: why it can't be asked.
    """

    node: str
    priority: int
    knows: Knowledge | None
    why: str = ""

    @property
    def alive(self) -> frozenset[int] | None:
        """The host IDs that serve, as it sees it; None if it can't be asked."""
        return self.knows.alive if self.knows else None

    @property
    def takes_part(self) -> bool:
        """Whether it can be asked, and serves or is about to."""
        return self.knows is not None and self.knows.whole is None and not self.kept_out

    def fails(self, rule: PortRule) -> bool:
        """Whether its health check says that it can't serve that rule."""
        if self.knows is None or rule.health is None or key_of(rule) in self.knows.told:
            return False
        return self.priority in self.knows.held_of(rule)

    @property
    def kept_out(self) -> bool:
        """Whether it holds back because another member serves by other rules."""
        return self.knows is not None and 0 in self.knows.strangers and self.priority not in self.knows.alive


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What all members see, at about the same time."""

    cluster: ClusterSpec
    members: tuple[MemberView, ...]

    @property
    def serving(self) -> frozenset[int]:
        """Host IDs of the members that can be asked, and serve or are about to."""
        return frozenset(m.priority for m in self.members if m.takes_part)

    @property
    def digests(self) -> dict[str, int]:
        """The digests of the rules that the members have, by node."""
        return {m.node: m.knows.digest for m in self.members if m.knows and m.knows.digest is not None}

    @property
    def same_rules(self) -> bool:
        """Whether all that can be asked have the same rules."""
        return len(set(self.digests.values())) < 2

    @property
    def settled(self) -> bool:
        """Whether all that can be asked agree on who serves what, and it is just those who should."""
        return all(m.alive == self.serving and self._knows_who_holds(m.knows) for m in self.members if m.knows)

    def _knows_who_holds(self, knows: Knowledge) -> bool:
        return all(knows.held_of(rule) & self.serving == self._holding(rule) for rule in self.cluster.port_rules)

    def _holding(self, rule: PortRule) -> frozenset[int]:
        """The serving members that were told not to serve that rule, or can't."""
        told = {m.priority for m in self.members if m.knows and key_of(rule) in m.knows.told}
        return self.serving & (told | {m.priority for m in self.members if m.fails(rule)})

    @property
    def converged(self) -> bool:
        """Whether every member can be asked, none is refused, they have the same rules, and see the same members."""
        wrong = {MemberState.REFUSED, MemberState.UNREACHABLE}
        return self.settled and self.same_rules and not any(self.state_of(m) in wrong for m in self.members)

    @property
    def agreed(self) -> frozenset[int] | None:
        """The host IDs that serve, where those that can be asked agree that it is just them; else None."""
        return self.serving if self.settled and self.serving else None

    @property
    def owned(self) -> dict[str, dict[str, int]]:
        """By port rule, how many buckets each serving member owns, as long as the members agree; else empty."""
        names = {m.priority: m.node for m in self.cluster.members}
        table = {}
        for rule in self.cluster.port_rules if self.agreed else ():
            if rule.filtering is not Filtering.DISABLED:
                shares = buckets_owned(preferences_of_rule(self.cluster, rule), self.serves(rule))
                table[rule.title] = {names[h]: n for h, n in sorted(shares.items())}
        return table

    def serves(self, rule: PortRule | None) -> frozenset[int]:
        """The host IDs that serve a rule, or what no rule covers, as far as they can be asked."""
        held = {host for m in self.members if m.knows and rule for host in m.knows.held_of(rule)}
        return self.serving - held

    def member(self, node: str) -> MemberView:
        """What that node sees; KeyError if it is no member."""
        found = {m.node: m for m in self.members}
        return found[node]

    def state_of(self, member: MemberView) -> MemberState:
        """How a member is doing."""
        if member.knows is None:
            return MemberState.UNREACHABLE
        if member.knows.whole:
            return _STATES[member.knows.whole.word]
        if member.kept_out:
            return MemberState.REFUSED
        agrees = self.same_rules and member.alive == self.serving
        return MemberState.CONVERGED if agrees else MemberState.CONVERGING

    def why(self, member: MemberView) -> str:
        """Why a member is in the state that it is in, where there is more to say."""
        if member.knows is None:
            return member.why
        if member.knows.whole:
            return member.knows.whole.why
        if member.kept_out:
            names = {m.priority: m.node for m in self.cluster.members}
            others = ", ".join(names[h] for h in sorted(member.knows.strangers) if h in names)
            return f"its rules are not those of {others}"
        return ""

    def since_s(self, member: MemberView, *, now_s: float) -> float | None:
        """For how many seconds a member has been in its state, as far as it knows; `now_s` since the epoch."""
        if member.knows is None:
            return None
        if member.knows.whole:
            return max(0.0, now_s - member.knows.whole.at_s) if member.knows.whole.at_s else None
        came = [s for h, s in member.knows.serving_s.items() if h in member.knows.alive]
        left = [s for h, s in member.knows.heard_s.items() if h not in member.knows.alive]
        return min(came + left, default=None)

    def __str__(self) -> str:
        def one(member: MemberView) -> str:
            state = self.state_of(member)
            if state not in {MemberState.CONVERGED, MemberState.CONVERGING}:
                return f"{member.node}: {self.why(member) or state}"
            return f"{member.node} sees {sorted(member.alive or ()) or 'nobody'}"

        return "; ".join(one(m) for m in self.members)


def join(guest: Guest, lab: LabSpec, node: NodeSpec) -> None:
    """Make the node a member of its clusters: files, packet filter, heartbeat.

    Loading the packet filter again keeps what it knows of the living, and a heartbeat that would be the same goes on: a
    changed rule moves nothing else.

    Raises:
        CommandFailed: a step failed in the guest, with what it said.
    """
    files = member_files(lab, node)
    beats = _beats(guest, files[KEEPALIVED][0])
    guest.write_files({path: (text.encode(), mode) for path, (text, mode) in files.items()})
    for path in sorted(p for p in files if "/boot.d/" in p):
        guest.succeed([path], within_s=JOIN_WITHIN_S)
    guest.succeed(["/bin/sh"], stdin=leftovers(lab, node).encode())
    if not beats:
        guest.succeed(["/usr/sbin/keepalived", "--config-test", "--use-file", KEEPALIVED], within_s=JOIN_WITHIN_S)
        guest.succeed(["/usr/lib/labctl/service", "restart", "keepalived"], within_s=JOIN_WITHIN_S)


def _beats(guest: Guest, configuration: str) -> bool:
    """Whether keepalived runs with just that configuration."""
    same = f"cmp -s - {KEEPALIVED} && /usr/lib/labctl/service status keepalived"
    return guest.run(["/bin/sh", "-c", same], stdin=configuration.encode()).exit_code == 0


def look(cluster: ClusterSpec, guests: Mapping[str, Callable[[], Guest]]) -> ClusterView:
    """Ask every member what it sees, all at once; a member that can't be asked is part of the answer."""
    views: dict[str, MemberView] = {}
    hosts = {m.node: m.priority for m in cluster.members}

    def ask(node: str) -> None:
        views[node] = _ask(cluster, node, hosts[node], guests[node])

    for_all(ask, hosts)
    return ClusterView(cluster, tuple(views[node] for node in hosts))


def _ask(cluster: ClusterSpec, node: str, priority: int, guest: Callable[[], Guest]) -> MemberView:
    command = ["/usr/sbin/nft", "list", "sets", "table", *table_of(cluster).split()]
    try:
        listed = guest().succeed(command, within_s=20.0)
    except CommandFailed:
        return MemberView(node, priority, None, "its packet filter is not loaded")
    except LabError as error:
        return MemberView(node, priority, None, str(error).splitlines()[0])
    return MemberView(node, priority, read_knowledge(listed))


def wait_converged(cluster: ClusterSpec, guests: Mapping[str, Callable[[], Guest]], deadline: Deadline) -> ClusterView:
    """Wait until every member sees every member that was not told to stay out.

    Raises:
        DeadlineExceeded: with what each member saw last.
    """

    def probe() -> tuple[ClusterView | None, str]:
        view = look(cluster, guests)
        return (view if view.converged else None), str(view)

    return wait_until(f"cluster {cluster.name}: all members see each other", probe, deadline, every_s=0.5)


def wait_settled(cluster: ClusterSpec, guests: Mapping[str, Callable[[], Guest]], deadline: Deadline) -> ClusterView:
    """Wait until the members that can be asked agree on who serves.

    Raises:
        DeadlineExceeded: with what each member saw last.
    """

    def probe() -> tuple[ClusterView | None, str]:
        view = look(cluster, guests)
        return (view if view.settled else None), str(view)

    return wait_until(f"cluster {cluster.name}: the members agree on who serves", probe, deadline, every_s=0.2)
