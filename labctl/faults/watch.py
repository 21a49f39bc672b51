"""Watching the machines themselves, so that one that goes down unplanned is not taken for the fault under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labctl.faults.ground import Ground
from labctl.history import HistoryWriter, MachineEvent
from labctl.parallel import repeated
from labctl.render.names import domain_name

__all__ = ["watching_machines"]


@contextmanager
def watching_machines(ground: Ground, history: HistoryWriter, *, every_s: float = 1.0) -> Iterator[None]:
    """Record the state of each machine, whenever that changes, for as long as the block lasts."""
    seen: dict[str, str] = {}

    def once() -> None:
        for node in ground.lab.nodes:
            domain = ground.hypervisor.domain(domain_name(ground.lab.name, node.name))
            state = str(domain.state) if domain else "gone"
            if seen.get(node.name) != state:
                seen[node.name] = state
                history.append(MachineEvent(ground.clock.now_s(), node.name, state))

    with repeated(once, "machines", every_s=every_s):
        yield
