"""The same thing for several names, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["for_all"]


def for_all(act: Callable[[str], object], names: Iterable[str]) -> None:
    """Call `act` for each name in a thread of its own, and wait for all of them.

    Raises:
        ExceptionGroup: of what several calls raised; what a single one raised is raised as it is.
    """
    wanted = list(names)
    if not wanted:
        return
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        futures = [pool.submit(act, name) for name in wanted]
    failures = [f.exception() for f in futures]
    raised = [f for f in failures if f is not None]
    if len(raised) == 1:
        raise raised[0]
    if raised:
        raise BaseExceptionGroup("several failed", raised)
