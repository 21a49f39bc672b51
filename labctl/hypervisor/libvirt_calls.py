"""What every call to libvirt has in common: its errors, its streams. See `libvirt_api`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from labctl.errors import HypervisorError
from labctl.hypervisor.sparse import CHUNK_BYTES

__all__ = ["Connection", "LibvirtConsole", "found", "saying", "settle", "unsupported"]

_HINTS = {
    libvirt.VIR_ERR_AUTH_FAILED: "join the group libvirt and log in again, or use sudo",
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: "join the group libvirt and log in again, or use sudo",
    libvirt.VIR_ERR_ACCESS_DENIED: "join the group libvirt and log in again, or use sudo",
    libvirt.VIR_ERR_NO_CONNECT: "labctl doctor says what is missing",
    libvirt.VIR_ERR_SYSTEM_ERROR: "labctl doctor says what is missing",
}
_IDLE_S = 1.0  # after that, one more question to the daemon costs nobody anything
_UNSUPPORTED = {libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED}


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Turn libvirt's error into ours, with the object in front."""
    try:
        yield
    except libvirt.libvirtError as error:
        hint = _HINTS.get(error.get_error_code(), "")
        raise HypervisorError(f"{what}: {error.get_error_message()}", hint=hint) from error


def found(lookup: Callable[[str], Any], name: str, missing: int) -> Any | None:
    """What `lookup` finds, or None when libvirt answers with the code `missing`."""
    try:
        return lookup(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == missing:
            return None
        raise


def unsupported(error: libvirt.libvirtError) -> bool:
    """Whether libvirt says that it, or the driver, does not know a call or a flag."""
    return error.get_error_code() in _UNSUPPORTED


def settle(act: Callable[[], object], settled: Callable[[], bool]) -> None:
    """Act; a failure is none when what was wanted holds anyway: it held before, or somebody else was faster."""
    try:
        act()
    except libvirt.libvirtError:
        if not settled():
            raise


class Connection:
    """A connection to a hypervisor that is opened again when its daemon was restarted.

    Only between calls: what was under way when the daemon went fails, and whoever asked knows what to do about it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._connection = libvirt.open(uri)
        self._closed = False
        self._used_s = time.monotonic()

    def live(self) -> Any:
        """libvirt's connection."""
        with self._lock:
            idle_s, self._used_s = time.monotonic() - self._used_s, time.monotonic()
            # Without an event loop a daemon's death is seen only when it is asked something.
            if not self._closed and not (self._connection.isAlive() and (idle_s < _IDLE_S or self._answers())):
                self._connection = libvirt.open(self.uri)
            return self._connection

    def _answers(self) -> bool:
        try:
            self._connection.getLibVersion()
        except libvirt.libvirtError:
            return False
        return True

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._connection.close()


class LibvirtConsole:
    """A libvirt stream to a guest's serial console or channel."""

    def __init__(self, stream: Any, what: str) -> None:
        self._stream = stream
        self._what = what
        self._closing = threading.Lock()
        self._closed = False

    def read(self, size: int = 4096) -> bytes:
        try:
            return bytes(self._stream.recv(size))
        except libvirt.libvirtError as error:
            if self._closed:
                return b""
            raise HypervisorError(f"{self._what}: {error.get_error_message()}") from error

    def write(self, data: bytes) -> None:
        with saying(self._what):
            while data:
                data = data[self._stream.send(data[:CHUNK_BYTES]) :]

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # The far end may have closed it already; a thread that waits in `read` wakes up either way.
        with suppress(libvirt.libvirtError):
            self._stream.abort()
