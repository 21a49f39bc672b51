"""Injecting faults: each is confirmed to be in effect, recorded, and healed on every way out; the heal is confirmed.

All three are kept by libvirt itself (a domain that is off or paused, a link that is down), so when the harness dies in
between, `labctl up` finds and heals them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from labctl.clock import Clock, Deadline, wait_until
from labctl.errors import DeadlineExceeded, InputError, LabError
from labctl.faults.model import Fault, LinkDown, Pause, PowerOff
from labctl.guest.agent import Guest
from labctl.history import FaultEvent, FaultPhase, HistoryWriter
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import DomainState
from labctl.render.names import domain_name
from labctl.topology.spec import LabSpec

__all__ = ["Ground", "confirm", "heal", "inject", "injected"]

CONFIRM_WITHIN_S = 10.0


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


class _Way(Protocol):
    """How a kind of fault is done, seen and undone."""

    def inject(self) -> None: ...
    def in_effect(self) -> tuple[bool, str]: ...
    def heal(self) -> None: ...
    def healed(self) -> tuple[bool, str]: ...


def _way(fault: Fault, ground: Ground) -> _Way:
    known = [n.name for n in ground.lab.nodes]
    if fault.node not in known:
        raise InputError(
            f"{fault}: lab {ground.lab.name} has no node {fault.node}", hint=f"its nodes: {', '.join(known)}"
        )
    match fault:
        case PowerOff():
            return _PowerOff(fault, ground)
        case Pause():
            return _Pause(fault, ground)
        case LinkDown():
            return _LinkDown(fault, ground)


class _Domain:
    def __init__(self, fault: Fault, ground: Ground) -> None:
        self._ground = ground
        self._guest = ground.guest(fault.node)
        self._name = domain_name(ground.lab.name, fault.node)
        self._hypervisor = ground.hypervisor

    def _state(self) -> DomainState | None:
        domain = self._hypervisor.domain(self._name)
        return domain.state if domain else None

    def _is(self, state: DomainState) -> tuple[bool, str]:
        seen = self._state()
        return seen is state, f"the domain is {seen or 'gone'}"

    def _answers(self) -> tuple[bool, str]:
        why_not = self._guest.answers()
        return not why_not, why_not or "its agent answers"


class _PowerOff(_Domain):
    def inject(self) -> None:
        self._hypervisor.power_off(self._name)

    def in_effect(self) -> tuple[bool, str]:
        return self._is(DomainState.SHUT_OFF)

    def heal(self) -> None:
        if self._state() is not DomainState.RUNNING:
            self._hypervisor.start_domain(self._name)

    def healed(self) -> tuple[bool, str]:
        return self._answers()


class _Pause(_Domain):
    def inject(self) -> None:
        self._hypervisor.suspend(self._name)

    def in_effect(self) -> tuple[bool, str]:
        return self._is(DomainState.PAUSED)

    def heal(self) -> None:
        self._hypervisor.resume(self._name)

    def healed(self) -> tuple[bool, str]:
        return self._answers()


class _LinkDown(_Domain):
    def __init__(self, fault: LinkDown, ground: Ground) -> None:
        super().__init__(fault, ground)
        nics = {n.name: n.mac for n in ground.lab.node(fault.node).nics}
        if fault.nic not in nics:
            raise InputError(f"{fault}: node {fault.node} has no NIC {fault.nic}", hint=f"its NICs: {', '.join(nics)}")
        self._mac = nics[fault.nic]
        self._carrier = f"/sys/class/net/{fault.nic}/carrier"

    def _seen(self, wanted: str) -> tuple[bool, str]:
        seen = self._guest.succeed(["/bin/cat", self._carrier])
        return seen == wanted, f"the guest sees carrier {seen}"

    def inject(self) -> None:
        self._hypervisor.set_link(self._name, self._mac, up=False)

    def in_effect(self) -> tuple[bool, str]:
        return self._seen("0")

    def heal(self) -> None:
        self._hypervisor.set_link(self._name, self._mac, up=True)

    def healed(self) -> tuple[bool, str]:
        return self._seen("1")


def inject(fault: Fault, ground: Ground, history: HistoryWriter) -> None:
    """Do it, and record when; see `confirm`."""
    way = _way(fault, ground)
    # Recorded as of before the call: the effect comes at some time during it, never before.
    at_s = ground.clock.now_s()
    way.inject()
    history.append(FaultEvent(at_s, fault.kind, fault.node, FaultPhase.INJECTED))


def confirm(fault: Fault, ground: Ground, history: HistoryWriter) -> None:
    """See whether it took effect, and record what was seen; an unconfirmed fault makes every verdict INCONCLUSIVE."""
    seen, what = _watch(
        f"{fault.node}: {fault.kind} is in effect", _way(fault, ground).in_effect, CONFIRM_WITHIN_S, ground
    )
    phase = FaultPhase.CONFIRMED if seen else FaultPhase.UNCONFIRMED
    history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.node, phase, what))


def heal(fault: Fault, ground: Ground, history: HistoryWriter) -> None:
    """Undo it, and see that it is undone.

    Raises:
        DeadlineExceeded: the node did not come back; recorded as well.
    """
    way = _way(fault, ground)
    history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.node, FaultPhase.HEALED))
    try:
        way.heal()
        seen, what = _watch(f"{fault.node}: {fault.kind} is healed", way.healed, ground.back_within_s, ground)
    except LabError as failure:
        history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.node, FaultPhase.HEAL_FAILED, str(failure)))
        raise
    phase = FaultPhase.HEAL_CONFIRMED if seen else FaultPhase.HEAL_FAILED
    history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.node, phase, what))
    if not seen:
        raise DeadlineExceeded(
            f"{fault.node}: {fault.kind} could not be healed: {what}", hint="labctl up mends the lab"
        )


@contextmanager
def injected(fault: Fault, ground: Ground, history: HistoryWriter) -> Iterator[None]:
    """The fault is in effect inside the block, and healed after it, however the block ends.

    A heal that fails is raised; where the block itself raised, it is added to that as a note, so as not to hide it.
    """
    try:
        inject(fault, ground, history)
        confirm(fault, ground, history)
        yield
    except BaseException as error:
        try:
            heal(fault, ground, history)
        except LabError as failure:
            error.add_note(f"and {fault.kind} of {fault.node} could not be healed: {failure}")
        raise
    else:
        heal(fault, ground, history)


def _watch(what: str, look: Callable[[], tuple[bool, str]], within_s: float, ground: Ground) -> tuple[bool, str]:
    def probe() -> tuple[str | None, str]:
        try:
            there, seen = look()
        except LabError as error:
            return None, str(error)
        return (seen if there else None), seen

    try:
        return True, wait_until(what, probe, Deadline.within(within_s, ground.clock), every_s=0.2)
    except DeadlineExceeded as late:
        return False, str(late)
