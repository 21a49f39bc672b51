"""Whether faults took effect, and whether their heal did."""

from __future__ import annotations

from labctl.checks.verdict import Finding, Result
from labctl.history import FaultEvent, FaultPhase, History

__all__ = ["fault_confirmed", "heal_confirmed", "injection", "phase_after"]


def fault_confirmed(history: History, fault: str, target: str) -> Finding:
    """Whether the last injection of a fault was seen to be in effect; INCONCLUSIVE when not."""
    check = f"{fault} of {target} took effect"
    injected = injection(history, fault, target)
    if injected is None:
        return Finding(check, Result.INCONCLUSIVE, f"{fault} of {target} was never injected")
    confirmed = phase_after(history, injected, FaultPhase.CONFIRMED)
    if confirmed is not None:
        reason = f"confirmed {confirmed.at_s - injected.at_s:.3f} s after the injection: {confirmed.detail}"
        return Finding(check, Result.PASS, reason.removesuffix(": "))
    refuted = phase_after(history, injected, FaultPhase.UNCONFIRMED)
    why = f"not seen in effect: {refuted.detail}" if refuted else "nobody looked whether it was in effect"
    return Finding(check, Result.INCONCLUSIVE, why)


def heal_confirmed(history: History, fault: str, target: str) -> Finding:
    """Whether the last injection of a fault was healed, and seen to be: FAIL when the heal was seen to fail."""
    check = f"{fault} of {target} was healed"
    injected = injection(history, fault, target)
    if injected is None:
        return Finding(check, Result.INCONCLUSIVE, f"{fault} of {target} was never injected")
    failed = phase_after(history, injected, FaultPhase.HEAL_FAILED)
    confirmed = phase_after(history, injected, FaultPhase.HEAL_CONFIRMED)
    if confirmed and (failed is None or failed.at_s < confirmed.at_s):
        reason = f"confirmed {confirmed.at_s - injected.at_s:.3f} s after the injection: {confirmed.detail}"
        return Finding(check, Result.PASS, reason.removesuffix(": "))
    if failed:
        return Finding(check, Result.FAIL, f"the heal failed: {failed.detail}")
    return Finding(check, Result.INCONCLUSIVE, "nobody saw the heal in effect")


def injection(history: History, fault: str, target: str) -> FaultEvent | None:
    """The last injection of a fault, or None."""
    return next((e for e in reversed(history.faults(fault, target)) if e.phase is FaultPhase.INJECTED), None)


def phase_after(history: History, injected: FaultEvent, phase: FaultPhase) -> FaultEvent | None:
    """The first event of a phase that belongs to an injection, or None."""
    events = history.faults(injected.fault, injected.target)
    return next((e for e in events if e.phase is phase and e.at_s >= injected.at_s), None)
