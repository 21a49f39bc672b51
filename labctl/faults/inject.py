"""Injecting faults: each is marked, done, confirmed to be in effect, recorded, and healed on every way out.

The mark is written into the metadata of the nodes' domains before anything is done and removed when the heal was seen,
so that whoever comes after a harness that died finds what is broken, and can mend it: `labctl fault heal --all`,
`labctl up`, the next run of tests.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from labctl import store
from labctl.clock import Deadline, wait_until
from labctl.errors import DeadlineExceeded, InputError, LabError
from labctl.faults.certificate_ways import CertificateExpiredWay
from labctl.faults.ground import Ground, Seen, Way
from labctl.faults.guest_ways import ClockJumpWay, FillDiskWay, FreezeWay, HogWay, KillWay, StopServiceWay
from labctl.faults.machine_ways import (
    BootWay,
    LinkDownWay,
    NoAgentWay,
    NoDiskWay,
    PauseWay,
    PowerOffWay,
    UnplugWay,
)
from labctl.faults.model import (
    AgentGone,
    CertificateExpired,
    ClockJump,
    Corrupt,
    CpuHog,
    Delay,
    DiskErrors,
    DnsOutage,
    Duplicate,
    Fault,
    FillDisk,
    FreezeProcess,
    KillProcess,
    LinkDown,
    Loss,
    MemoryHog,
    Partition,
    Pause,
    PowerOff,
    Rate,
    RebootGuest,
    Reorder,
    Reset,
    StopService,
    Unplug,
)
from labctl.faults.network_ways import DnsOutageWay, ImpairmentWay, PartitionWay
from labctl.faults.text import dump
from labctl.history import Event, FaultEvent, FaultPhase
from labctl.inventory import FaultMark
from labctl.render.names import domain_name

__all__ = ["Recorder", "Unrecorded", "confirm", "heal", "inject", "injected", "marks_of"]

CONFIRM_WITHIN_S = 20.0


class Recorder(Protocol):
    """Where what happens is written: a history, or nowhere."""

    def append(self, *events: Event) -> None:
        """Write events."""
        ...


class Unrecorded:
    """Nobody keeps a history, as when a fault is injected by hand."""

    def append(self, *events: Event) -> None:
        """Nothing."""


_WAYS: Mapping[type[Fault], Callable[[Any, Ground, Mapping[str, str]], Way]] = {
    PowerOff: PowerOffWay,
    Pause: PauseWay,
    Reset: BootWay,
    RebootGuest: BootWay,
    AgentGone: NoAgentWay,
    DiskErrors: NoDiskWay,
    LinkDown: LinkDownWay,
    Unplug: UnplugWay,
    Loss: ImpairmentWay,
    Delay: ImpairmentWay,
    Duplicate: ImpairmentWay,
    Reorder: ImpairmentWay,
    Corrupt: ImpairmentWay,
    Rate: ImpairmentWay,
    Partition: PartitionWay,
    DnsOutage: DnsOutageWay,
    StopService: StopServiceWay,
    KillProcess: KillWay,
    FreezeProcess: FreezeWay,
    FillDisk: FillDiskWay,
    CpuHog: HogWay,
    MemoryHog: HogWay,
    ClockJump: ClockJumpWay,
    CertificateExpired: CertificateExpiredWay,
}


def _way(fault: Fault, ground: Ground, before: Mapping[str, str]) -> Way:
    return _WAYS[type(fault)](fault, ground, before)


# -- marks -------------------------------------------------------------------------------------------------------------


def marks_of(ground: Ground, node: str) -> tuple[FaultMark, ...]:
    """The marks of the faults that were begun on a node and are not known to be healed."""
    domain = ground.hypervisor.domain(domain_name(ground.lab.name, node))
    return domain.faults if domain else ()


def _mark_of(fault: Fault, ground: Ground) -> FaultMark | None:
    marks = (mark for node in fault.nodes for mark in marks_of(ground, node))
    return next((m for m in marks if (m.kind, m.target) == (fault.kind, fault.target)), None)


def _mark(fault: Fault, ground: Ground, mark: FaultMark | None) -> None:
    """Write the mark of a fault on all its nodes, or remove it."""
    with store.locked(f"faults-{ground.lab.name}", lambda: None):
        for node in fault.nodes:
            name = domain_name(ground.lab.name, node)
            if ground.hypervisor.domain(name) is None:
                continue  # made away with meanwhile, and its marks with it
            others = (m for m in marks_of(ground, node) if (m.kind, m.target) != (fault.kind, fault.target))
            ground.hypervisor.mark_faults(name, (*others, *((mark,) if mark else ())))


def _known_way(fault: Fault, ground: Ground) -> Way:
    mark = _mark_of(fault, ground)
    return _way(fault, ground, json.loads(mark.before) if mark else {})


# -- the life of a fault -----------------------------------------------------------------------------------------------


def inject(fault: Fault, ground: Ground, history: Recorder) -> None:
    """Do it, and record when; see `confirm`.

    Raises:
        InputError: it can't be done, or was begun before and is not healed; nothing has happened then.
    """
    way = _way(fault, ground, {})
    if _mark_of(fault, ground):
        raise InputError(f"{fault.target}: {fault.kind} is in effect already", hint="labctl fault heal --all")
    before = json.dumps(way.before())
    since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    _mark(fault, ground, FaultMark(fault.kind, fault.target, dump(fault), before, since))
    # Recorded as of before the call: the effect comes at some time during it, never before.
    at_s = ground.clock.now_s()
    way.inject()
    history.append(FaultEvent(at_s, fault.kind, fault.target, FaultPhase.INJECTED))


def confirm(fault: Fault, ground: Ground, history: Recorder) -> Seen:
    """See whether it took effect, and record what was seen; an unconfirmed fault makes every verdict INCONCLUSIVE."""
    way = _known_way(fault, ground)
    seen, what = _watch(f"{fault.target}: {fault.kind} is in effect", way.in_effect, CONFIRM_WITHIN_S, ground)
    phase = FaultPhase.CONFIRMED if seen else FaultPhase.UNCONFIRMED
    history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.target, phase, what))
    return seen, what


def heal(fault: Fault, ground: Ground, history: Recorder) -> None:
    """Undo it, and see that it is undone; the mark goes only then.

    Raises:
        LabError: it could not be undone, or was not seen to be; recorded as well.
    """
    way = _known_way(fault, ground)
    history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.target, FaultPhase.HEALED))
    try:
        way.heal()
        seen, what = _watch(f"{fault.target}: {fault.kind} is healed", way.healed, ground.back_within_s, ground)
    except LabError as failure:
        history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.target, FaultPhase.HEAL_FAILED, str(failure)))
        raise
    phase = FaultPhase.HEAL_CONFIRMED if seen else FaultPhase.HEAL_FAILED
    history.append(FaultEvent(ground.clock.now_s(), fault.kind, fault.target, phase, what))
    if not seen:
        raise DeadlineExceeded(
            f"{fault.target}: {fault.kind} could not be healed: {what}", hint="labctl up mends the lab"
        )
    _mark(fault, ground, None)


@contextmanager
def injected(fault: Fault, ground: Ground, history: Recorder, *, leave_on_error: bool = False) -> Iterator[None]:
    """The fault is in effect inside the block, and healed after it, however the block ends.

    A heal that fails is raised; where the block itself raised, it is added to that as a note, so as not to hide it.

    Args:
        leave_on_error: where the block raises, somebody wants to look: the fault stays, and so does its mark.
    """
    try:
        inject(fault, ground, history)
    except InputError:
        raise  # nothing has happened
    except BaseException as error:
        _heal_beside(error, fault, ground, history)
        raise
    try:
        confirm(fault, ground, history)
        yield
    except BaseException as error:
        if not leave_on_error:
            _heal_beside(error, fault, ground, history)
        raise
    heal(fault, ground, history)


def _heal_beside(error: BaseException, fault: Fault, ground: Ground, history: Recorder) -> None:
    try:
        heal(fault, ground, history)
    except LabError as failure:
        error.add_note(f"and {fault.kind} of {fault.target} could not be healed: {failure}")


def _watch(what: str, look: Callable[[], Seen], within_s: float, ground: Ground) -> Seen:
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
