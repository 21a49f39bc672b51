"""Whether connections that were to last did, and whether each request had one answer; if not, for how long."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.checks.faults import fault_confirmed, injection, phase_after
from labctl.checks.sampling import SamplerLimits, sampler_trouble, sources_of
from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import FaultPhase, History, Outcome, Window

__all__ = ["answered_once", "answered_twice_until", "connections_kept", "sessions_kept"]


def connections_kept(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    window: Window | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether each client of a probe that keeps its connections had one and the same all the time."""
    span = window or Window()
    group = sources_of(history, probe, sources)
    apart = history.by_source(probe, group, span)
    numbers = {source: {s.connection for s in samples} for source, samples in apart.items()}
    failed = {source for source, samples in apart.items() if any(s.failed for s in samples)}
    broken = sorted(source for source, seen in numbers.items() if len(seen) > 1 or source in failed)
    figures = (Figure("connections", len(group), "connections"), Figure("broken", len(broken), "connections"))
    check = f"{probe}: the connections of {len(group)} clients last"
    unsampled = [source for source, samples in apart.items() if not samples]
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if not trouble and (unsampled or not group):
        trouble = f"{unsampled[0]} and others were never asked" if unsampled else "there is no client in the group"
    if not trouble and any(0 in seen for seen in numbers.values()):
        trouble = f"the probe {probe} keeps no connections"
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    if broken:
        return Finding(check, Result.FAIL, f"{len(broken)} connections broke, the first that of {broken[0]}", figures)
    return Finding(check, Result.PASS, f"{len(group)} connections lasted", figures)


def sessions_kept(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    window: Window | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether no server forgot a session that a client had; requests may fail for other reasons."""
    span = window or Window()
    apart = history.by_source(probe, sources_of(history, probe, sources), span)
    lost = [s for samples in apart.values() for s in samples if s.outcome is Outcome.LOST]
    having = [source for source, samples in apart.items() if any(s.good and s.connection for s in samples)]
    figures = (Figure("sessions", len(having), "sessions"), Figure("lost", len(lost), "sessions"))
    check = f"{probe}: the sessions of {len(apart)} clients are known to whoever answers"
    if lost:
        first = min(lost, key=lambda s: s.at_s)
        reason = f"{len(lost)} lost; the first at {first.at_s:.3f} s, that of {first.source}: {first.detail}"
        return Finding(check, Result.FAIL, reason, figures)
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if not trouble and len(having) < max(1, len(apart)):
        trouble = f"{len(apart) - len(having)} of {len(apart)} clients had no session"
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    return Finding(check, Result.PASS, f"{len(having)} sessions were never lost", figures)


def answered_once(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    window: Window | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether no request was answered by more than one member, as happens when two take the same client for theirs."""
    span = window or Window()
    samples = history.samples(probe, sources_of(history, probe, sources), span)
    doubled = [s for s in samples if s.answers > 1]
    figures = (Figure("requests", len(samples), "requests"), Figure("answered twice", len(doubled), "requests"))
    check = f"{probe}: no request is answered twice"
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if not trouble and not any(s.good for s in samples):
        trouble = "there is no good answer"
    if trouble and not doubled:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    if doubled:
        first = doubled[0]
        reason = (
            f"{len(doubled)} requests; the first at {first.at_s:.3f} s from {first.source}, {first.answers} answers"
        )
        return Finding(check, Result.FAIL, reason, figures)
    return Finding(check, Result.PASS, f"all {len(samples)} requests had one answer at most", figures)


def answered_twice_until(
    history: History, probe: str, *, fault: str, target: str, within_s: float, limits: SamplerLimits | None = None
) -> Finding:
    """Whether a fault made two members answer the same request, and that ended soon after its heal: FAIL when not.

    INCONCLUSIVE when no request was answered twice: then the fault has shown nothing.

    Args:
        within_s: from the heal on.
    """
    check = f"{probe}: {fault} of {target} makes two members answer, until {within_s:.3f} s after its heal"
    confirmed, begun = fault_confirmed(history, fault, target), injection(history, fault, target)
    healed = phase_after(history, begun, FaultPhase.HEAL_CONFIRMED) if begun else None
    if begun is None or healed is None or confirmed.result is not Result.PASS:
        return Finding(check, Result.INCONCLUSIVE, confirmed.reason if healed else f"{fault} was not seen to be healed")
    samples = history.samples(probe, window=Window(from_s=begun.at_s))
    doubled = [s for s in samples if s.answers > 1]
    lasted_s = doubled[-1].at_s - doubled[0].at_s if doubled else 0.0
    after_s = max(0.0, doubled[-1].at_s - healed.at_s) if doubled else 0.0
    figures = (
        Figure("answered twice", len(doubled), "requests"),
        Figure("two members answered", lasted_s, "s"),
        Figure("of that after the heal", after_s, "s"),
    )
    early = sum(s.answers > 1 for s in history.samples(probe, window=Window(until_s=begun.at_s)))
    trouble = sampler_trouble(history, probe, Window(from_s=begun.at_s), limits or SamplerLimits())
    if early or after_s > within_s:
        reason = f"{early} before the fault" if early else f"until {after_s:.3f} s after the heal"
        return Finding(check, Result.FAIL, f"two members answered {reason}", figures)
    if trouble or not doubled:
        return Finding(check, Result.INCONCLUSIVE, trouble or "no request was answered twice", figures)
    reason = f"two members answered for {lasted_s:.3f} s, until {after_s:.3f} s after the heal"
    return Finding(check, Result.PASS, reason, figures)
