"""Time: the host's monotonic clock, deadlines on it, and bounded waits that say what they waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from labctl.errors import DeadlineExceeded

__all__ = ["Clock", "Deadline", "SystemClock", "wait_until"]

T = TypeVar("T")
TELL_EVERY_S = 20.0


class Clock(Protocol):
    """What labctl needs of time; tests pass one of their own."""

    def now_s(self) -> float:
        """Seconds on a clock that never steps (CLOCK_MONOTONIC)."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class SystemClock:
    """The host's CLOCK_MONOTONIC."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time that must not be passed.

    Attributes:
        at_s: when, seconds on `clock`.
        clock: the clock that it is on.
    """

    at_s: float
    clock: Clock = field(default_factory=SystemClock)

    @classmethod
    def within(cls, seconds: float, clock: Clock | None = None) -> Deadline:
        """The deadline `seconds` from now."""
        clock = clock or SystemClock()
        return cls(clock.now_s() + seconds, clock)

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - self.clock.now_s())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.left_s <= 0.0


def wait_until(
    what: str,
    probe: Callable[[], tuple[T | None, str]],
    deadline: Deadline,
    *,
    every_s: float = 0.1,
    evidence: Callable[[], str] | None = None,
    tell: Callable[[str], None] = lambda _seen: None,
) -> T:
    """Call `probe` until it gives a value, and return that value.

    Args:
        what: what is awaited, for the error: "cas1: the guest agent answers".
        probe: returns (value, last seen); a value of None means not yet.
        deadline: when to give up; the probe is called at least once.
        every_s: seconds between the starts of two calls.
        evidence: called once on expiry, for lines that help to understand it.
        tell: called with what is awaited and what was last seen, every TELL_EVERY_S seconds.

    Raises:
        DeadlineExceeded: naming `what`, what was last seen, and the evidence.
    """
    started_s = told_s = deadline.clock.now_s()
    while True:
        value, seen = probe()
        if value is not None:
            return value
        if deadline.expired:
            waited_s = deadline.clock.now_s() - started_s
            tail = f"\n{evidence()}" if evidence else ""
            raise DeadlineExceeded(f"{what}: not within {waited_s:.1f} s; last seen: {seen}{tail}")
        if deadline.clock.now_s() - told_s >= TELL_EVERY_S:
            told_s = deadline.clock.now_s()
            tell(f"still waiting: {what}; last seen: {seen}")
        deadline.clock.sleep(min(every_s, deadline.left_s))
