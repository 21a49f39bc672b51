"""Watching a cluster's membership, out of band, into the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from labctl.clock import Clock
from labctl.cluster.membership import ClusterView, MemberView
from labctl.history import HistoryWriter, MembershipEvent
from labctl.parallel import repeated

__all__ = ["watching"]


@contextmanager
def watching(
    look: Callable[[], ClusterView], history: HistoryWriter, clock: Clock, *, every_s: float = 1.0
) -> Iterator[None]:
    """Record what each member takes for the living, whenever that changes, for as long as the block lasts.

    Who went and came back between two looks is recorded as well, as gone for the moment before he came back.
    """
    seen: dict[str, MemberView] = {}

    def once() -> None:
        view = look()
        for member in view.members:
            _record(view, member, seen.get(member.node), history, clock)
            seen[member.node] = member

    with repeated(once, "membership", every_s=every_s):
        yield


def _record(
    view: ClusterView, member: MemberView, before: MemberView | None, history: HistoryWriter, clock: Clock
) -> None:
    names = {m.priority: m.node for m in view.cluster.members}

    def seeing(hosts: frozenset[int]) -> MembershipEvent:
        return MembershipEvent(clock.now_s(), view.cluster.name, member.node, tuple(sorted(names[h] for h in hosts)))

    if member.alive is None:
        if before is None or before.alive is not None:
            history.note(f"{member.node}: can't be asked who is alive: {member.why}")
    elif before is None or before.alive is None:
        history.append(seeing(member.alive))
    elif came_back := _came_back(before, member):
        history.append(seeing((before.alive & member.alive) - came_back), seeing(member.alive))
    elif before.alive != member.alive:
        history.append(seeing(member.alive))


def _came_back(before: MemberView, now: MemberView) -> frozenset[int]:
    """Who was there at both looks of a member, and not all the time: since when it serves has become shorter."""
    had, has = (m.knows.serving_s if m.knows else {} for m in (before, now))
    stayed = (before.alive or frozenset()) & (now.alive or frozenset())
    return frozenset(host for host in stayed if has.get(host, 0.0) < had.get(host, 0.0))
