"""Members: making a node one, and what each of them sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from labctl.clock import Deadline, wait_until
from labctl.cluster.ownership import buckets_owned, preferences_of_rule
from labctl.cluster.render import member_files
from labctl.errors import CommandFailed, LabError
from labctl.guest.agent import Guest
from labctl.topology.spec import ClusterSpec, Filtering, LabSpec, NodeSpec

__all__ = ["ClusterView", "MemberView", "join", "look", "wait_converged"]


@dataclass(frozen=True, slots=True)
class MemberView:
    """What one member sees.

    Attributes:
        alive: the host IDs heard from within the heartbeat's bound, its own included; None if it can't be asked.
        why: why it can't be asked.
    """

    node: str
    priority: int
    alive: frozenset[int] | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What all members see, at about the same time."""

    cluster: ClusterSpec
    members: tuple[MemberView, ...]

    @property
    def reachable(self) -> frozenset[int]:
        """Host IDs of the members that can be asked."""
        return frozenset(m.priority for m in self.members if m.alive is not None)

    @property
    def converged(self) -> bool:
        """Whether every member can be asked and all of them see all of them."""
        everyone = frozenset(m.priority for m in self.cluster.members)
        return all(m.alive == everyone for m in self.members)

    @property
    def agreed(self) -> frozenset[int] | None:
        """The living host IDs, where the members that can be asked agree on them and they are just those; else None."""
        seen = {m.alive for m in self.members if m.alive is not None}
        return self.reachable if seen == {self.reachable} else None

    @property
    def owned(self) -> dict[str, dict[str, int]]:
        """By port rule, how many buckets each living member owns, as long as the members agree; else empty."""
        if self.agreed is None:
            return {}
        names = {m.priority: m.node for m in self.cluster.members}
        table = {}
        for rule in self.cluster.port_rules:
            if rule.filtering is Filtering.DISABLED:
                continue
            shares = buckets_owned(preferences_of_rule(self.cluster, rule), self.agreed)
            table[f"{rule.first_port}-{rule.last_port}/{rule.protocol}"] = {
                names[h]: n for h, n in sorted(shares.items())
            }
        return table

    def __str__(self) -> str:
        def one(member: MemberView) -> str:
            if member.alive is None:
                return f"{member.node}: {member.why}"
            return f"{member.node} sees {sorted(member.alive) or 'nobody'}"

        return "; ".join(one(m) for m in self.members)


def join(guest: Guest, lab: LabSpec, node: NodeSpec) -> None:
    """Make the node a member of its clusters: files, packet filter, heartbeat.

    Loading the packet filter again keeps what it knows of the living, so that a changed rule moves nothing else.

    Raises:
        CommandFailed: a step failed in the guest, with what it said.
    """
    files = member_files(lab, node)
    guest.write_files({path: (text.encode(), mode) for path, (text, mode) in files.items()})
    for path in sorted(p for p in files if "/boot.d/" in p):
        guest.succeed([path])
    guest.succeed(["/usr/sbin/keepalived", "--config-test", "--use-file", "/etc/keepalived/keepalived.conf"])
    guest.succeed(["/usr/lib/labctl/service", "restart", "keepalived"])


def look(cluster: ClusterSpec, guests: Mapping[str, Callable[[], Guest]]) -> ClusterView:
    """Ask every member what it sees; a member that can't be asked is part of the answer."""
    return ClusterView(cluster, tuple(_ask(cluster, m.node, m.priority, guests[m.node]) for m in cluster.members))


def _ask(cluster: ClusterSpec, node: str, priority: int, guest: Callable[[], Guest]) -> MemberView:
    command = ["/usr/sbin/nft", "--json", "list", "set", "ip", f"labctl_{cluster.name}", "alive"]
    try:
        listed = json.loads(guest().succeed(command, within_s=20.0))
    except CommandFailed:
        return MemberView(node, priority, None, "its packet filter is not loaded")
    except LabError as error:
        return MemberView(node, priority, None, str(error).splitlines()[0])
    elements = next(item["set"] for item in listed["nftables"] if "set" in item).get("elem", [])
    return MemberView(node, priority, frozenset(_host_id(e) for e in elements))


def _host_id(element: object) -> int:
    """An element of the set: a bare mark, or one with its timeout around it."""
    value = element["elem"]["val"] if isinstance(element, dict) else element
    return int(str(value), 0)


def wait_converged(cluster: ClusterSpec, guests: Mapping[str, Callable[[], Guest]], deadline: Deadline) -> ClusterView:
    """Wait until every member sees every member.

    Raises:
        DeadlineExceeded: with what each member saw last.
    """

    def probe() -> tuple[ClusterView | None, str]:
        view = look(cluster, guests)
        return (view if view.converged else None), str(view)

    return wait_until(f"cluster {cluster.name}: all members see each other", probe, deadline, every_s=0.5)
