"""The terminal: one console for results, one for everything else."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table

__all__ = ["RESULTS", "SAYS", "reader_gone", "table"]

PIPE_COLUMNS = 240  # of a table that goes to a file or a pipe: nothing there wraps by itself


def reader_gone() -> int:
    """What to do when nobody reads our output any more, as with `| head`: say nothing; returns the exit code.

    Python would else complain of what it can't flush at its end. 141 is 128 + SIGPIPE, as a shell would say it.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


class _Terminal(Console):
    """A console that takes what it is given as it is: `:ab:` in a MAC address is no emoji."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, emoji=False)
        if not self.is_terminal:
            self.width = PIPE_COLUMNS

    def on_broken_pipe(self) -> None:
        """The reader went away; rich's own exit code, 1, would say that a verdict failed."""
        raise SystemExit(reader_gone())


# Results go to standard output so that they can be piped; what happens meanwhile goes to standard error.
RESULTS = _Terminal()
SAYS = _Terminal(stderr=True)


def table(*columns: str) -> Table:
    """An empty table for results; what is too wide for the terminal goes on in the next line, nothing is cut."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
