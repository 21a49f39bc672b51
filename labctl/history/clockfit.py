"""A guest's CLOCK_MONOTONIC on the host's: the mapping, and how wrong it can be.

The guest agent tells the guest's wall clock only, and a wall clock may be set. So two kinds of measurement are combined
here: the agent's answer between two looks at the host's clock, and pairs of wall clock and monotonic clock that a
program in the guest reads at one moment. Wall minus monotonic is constant until somebody sets the clock (adjtime(3)
slews both alike), so a jump of it is a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

__all__ = ["AgentReading", "ClockFit", "ClockPair", "ClockStep"]

_STEP_S = 0.002  # a smaller change of wall minus monotonic is taken for noise of the two reads


@dataclass(frozen=True, slots=True)
class AgentReading:
    """The guest's wall clock (guest-get-time), read between two moments of the host's monotonic clock."""

    before_s: float
    real_ns: int
    after_s: float


@dataclass(frozen=True, slots=True)
class ClockPair:
    """The guest's two clocks at one moment.

    Attributes:
        jitter_s: the time that reading both took; `mono_s` is in its middle.
    """

    real_ns: int
    mono_s: float
    jitter_s: float

    @property
    def wall_s(self) -> float:
        """Wall clock minus monotonic clock."""
        return self.real_ns / 1e9 - self.mono_s


@dataclass(frozen=True, slots=True)
class ClockStep:
    """Somebody set the guest's wall clock.

    Attributes:
        after_s, before_s: it happened between these two, on the guest's CLOCK_MONOTONIC.
        by_s: positive when it was set forward.
    """

    after_s: float
    before_s: float
    by_s: float


@dataclass(frozen=True, slots=True)
class _Epoch:
    """A span without a step: its first and last pair on the guest's CLOCK_MONOTONIC, and wall minus monotonic."""

    first_s: float
    last_s: float
    wall_s: float
    error_s: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A span in which one offset agrees with every reading.

    Attributes:
        first_s, last_s: guest's CLOCK_MONOTONIC at the first and the last reading.
        offset_s: the host's clock minus the guest's, from the reading with the shortest round trip.
        error_s: half that round trip and the jitter of the pairs.
    """

    first_s: float
    last_s: float
    offset_s: float
    error_s: float


@dataclass(frozen=True, slots=True)
class ClockFit:
    """The mapping of one guest's CLOCK_MONOTONIC to the host's.

    Attributes:
        segments: in the order of time; more than one when the guest's clock stood still (a paused guest) or drifts.
        steps: when the guest's wall clock was set; the mapping holds across them.
    """

    segments: tuple[Segment, ...]
    steps: tuple[ClockStep, ...] = ()

    @classmethod
    def of(cls, readings: Iterable[AgentReading], pairs: Iterable[ClockPair]) -> ClockFit:
        """The mapping that agrees with the measurements; without segments if they don't suffice."""
        ordered = sorted(pairs, key=lambda p: p.mono_s)
        epochs, steps = _epochs(ordered)
        points = _placed(tuple(readings), epochs)
        return cls(_segments(sorted(points, key=lambda p: p.first_s)), steps)

    @property
    def known_until_s(self) -> float:
        """The guest's CLOCK_MONOTONIC at the last usable reading; later times are extrapolated."""
        return self.segments[-1].last_s if self.segments else float("-inf")

    def to_host(self, mono_s: float) -> tuple[float, float]:
        """A guest time on the host's clock, and the error: the true time is at most that far from it.

        Raises:
            ValueError: nothing was measured.
        """
        if not self.segments:
            raise ValueError("no usable reading of the guest's clock")
        before = [s for s in self.segments if s.first_s <= mono_s]
        after = [s for s in self.segments if s.last_s >= mono_s]
        near = (before[-1] if before else after[0], after[0] if after else before[-1])
        low_s = min(s.offset_s - s.error_s for s in near)
        high_s = max(s.offset_s + s.error_s for s in near)
        return mono_s + (low_s + high_s) / 2, (high_s - low_s) / 2


def _epochs(pairs: Sequence[ClockPair]) -> tuple[list[_Epoch], tuple[ClockStep, ...]]:
    groups: list[list[ClockPair]] = []
    steps = []
    for previous, pair in zip([None, *pairs], pairs, strict=False):
        by_s = pair.wall_s - previous.wall_s if previous else 0.0
        if previous and abs(by_s) > _STEP_S + previous.jitter_s + pair.jitter_s:
            steps.append(ClockStep(previous.mono_s, pair.mono_s, by_s))
            groups.append([])
        if not groups:
            groups.append([])
        groups[-1].append(pair)
    return [_epoch(group) for group in groups], tuple(steps)


def _epoch(pairs: Sequence[ClockPair]) -> _Epoch:
    best = min(pairs, key=lambda p: p.jitter_s)
    return _Epoch(pairs[0].mono_s, pairs[-1].mono_s, best.wall_s, best.jitter_s)


def _placed(readings: Sequence[AgentReading], epochs: Sequence[_Epoch]) -> list[Segment]:
    """Each usable reading as a segment of one point: those that lie between two pairs of one epoch for certain.

    Outside the pairs the clock may have been set meanwhile, and after a step back a wall clock time exists twice, which
    also shows as a reading that seems older than the one before it. Only while nothing better is known, a reading
    outside a lone epoch is taken too.
    """
    sure: list[Segment] = []
    wide = _widened(epochs)
    for reading in sorted(readings, key=lambda r: r.before_s):
        points = _within(reading, epochs)
        certain = len(points) == 1 == len(_within(reading, wide))
        if certain and not (sure and points[0].first_s < sure[-1].first_s):
            sure.append(points[0])
    if sure or len(epochs) != 1:
        return sure
    return [_point(reading, epochs[0]) for reading in readings]


def _within(reading: AgentReading, epochs: Sequence[_Epoch]) -> list[Segment]:
    """Where the reading lies in each epoch that it can belong to."""
    places = [(_point(reading, epoch), epoch) for epoch in epochs]
    return [point for point, epoch in places if epoch.first_s <= point.first_s <= epoch.last_s]


def _widened(epochs: Sequence[_Epoch]) -> list[_Epoch]:
    """Each epoch as long as it can have been: up to its neighbours' pairs."""
    wide = list(epochs)
    for i, (earlier, later) in enumerate(itertools.pairwise(epochs)):
        wide[i] = replace(wide[i], last_s=later.first_s)
        wide[i + 1] = replace(later, first_s=earlier.last_s)
    return wide


def _point(reading: AgentReading, epoch: _Epoch) -> Segment:
    mono_s = reading.real_ns / 1e9 - epoch.wall_s
    error_s = (reading.after_s - reading.before_s) / 2 + epoch.error_s
    return Segment(mono_s, mono_s, (reading.before_s + reading.after_s) / 2 - mono_s, error_s)


def _segments(points: Sequence[Segment]) -> tuple[Segment, ...]:
    groups: list[list[Segment]] = []
    low_s = high_s = 0.0
    for point in points:
        point_low_s, point_high_s = point.offset_s - point.error_s, point.offset_s + point.error_s
        if groups and max(low_s, point_low_s) <= min(high_s, point_high_s):
            groups[-1].append(point)
            low_s, high_s = max(low_s, point_low_s), min(high_s, point_high_s)
        else:
            groups.append([point])
            low_s, high_s = point_low_s, point_high_s
    return tuple(_joined(group) for group in groups)


def _joined(points: Sequence[Segment]) -> Segment:
    best = min(points, key=lambda p: p.error_s)
    return Segment(points[0].first_s, points[-1].first_s, best.offset_s, best.error_s)
