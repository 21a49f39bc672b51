"""What faults are done to, and what the ways to do them have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from labctl.clock import Clock, Deadline
from labctl.errors import InputError
from labctl.guest.agent import Guest
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import DomainState
from labctl.render.names import domain_name
from labctl.topology.spec import LabSpec, NicSpec

__all__ = ["Ground", "OnNode", "Seen", "Way"]

Seen = tuple[bool, str]
"""Whether a claim was seen to hold, and what was seen."""


@dataclass(frozen=True)
class Ground:
    """What faults are done to.

    Attributes:
        back_within_s: how long a node that was off may take to answer again.
    """

    lab: LabSpec
    hypervisor: Hypervisor
    guest: Callable[[str], Guest]
    clock: Clock
    back_within_s: float


class Way(Protocol):
    """How a fault is done, seen and undone. `in_effect` and `healed` look at the thing itself.

    Undoing what was never done, or was undone, is fine: a fault may have been begun by somebody who died then.
    """

    def before(self) -> dict[str, str]:
        """What the heal has to know of the time before.

        Raises:
            InputError: it can't be done here, and would have no effect.
        """
        ...

    def inject(self) -> None: ...
    def in_effect(self) -> Seen: ...
    def heal(self) -> None: ...
    def healed(self) -> Seen: ...


class OnNode:
    """A way to break one node."""

    def __init__(self, ground: Ground, node: str, before: Mapping[str, str]) -> None:
        known = [n.name for n in ground.lab.nodes]
        if node not in known:
            raise InputError(f"lab {ground.lab.name} has no node {node}", hint=f"its nodes: {', '.join(known)}")
        self._ground = ground
        self._spec = ground.lab.node(node)
        self._node = node
        self._known = before
        self._guest = ground.guest(node)
        self._domain = domain_name(ground.lab.name, node)
        self._hypervisor = ground.hypervisor

    def before(self) -> dict[str, str]:
        return {}

    def _state(self) -> DomainState | None:
        domain = self._hypervisor.domain(self._domain)
        return domain.state if domain else None

    def _is(self, state: DomainState) -> Seen:
        seen = self._state()
        return seen is state, f"the domain is {seen or 'gone'}"

    def _answers(self) -> Seen:
        why_not = self._guest.answers()
        return not why_not, why_not or "its agent answers"

    def _await_agent(self) -> None:
        self._guest.wait_for_agent(Deadline.within(self._ground.back_within_s, self._ground.clock))

    def _nic(self, name: str) -> NicSpec:
        nics = {n.name: n for n in self._spec.nics}
        if name not in nics:
            raise InputError(f"node {self._node} has no NIC {name}", hint=f"its NICs: {', '.join(nics)}")
        return nics[name]

    def _sh(self, script: str, *arguments: str, within_s: float = 60.0) -> tuple[int, str]:
        """A shell script in the guest: its exit code and what it said, in one line."""
        done = self._guest.run(["/bin/sh", "-c", script, "sh", *arguments], within_s=within_s)
        said = (done.stdout + done.stderr).decode(errors="replace")
        return done.exit_code, " ".join(said.split())

    def _do(self, script: str, *arguments: str, within_s: float = 60.0) -> None:
        """A shell script in the guest that must succeed."""
        self._guest.succeed(["/bin/sh", "-c", script, "sh", *arguments], within_s=within_s)
