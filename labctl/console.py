"""The terminal: one console for results, one for everything else."""

from __future__ import annotations

from rich.console import Console

__all__ = ["RESULTS", "SAYS"]

# Results go to standard output so that they can be piped; what happens meanwhile goes to standard error.
RESULTS = Console(soft_wrap=True, highlight=False)
SAYS = Console(stderr=True, soft_wrap=True, highlight=False)
