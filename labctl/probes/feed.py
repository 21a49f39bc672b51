"""From the prober's lines to the events of a history: parsing, mapping of times, and noticing when nothing comes.

No I/O and no clock of its own: what was read, and when, comes in; events come out.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from labctl.history import (
    AgentReading,
    ClockEvent,
    ClockFit,
    ClockPair,
    Event,
    Note,
    Outcome,
    Sample,
    SamplerEvent,
    SamplerKind,
)

__all__ = ["Feed"]

_KEEP = 600  # clock measurements: ten minutes of them, more would only cost time


class Feed:
    """The events in one prober's output, which arrives piece by piece.

    Samples are held back until a reading of the guest's clock lies after them, so that their times are interpolated and
    a step of the guest's clock is seen first; `last` gives the rest.

    Args:
        probe: the probe's name.
        node: the guest's name.
        target: address:port, for the samples.
        stall_s: without a clock line for so long, the prober counts as stalled.
    """

    def __init__(self, probe: str, node: str, target: str, stall_s: float = 3.0) -> None:
        self.probe, self.node, self.target, self.stall_s = probe, node, target, stall_s
        self.started = self.ended = False
        self._rest = b""
        self._held: list[dict[str, Any]] = []
        self._readings: deque[AgentReading] = deque(maxlen=_KEEP)
        self._pairs: deque[ClockPair] = deque(maxlen=_KEEP)
        self._fit = ClockFit(())
        self._told = ClockEvent(0.0, node, 0.0, 0.0)
        self._steps_told = 0.0
        self._sign_s: float | None = None
        self._stalled = False

    def take(self, data: bytes, reading: AgentReading) -> list[Event]:
        """The events that became certain with `data`, read just after `reading`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._readings.append(reading)
        events = self._parsed(lines, reading)
        self._fit = ClockFit.of(self._readings, self._pairs)
        return [*events, *self._clock_news(reading.after_s), *self._ripe(self._fit.known_until_s)]

    def last(self, now_s: float) -> list[Event]:
        """What is still held back, when no more will come."""
        events: list[Event] = []
        if self._rest:
            events.append(Note(now_s, f"{self.probe}: the last line is cut short: {self._rest[:80]!r}"))
            self._rest = b""
        if self._held and not self._fit.segments:
            events.append(Note(now_s, f"{self.probe}: {len(self._held)} lines lost, the guest's clock was never read"))
            self._held = []
        return [*events, *self._ripe(float("inf"))]

    def stall(self, now_s: float, why: Callable[[], str]) -> list[Event]:
        """One event when the prober has just become stalled: its file was read after `now_s` and held nothing new.

        Args:
            why: called when it has, for what is known of the reason.
        """
        since_s = now_s - self._sign_s if self._sign_s is not None else 0.0
        if self.ended or self._stalled or since_s <= self.stall_s:
            return []
        detail = f"no sign of life for {since_s:.1f} s: {why()}"
        self._stalled = True
        return [SamplerEvent(now_s, self.probe, SamplerKind.STALLED, detail, lasted_s=since_s)]

    def _parsed(self, lines: list[bytes], reading: AgentReading) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            try:
                values = json.loads(line)
                self._sort(values, reading)
            except (ValueError, KeyError, TypeError) as error:
                events.append(Note(reading.after_s, f"{self.probe}: unreadable line {line[:80]!r}: {error}"))
        return events

    def _sort(self, values: dict[str, Any], reading: AgentReading) -> None:
        kind = values["line"]
        if kind == "clock":
            self._pairs.append(ClockPair(values["real_ns"], values["mono"], values["jitter"]))
        if kind in {"start", "clock"}:
            self.started, self._sign_s, self._stalled = True, reading.after_s, False
        if kind in {"request", "late", "end"}:
            self._held.append(values)
        if kind == "end":
            self.ended = True

    def _clock_news(self, now_s: float) -> list[Event]:
        """A new mapping, when the old one was wrong by more than it said; and steps of the guest's wall clock."""
        events: list[Event] = []
        for step in self._fit.steps:
            if step.before_s > self._steps_told:
                self._steps_told = step.before_s
                events.append(
                    Note(now_s, f"{self.node}: its wall clock was set by {step.by_s:+.3f} s; the mapping holds")
                )
        if self._fit.segments:
            newest = self._fit.segments[-1]
            told = self._told
            if not told.error_s or abs(newest.offset_s - told.offset_s) > told.error_s:
                self._told = ClockEvent(now_s, self.node, newest.offset_s, newest.error_s)
                events.append(self._told)
        return events

    def _ripe(self, until_s: float) -> list[Event]:
        """The events of held lines up to a guest time, on the history's clock."""
        ripe = [v for v in self._held if _guest_time(v) <= until_s]
        self._held = [v for v in self._held if _guest_time(v) > until_s]
        return [self._event(v) for v in ripe]

    def _event(self, values: dict[str, Any]) -> Event:
        if values["line"] == "request":
            return self._sample(values)
        at_s, _ = self._fit.to_host(_guest_time(values))
        if values["line"] == "late":
            late_s = values["started"] - values["due"]
            return SamplerEvent(at_s, self.probe, SamplerKind.LATE, f"request {values['k']}", lasted_s=late_s)
        counts = {"requests": values["started"], "finished": values["finished"]}
        return SamplerEvent(at_s, self.probe, SamplerKind.ENDED, values["reason"], **counts)

    def _sample(self, values: dict[str, Any]) -> Sample:
        at_s, error_s = self._fit.to_host(values["started"])
        ended_s, ended_error_s = self._fit.to_host(values["ended"])
        return Sample(
            at_s=at_s,
            ended_s=ended_s,
            error_s=max(error_s, ended_error_s),
            probe=self.probe,
            source=values["source"],
            target=self.target,
            member=values["member"],
            outcome=Outcome(values["outcome"]),
            detail=values["detail"],
            number=values["k"],
            late_s=max(0.0, values["started"] - values["due"]),
            connection=values.get("connection", 0),
            answers=values.get("answers", 1),
            mail=values.get("mail", ""),
        )


def _guest_time(values: dict[str, Any]) -> float:
    """When the line's matter was over, on the guest's CLOCK_MONOTONIC."""
    return float(values[{"request": "ended", "late": "started", "end": "at"}[values["line"]]])
