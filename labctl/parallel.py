"""The same thing for several names, side by side; and the same thing again and again beside others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

__all__ = ["for_all", "repeated"]


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


@contextmanager
def repeated(act: Callable[[], object], name: str, *, every_s: float) -> Iterator[None]:
    """Call `act` every so often, in a thread of its own, for as long as the block lasts; what it raises ends that.

    Raises:
        BaseException: what `act` raised, at the end of the block.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                act()
                stop.wait(every_s)
        except BaseException as failure:  # noqa: BLE001 - raised below, where somebody listens
            failures.append(failure)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
