"""How a node is doing, in one word."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.inventory import DomainInfo, DomainState, Stage
from labctl.topology.spec import NodeSpec

__all__ = ["NodeStatus"]


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
