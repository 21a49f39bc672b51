"""How a node is doing: in one word, and what it said last."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import DomainInfo, DomainState, Stage
from labctl.render.names import console_log_name
from labctl.topology.spec import NodeSpec

__all__ = ["NodeStatus", "console_tail"]

CONSOLE_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How a node is doing.

    Attributes:
        domain: as libvirt sees it; None when there is none.
        answers: whether its guest agent does.
        state: one word for people: missing, shut off, paused, crashed, hung, preparing, ready.
    """

    node: NodeSpec
    domain: DomainInfo | None
    answers: bool

    @property
    def state(self) -> str:
        if self.domain is None:
            return "missing"
        if self.domain.state is not DomainState.RUNNING:
            return str(self.domain.state)
        if not self.answers:
            return "hung"
        mark = self.domain.mark
        return "ready" if mark and mark.stage is Stage.READY else "preparing"


def console_tail(hypervisor: Hypervisor, lab: str, node: str, *, size_bytes: int = CONSOLE_TAIL_BYTES) -> str:
    """The end of what a node said on its serial console; empty when nothing was kept."""
    log = hypervisor.volume(console_log_name(lab, node))
    if log is None or not log.capacity_bytes:
        return ""
    start = max(0, log.capacity_bytes - size_bytes)
    return b"".join(hypervisor.download_volume(log.name, offset=start)).decode(errors="replace")
