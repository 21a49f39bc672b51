"""Whether whoever asks is told something soon, be it that there is nothing to be had."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.checks.sampling import SamplerLimits, sampler_trouble, sources_of
from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import History, Outcome, Window

__all__ = ["nobody_waits"]


def nobody_waits(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    bound_s: float,
    window: Window | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether every request had an answer within a bound, right or wrong: an error soon is better than silence.

    A request that was given up by its client was never answered, however long the bound.
    """
    span = window or Window()
    samples = history.samples(probe, sources_of(history, probe, sources), span)
    told = [s for s in samples if s.outcome is not Outcome.ERROR]
    slow = [s for s in told if s.outcome is Outcome.TIMEOUT or s.ended_s - s.at_s > bound_s]
    figures = (
        Figure("requests", len(told), "requests"),
        Figure("longest", max((s.ended_s - s.at_s for s in told), default=0.0), "s"),
    )
    check = f"{probe}: nobody waits for more than {bound_s:.3f} s"
    if slow:
        first = slow[0]
        detail = f" ({first.detail})" if first.detail else ""
        reason = f"{len(slow)} did; the first at {first.at_s:.3f} s for {first.ended_s - first.at_s:.3f} s{detail}"
        return Finding(check, Result.FAIL, reason, figures)
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if trouble or not told:
        return Finding(check, Result.INCONCLUSIVE, trouble or "nobody asked", figures)
    return Finding(check, Result.PASS, f"all {len(told)} requests had an answer", figures)
