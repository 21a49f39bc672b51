"""Whether a probe sampled well enough for anything to be concluded from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import History, Outcome, Sample, SamplerEvent, SamplerKind, Window

__all__ = ["SamplerLimits", "sampler_healthy", "sampler_trouble", "sources_of"]


@dataclass(frozen=True, slots=True)
class SamplerLimits:
    """How good a sampler must be.

    Attributes:
        rate_share: of the planned rate that it must reach.
        gap_s: the longest time between two requests; a fault shorter than this could go unseen.
        late_share: of the requests that may start later than the probe allows.
    """

    rate_share: float = 0.95
    gap_s: float = 1.0
    late_share: float = 0.05


@dataclass(frozen=True, slots=True)
class _Sampling:
    """What there is of a probe in a window."""

    plan: SamplerEvent
    ended: SamplerEvent | None
    told: tuple[SamplerEvent, ...]  # what it said of itself in the window
    all_samples: tuple[Sample, ...]
    samples: tuple[Sample, ...]  # those in the window
    window: Window


def sampler_healthy(
    history: History, probe: str, window: Window | None = None, limits: SamplerLimits | None = None
) -> Finding:
    """Whether the probe kept its plan; INCONCLUSIVE when not, since a bad sampler says nothing of the service."""
    span, limits = window or Window(), limits or SamplerLimits()
    trouble = sampler_trouble(history, probe, span, limits)
    samples = history.samples(probe, window=span)
    figures = (Figure("samples", len(samples), "requests"), Figure("longest gap", _longest_gap_s(samples), "s"))
    if trouble:
        return Finding(f"{probe}: the sampler kept its plan", Result.INCONCLUSIVE, trouble, figures)
    reason = f"{len(samples)} requests, never more than {_longest_gap_s(samples):.3f} s apart"
    return Finding(f"{probe}: the sampler kept its plan", Result.PASS, reason, figures)


def sampler_trouble(history: History, probe: str, window: Window, limits: SamplerLimits) -> str:
    """Why nothing can be concluded from the probe's samples in the window; empty when it sampled well."""
    told = history.sampler(probe)
    plans = [e for e in told if e.kind is SamplerKind.STARTED]
    if len(plans) != 1:
        return f"probe {probe} was started {len(plans)} times, expected once"
    ended = next((e for e in told if e.kind is SamplerKind.ENDED), None)
    within = tuple(e for e in told if e.at_s in window)
    everything, samples = history.samples(probe), history.samples(probe, window=window)
    if not samples:
        return f"probe {probe} has no sample" + (" in the window" if everything else "")
    sampling = _Sampling(plans[0], ended, within, everything, samples, window)
    troubles = (check(sampling, limits) for check in (_cut, _lost, _stalled, _gap, _slow, _late, _unmade))
    return next((trouble for trouble in troubles if trouble), "")


def sources_of(history: History, probe: str, sources: Sequence[str] | None) -> tuple[str, ...]:
    """The sources meant: those given, else those of the probe's plan, else those that its samples have."""
    if sources is not None:
        return tuple(sources)
    for event in history.sampler(probe):
        if event.sources:
            return event.sources
    return tuple(dict.fromkeys(s.source for s in history.samples(probe)))


def _cut(sampling: _Sampling, limits: SamplerLimits) -> str:
    """The window reaches beyond what was sampled, or beyond what is known of it."""
    first_s, last_s = sampling.samples[0].at_s, sampling.samples[-1].at_s
    if math.isfinite(sampling.window.from_s) and sampling.window.from_s + limits.gap_s < first_s:
        return f"the first sample comes {first_s - sampling.window.from_s:.3f} s after the start of the window"
    if sampling.ended is None and sampling.all_samples[-1].at_s < sampling.window.until_s + sampling.plan.timeout_s:
        return "the sampler has not said that it ended, so samples may be missing"
    if last_s + limits.gap_s < sampling.window.until_s < math.inf:
        return f"the last sample comes {sampling.window.until_s - last_s:.3f} s before the end of the window"
    return ""


def _lost(sampling: _Sampling, _limits: SamplerLimits) -> str:
    numbers = {s.number for s in sampling.samples}
    missing = max(numbers) - min(numbers) + 1 - len(numbers)
    if sampling.ended is not None:
        missing = max(missing, sampling.ended.requests - len(sampling.all_samples))
    return f"{missing} requests of the plan have no outcome" if missing else ""


def _stalled(sampling: _Sampling, _limits: SamplerLimits) -> str:
    stalls = [e for e in sampling.told if e.kind is SamplerKind.STALLED]
    return f"the sampler stalled: {stalls[0].detail}" if stalls else ""


def _gap(sampling: _Sampling, limits: SamplerLimits) -> str:
    gap_s = _longest_gap_s(sampling.samples)
    if gap_s <= limits.gap_s + sampling.plan.interval_s:
        return ""
    return f"no request was started for {gap_s:.3f} s, the limit is {limits.gap_s:.3f} s"


def _slow(sampling: _Sampling, limits: SamplerLimits) -> str:
    span_s = sampling.samples[-1].at_s - sampling.samples[0].at_s
    planned = span_s / sampling.plan.interval_s if sampling.plan.interval_s else 0.0
    reached = (len(sampling.samples) - 1) / planned if planned else 1.0
    if reached >= limits.rate_share or planned < 1 / (1 - limits.rate_share + 1e-9):
        return ""
    return f"{reached:.0%} of the planned rate was reached, expected {limits.rate_share:.0%}"


def _late(sampling: _Sampling, limits: SamplerLimits) -> str:
    late = [e for e in sampling.told if e.kind is SamplerKind.LATE]
    share = len(late) / len(sampling.samples)
    if share <= limits.late_share:
        return ""
    worst_s = max(e.lasted_s for e in late)
    return f"{share:.0%} of the requests were late, by up to {worst_s:.3f} s; the limit is {limits.late_share:.0%}"


def _unmade(sampling: _Sampling, _limits: SamplerLimits) -> str:
    unmade = [s for s in sampling.samples if s.outcome is Outcome.ERROR]
    return f"{len(unmade)} requests could not be made: {unmade[0].detail}" if unmade else ""


def _longest_gap_s(samples: Sequence[Sample]) -> float:
    return max((later.at_s - earlier.at_s for earlier, later in itertools.pairwise(samples)), default=0.0)
