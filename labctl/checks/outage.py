"""Outages: the gaps in service that a probe saw, each as an interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labctl.history import History, Sample, Window

__all__ = ["Outage", "outage", "outage_by_source", "spanning"]


@dataclass(frozen=True, slots=True)
class Outage:
    """A gap in service that one probe saw.

    The true gap lies between `shortest_s` and `longest_s`; only faster sampling narrows it.

    Attributes:
        shortest_s: from the first to the last failed sample, seconds on the history's clock.
        longest_s: from the start of the last good sample before to the end of the first good one after; infinite when
            there is none.
        first_failed_s, last_failed_s: when they were started.
        failed: how many samples failed.
        error_s: how far the times may be off the host's clock; the lengths are better than that.
        outcomes: the different outcomes of the failed samples, sorted.
    """

    shortest_s: float
    longest_s: float
    first_failed_s: float
    last_failed_s: float
    failed: int
    error_s: float
    outcomes: tuple[str, ...]

    def __str__(self) -> str:
        longest = "not seen to end" if math.isinf(self.longest_s) else f"{self.longest_s:.3f} s"
        return f"{self.shortest_s:.3f} s to {longest} ({self.failed} failed: {', '.join(self.outcomes)})"


def outage(
    history: History, probe: str, sources: Iterable[str] | None = None, window: Window | None = None
) -> tuple[Outage, ...]:
    """The outages of a group of clients, in the order of time.

    The samples of all sources are merged, so the resolution is the group's sampling period; that makes sense for
    clients that share a fate, such as those of one member. A good sample of any of them ends an outage.
    """
    return _runs(history.samples(probe, sources, window))


def outage_by_source(
    history: History, probe: str, sources: Iterable[str] | None = None, window: Window | None = None
) -> dict[str, tuple[Outage, ...]]:
    """The outages of each client by itself; the resolution is a single source's period."""
    return {source: _runs(samples) for source, samples in history.by_source(probe, sources, window).items()}


def spanning(samples: Sequence[Sample], from_s: float = -math.inf) -> Outage | None:
    """One outage from the first to the last failed sample, whatever was good in between; None if none failed.

    Args:
        from_s: when the fault came that is to blame; the outage did not begin before, though it may have caught a
            request that was under way.
    """
    failed = [s for s in samples if s.failed]
    if not failed:
        return None
    first_s = max(failed[0].at_s, from_s)
    return Outage(
        shortest_s=max(0.0, failed[-1].at_s - first_s),
        longest_s=_longest_s(samples, failed, from_s),
        first_failed_s=first_s,
        last_failed_s=failed[-1].at_s,
        failed=len(failed),
        error_s=max(s.error_s for s in failed),
        outcomes=tuple(sorted({s.outcome.value for s in failed})),
    )


def _longest_s(samples: Sequence[Sample], failed: Sequence[Sample], from_s: float) -> float:
    """From good to good around the failed samples.

    Any client's good sample will do as long as nothing speaks against it. Where some were served in the midst of
    others' failures the clients do not share a fate, and each one's own samples count.
    """
    first_end_s, last_start_s = min(s.ended_s for s in failed), failed[-1].at_s
    if not any(s.good and s.at_s >= first_end_s and s.ended_s <= last_start_s for s in samples):
        return _until_good_s(samples, failed) - max(from_s, _since_good_s(samples, failed))
    groups = [
        ([s for s in samples if s.source == source], [s for s in failed if s.source == source])
        for source in {s.source for s in failed}
    ]
    since_s = max(from_s, min(_since_good_s(*group) for group in groups))
    return max(_until_good_s(*group) for group in groups) - since_s


def _since_good_s(samples: Sequence[Sample], failed: Sequence[Sample]) -> float:
    return max((s.at_s for s in samples if s.good and s.at_s < failed[0].at_s), default=-math.inf)


def _until_good_s(samples: Sequence[Sample], failed: Sequence[Sample]) -> float:
    return min((s.ended_s for s in samples if s.good and s.at_s > failed[-1].at_s), default=math.inf)


def _runs(samples: Sequence[Sample]) -> tuple[Outage, ...]:
    """Each unbroken run of failed samples, together with the good samples around it."""
    runs: list[list[Sample]] = [[]]
    for sample in samples:
        if sample.good and any(s.failed for s in runs[-1]):
            runs[-1].append(sample)
            runs.append([sample])
        elif sample.good:
            runs[-1] = [sample]
        elif sample.failed:
            runs[-1].append(sample)
    return tuple(found for run in runs if (found := spanning(run)))
