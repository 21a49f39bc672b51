"""Where things lie on the host: the data that labctl ships, its cache, and the evidence of failed runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from labctl.errors import HostError

__all__ = ["artifacts_dir", "cache_dir", "locked", "shipped"]


def shipped(kind: Literal["images", "topologies"]) -> Path:
    """The directory of what labctl ships: inside the package in a wheel, beside it in a checkout.

    Raises:
        HostError: it is in neither place, so the installation is broken.
    """
    package = Path(__file__).parent
    places = (package / "data" / kind, package.parent / kind)
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(str(place) for place in places)
    raise HostError(f"labctl's own {kind} are missing; looked in {looked}", hint="reinstall labctl")


def cache_dir() -> Path:
    """Where what can be made again is kept; not created here.

    $XDG_CACHE_HOME/labctl when that is an absolute path (XDG Base Directory Specification), else /var/cache/labctl for
    root and ~/.cache/labctl for others.
    """
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "labctl"
    return Path("/var/cache/labctl") if os.geteuid() == 0 else Path.home() / ".cache" / "labctl"


def artifacts_dir() -> Path:
    """Where the evidence of a failed run goes: $LABCTL_ARTIFACTS, else ./artifacts; not created here."""
    return Path(os.environ.get("LABCTL_ARTIFACTS") or "artifacts")


@contextmanager
def locked(name: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of that name; a process that dies lets go of it (flock(2)).

    Args:
        on_wait: called once when somebody else holds it, before waiting.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
