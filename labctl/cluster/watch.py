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
    """Record what each member takes for the living, whenever that changes, for as long as the block lasts."""
    seen: dict[str, tuple[str, ...] | None] = {}

    def once() -> None:
        view = look()
        for member in view.members:
            _record(view, member, seen, history, clock)

    with repeated(once, "membership", every_s=every_s):
        yield


def _record(
    view: ClusterView,
    member: MemberView,
    seen: dict[str, tuple[str, ...] | None],
    history: HistoryWriter,
    clock: Clock,
) -> None:
    names = {m.priority: m.node for m in view.cluster.members}
    alive = tuple(sorted(names[p] for p in member.alive)) if member.alive is not None else None
    if member.node in seen and seen[member.node] == alive:
        return
    seen[member.node] = alive
    if alive is None:
        history.note(f"{member.node}: can't be asked who is alive: {member.why}")
    else:
        history.append(MembershipEvent(clock.now_s(), view.cluster.name, member.node, alive))
