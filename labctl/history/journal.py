"""The history's file: writing it line by line, reading it back, and asking it."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from labctl.clock import Clock, SystemClock
from labctl.errors import HostError, InputError, Problem
from labctl.history.events import (
    Event,
    FaultEvent,
    MembershipEvent,
    Note,
    Opened,
    Sample,
    SamplerEvent,
    Window,
)
from labctl.history.lines import from_line, to_line

__all__ = ["History", "HistoryWriter", "read_history"]

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of a run.

    Attributes:
        events: in the order of the file.
        path: of the file, for who wants the evidence; empty when there is none.
        torn_lines: 1-based numbers of lines that a crash cut short; what they held is lost.
    """

    events: tuple[Event, ...]
    path: str = ""
    torn_lines: tuple[int, ...] = ()

    def of(self, kind: type[E]) -> tuple[E, ...]:
        """The events of one class, in the order of their times."""
        return tuple(sorted((e for e in self.events if isinstance(e, kind)), key=lambda e: e.at_s))

    def samples(
        self, probe: str, sources: Iterable[str] | None = None, window: Window | None = None
    ) -> tuple[Sample, ...]:
        """The samples of a probe by the time they were started; of some sources only, started inside a window only."""
        wanted = None if sources is None else frozenset(sources)
        span = window or Window()
        return tuple(
            s for s in self.of(Sample) if s.probe == probe and (wanted is None or s.source in wanted) and s.at_s in span
        )

    def by_source(
        self, probe: str, sources: Iterable[str] | None = None, window: Window | None = None
    ) -> dict[str, tuple[Sample, ...]]:
        """The same, apart for each source; a source that was asked for and has none is there with no samples."""
        apart: dict[str, list[Sample]] = defaultdict(list, {source: [] for source in sources or ()})
        for sample in self.samples(probe, None if sources is None else tuple(apart), window):
            apart[sample.source].append(sample)
        return {source: tuple(samples) for source, samples in apart.items()}

    def sampler(self, probe: str) -> tuple[SamplerEvent, ...]:
        """What a probe said about its own sampling."""
        return tuple(e for e in self.of(SamplerEvent) if e.probe == probe)

    def faults(self, fault: str | None = None, target: str | None = None) -> tuple[FaultEvent, ...]:
        """The phases of faults; of one kind, or done to one target, only."""
        return tuple(e for e in self.of(FaultEvent) if fault in {None, e.fault} and target in {None, e.target})

    def membership_changes(self, cluster: str | None = None) -> tuple[MembershipEvent, ...]:
        """The events at which an observer's view became another than before; its first view is no change."""
        last: dict[tuple[str, str], tuple[str, ...]] = {}
        changes = []
        for event in self.of(MembershipEvent):
            view = (event.cluster, event.observer)
            if cluster in {None, event.cluster} and last.get(view, event.alive) != event.alive:
                changes.append(event)
            last[view] = event.alive
        return tuple(changes)


class HistoryWriter:
    """Appends events to a history's file; safe to use from several threads and processes.

    Each event is on the disk's side of the process when `append` returns: what a crash of labctl leaves is whole up to
    the last line. The file is opened on entering and closed on leaving.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._fd: int | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._end_torn_line()
        self.append(Opened(self._clock.now_s(), dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
            self._fd = None

    def append(self, *events: Event) -> None:
        """Write events, all of them in one piece.

        Raises:
            HostError: the file is not open, or the disk did not take it all.
        """
        data = "".join(f"{to_line(event)}\n" for event in events).encode()
        with self._lock:
            if self._fd is None:
                raise HostError(f"{self.path}: the history is not open for writing")
            self._write(self._fd, data)

    def now_s(self) -> float:
        """The time of now, on the history's clock."""
        return self._clock.now_s()

    def note(self, text: str) -> None:
        """Append a note with the time of now."""
        self.append(Note(self._clock.now_s(), text))

    def read(self) -> History:
        """The history so far."""
        return read_history(self.path)

    def _write(self, fd: int, data: bytes) -> None:
        try:
            written = os.write(fd, data)
        except OSError as error:
            raise HostError(f"{self.path}: {error.strerror}") from error
        if written != len(data):
            raise HostError(f"{self.path}: only {written} of {len(data)} bytes written; is the disk full?")

    def _end_torn_line(self) -> None:
        # Else the next event would share a line with what a crash left, and both would be lost.
        assert self._fd is not None
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            self._write(self._fd, b"\n")


def read_history(path: Path) -> History:
    """The history in a file.

    A line that a crash cut short (the last one, or one that ends where the file was opened again) is left out and
    named in `torn_lines`.

    Raises:
        InputError: there is no such file, or lines are broken; names all of them.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a history (JSON Lines)") from error
    return _parsed(text, str(path))


def _parsed(text: str, path: str) -> History:
    lines = text.split("\n")
    events: list[Event] = []
    problems: list[Problem] = []
    torn: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            events.append(from_line(line))
        except ValueError as error:
            if _cut_short(lines, number):
                torn.append(number)
            else:
                problems.append(Problem(path, number, 1, str(error)))
    if problems:
        raise InputError("\n".join(map(str, problems)), problems=tuple(problems))
    return History(tuple(events), path, tuple(torn))


def _cut_short(lines: list[str], number: int) -> bool:
    """Whether the broken line can be the trace of a crash: it has no newline, or the next writer gave it one."""
    last = number == len(lines)
    return last or lines[number].startswith('{"event":"opened"')
