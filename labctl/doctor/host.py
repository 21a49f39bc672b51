"""What the doctor looks at, and what it says: the host behind a narrow interface, and a finding."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labctl import process
from labctl.errors import LabError

__all__ = ["Finding", "Host", "Owned", "ThisHost"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One prerequisite, as it was found.

    Attributes:
        name: of what was looked at.
        ok: True when it serves, None when it may get in the way, False when a lab can't come up.
        expected: what serves; empty when anything does.
        mend: the command that mends it, or what to do; empty when nothing is wrong.
    """

    name: str
    ok: bool | None
    found: str
    expected: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    """Who may do what with a file: its owner, its group and its permission bits."""

    uid: int
    gid: int
    mode: int


class Host(Protocol):
    """The machine that libvirt runs on, when it is this one."""

    def text(self, path: str) -> str | None:
        """A file's text, stripped; None when it isn't there or can't be read."""
        ...

    def names(self, path: str) -> tuple[str, ...]:
        """What a directory holds, sorted; empty when it isn't there or can't be read."""
        ...

    def owned(self, path: str) -> Owned | None:
        """Whose `path` is; None when it isn't there."""
        ...

    def free_bytes(self, path: str) -> int:
        """Free bytes in the file system under `path`, or under its nearest parent that is there."""
        ...

    def writable(self, path: str) -> bool:
        """Whether we may write to `path`, or to its nearest parent that is there."""
        ...

    def has(self, program: str) -> bool:
        """Whether `program` is on the PATH."""
        ...

    def output(self, *argv: str) -> str | None:
        """What a program says; None when it isn't there or fails."""
        ...


class ThisHost:
    """The host that labctl runs on."""

    def text(self, path: str) -> str | None:
        try:
            return Path(path).read_text(errors="replace").strip()
        except OSError:
            return None

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(entry.name for entry in Path(path).iterdir()))
        except OSError:
            return ()

    def owned(self, path: str) -> Owned | None:
        try:
            status = Path(path).stat()
        except OSError:
            return None
        return Owned(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))

    def free_bytes(self, path: str) -> int:
        return shutil.disk_usage(_there(path)).free

    def writable(self, path: str) -> bool:
        return os.access(_there(path), os.W_OK)

    def has(self, program: str) -> bool:
        return process.found(program)

    def output(self, *argv: str) -> str | None:
        try:
            return process.run(argv, within_s=10)
        except LabError:
            return None


def _there(path: str) -> Path:
    wanted = Path(path)
    return next((p for p in (wanted, *wanted.parents) if p.exists()), Path("/"))
