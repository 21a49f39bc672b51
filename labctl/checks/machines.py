"""Whether the machines lived, but for those whose power was cut on purpose."""

from __future__ import annotations

from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import FaultEvent, FaultPhase, History, MachineEvent

__all__ = ["machines_lived"]

_DOWN = {"shut off", "crashed", "gone"}
_CUTS_POWER = ("power-off",)


def machines_lived(history: History, *, slack_s: float = 2.0) -> Finding:
    """Whether no machine went down that nobody had planned to: the emulator that crashes is no fault of the service.

    Args:
        slack_s: so much before the injection and after the heal of a power cut news of it may come.
    """
    check = "no machine goes down by itself"
    events = history.of(MachineEvent)
    figures = (Figure("machines", len({e.node for e in events}), "machines"),)
    if not events:
        return Finding(check, Result.INCONCLUSIVE, "nobody watched the machines", figures)
    fallen = [e for e in events if e.state in _DOWN and not _planned(history, e, slack_s)]
    if fallen:
        told = "; ".join(f"{e.node} was {e.state} at {e.at_s:.3f} s" for e in fallen)
        return Finding(check, Result.FAIL, f"nobody had planned it: {told}", figures)
    return Finding(check, Result.PASS, "none did", figures)


def _planned(history: History, event: MachineEvent, slack_s: float) -> bool:
    cuts = [e for e in history.faults(target=event.node) if e.fault in _CUTS_POWER]
    begun = [e for e in cuts if e.phase is FaultPhase.INJECTED and e.at_s - slack_s <= event.at_s]
    return bool(begun) and event.at_s <= _over_s(cuts, begun[-1]) + slack_s


def _over_s(cuts: list[FaultEvent], begun: FaultEvent) -> float:
    """When the power was seen to be back; for ever after, when it never was."""
    return next((e.at_s for e in cuts if e.phase is FaultPhase.HEAL_CONFIRMED and e.at_s >= begun.at_s), float("inf"))
