"""The faults that a lab has: which were begun and not healed, healing them, and doing several on a schedule."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from labctl.clock import Deadline
from labctl.errors import LabError
from labctl.faults.ground import Ground
from labctl.faults.inject import Recorder, Unrecorded, heal, injected, marks_of
from labctl.faults.model import AgentGone, DiskErrors, Fault, LinkDown, Pause, PowerOff, Unplug
from labctl.faults.text import load
from labctl.inventory import DomainState, FaultMark
from labctl.render.names import domain_name

__all__ = ["Timed", "active", "heal_all", "heal_node", "injected_together"]

# In this order: what a node needs before anything can be done in it comes first.
_FIRST = (PowerOff, Pause, DiskErrors, AgentGone, Unplug, LinkDown)


def active(ground: Ground) -> tuple[FaultMark, ...]:
    """The faults that were begun and are not known to be healed, each once, in the order of the topology."""
    marks = [mark for node in ground.lab.nodes for mark in marks_of(ground, node.name)]
    return tuple({(m.kind, m.target): m for m in marks}.values())


def _in_order(faults: Sequence[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda f: next((i for i, kind in enumerate(_FIRST) if isinstance(f, kind)), len(_FIRST)))


def heal_node(node: str, ground: Ground) -> None:
    """Heal all faults of a node, whoever left them; it is powered on and let run for that.

    Raises:
        LabError, ExceptionGroup: what could not be healed; every fault is tried.
    """
    _heal([load(mark.fault) for mark in marks_of(ground, node)], ground)


def heal_all(ground: Ground) -> tuple[FaultMark, ...]:
    """Heal all faults of a lab, and return what they were; raises as `heal_node` does."""
    found = active(ground)
    _heal([load(mark.fault) for mark in found], ground)
    return found


def _heal(faults: Sequence[Fault], ground: Ground) -> None:
    failures: list[LabError] = []
    for node in dict.fromkeys(node for fault in faults for node in fault.nodes):
        _tried(lambda n=node: _wake(n, ground), failures)  # type: ignore[misc]
    for fault in _in_order(faults):
        _tried(lambda f=fault: heal(f, ground, Unrecorded()), failures)  # type: ignore[misc]
    if failures:
        raise failures[0] if len(failures) == 1 else ExceptionGroup("faults could not be healed", failures)


def _tried(act: Callable[[], object], failures: list[LabError]) -> None:
    try:
        act()
    except LabError as failure:
        failures.append(failure)


def _wake(node: str, ground: Ground) -> None:
    """Let a node run, whatever it was that stopped it."""
    name = domain_name(ground.lab.name, node)
    domain = ground.hypervisor.domain(name)
    if domain and domain.state is DomainState.SHUT_OFF:
        ground.hypervisor.start_domain(name)
        ground.guest(node).wait_for_agent(Deadline.within(ground.back_within_s, ground.clock))
    elif domain and domain.state is DomainState.PAUSED:
        ground.hypervisor.resume(name)


# -- several at once ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timed:
    """A fault that comes some time into a block, and goes before its end.

    Attributes:
        after_s: from the beginning of the block.
        lasts_s: from when it was seen to be in effect; None for as long as the block lasts.
    """

    fault: Fault
    after_s: float = 0.0
    lasts_s: float | None = None


@contextmanager
def injected_together(
    faults: Sequence[Fault | Timed], ground: Ground, history: Recorder, *, leave_on_error: bool = False
) -> Iterator[None]:
    """Several faults for the length of a block, those that are timed at their times; see `injected`.

    Raises:
        LabError, ExceptionGroup: what a timed fault ran into, at the end of the block.
    """
    over = threading.Event()
    failures: list[Exception] = []
    timed = [fault for fault in faults if isinstance(fault, Timed)]
    threads = [threading.Thread(target=_run, args=(t, ground, history, over, failures), daemon=True) for t in timed]
    with ExitStack() as stack:
        for fault in faults:
            if not isinstance(fault, Timed):
                stack.enter_context(injected(fault, ground, history, leave_on_error=leave_on_error))
        try:
            for thread in threads:
                thread.start()
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0] if len(failures) == 1 else ExceptionGroup("timed faults", failures)


def _run(timed: Timed, ground: Ground, history: Recorder, over: threading.Event, failures: list[Exception]) -> None:
    if over.wait(timed.after_s):
        return
    try:
        with injected(timed.fault, ground, history):
            over.wait(timed.lasts_s)
    except Exception as failure:  # noqa: BLE001 - raised at the end of the block, where somebody listens
        failures.append(failure)
