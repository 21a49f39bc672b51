"""Progress of `up` and `destroy`: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from labctl.clock import SystemClock
from labctl.console import SAYS
from labctl.plan import Action

__all__ = ["Reporter", "reporting"]


class Reporter:
    """Told what happens, from several threads; keeps how long each node took.

    Attributes:
        seconds: by node, from the start of its first action to the end of its last.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._clock = SystemClock()
        self._began_s = self._clock.now_s()
        self._node_began_s: dict[str, float] = {}
        self._now: dict[str, str] = {}
        self.live: Live | None = None

    def started(self, action: Action) -> None:
        """An action begins."""
        key = action.node or action.target
        with self._lock:
            self._node_began_s.setdefault(key, self._clock.now_s())
            self._now[key] = str(action.verb)
        if not self.live:
            self._line(f"{action.verb} {action.target}")

    def done(self, action: Action) -> None:
        """An action ended well."""
        key = action.node or action.target
        with self._lock:
            self.seconds[key] = self._clock.now_s() - self._node_began_s[key]
            self._now[key] = f"{action.verb}: done"

    def note(self, text: str) -> None:
        """A line worth reading."""
        self._line(text)

    def _line(self, text: str) -> None:
        SAYS.print(f"[dim]{self._clock.now_s() - self._began_s:6.1f} s[/dim]  {escape(text)}")

    def __rich__(self) -> Table:
        """The live table; rich asks for it several times a second."""
        table = Table(box=None, pad_edge=False, show_header=False)
        with self._lock:
            for key, doing in self._now.items():
                done = doing.endswith(": done")
                so_far_s = self.seconds[key] if done else self._clock.now_s() - self._node_began_s[key]
                table.add_row(key, doing, f"{so_far_s:.0f} s")
        return table


@contextmanager
def reporting() -> Iterator[Reporter]:
    """A reporter for the length of a command."""
    reporter = Reporter()
    if not SAYS.is_terminal:
        yield reporter
        return
    with Live(reporter, console=SAYS, refresh_per_second=4, transient=True) as live:
        reporter.live = live
        yield reporter
