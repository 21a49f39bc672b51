"""What every call to libvirt has in common: its errors, its streams. See `libvirt_api`."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from labctl.errors import HypervisorError
from labctl.hypervisor.sparse import CHUNK_BYTES

__all__ = ["Connection", "LibvirtConsole", "found", "open_connection", "saying", "settle", "unsupported"]

_HINTS = {
    libvirt.VIR_ERR_AUTH_FAILED: "join the group libvirt and log in again, or use sudo",
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: "join the group libvirt and log in again, or use sudo",
    libvirt.VIR_ERR_ACCESS_DENIED: "join the group libvirt and log in again, or use sudo",
    libvirt.VIR_ERR_NO_CONNECT: "labctl doctor says what is missing",
    libvirt.VIR_ERR_SYSTEM_ERROR: "labctl doctor says what is missing",
}
OPEN_WITHIN_S = 60.0
_IDLE_S = 1.0  # after that, one more question to the daemon costs nobody anything
_OVER = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
_NOT_YET = -2  # virStreamRecv, virStreamSend
_FULL_S = 0.01
_RUNNING_EVENTS = threading.Lock()  # a process has one event loop, which is registered once
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


def open_connection(uri: str, within_s: float = OPEN_WITHIN_S) -> Any:
    """virConnectOpen, which waits for ever for a daemon that takes the connection and then says nothing.

    Raises:
        HypervisorError: it said nothing for `within_s` seconds.
        libvirt.libvirtError: there is no connection to be had.
    """
    opened: Future[Any] = Future()

    def dial() -> None:
        try:
            opened.set_result(libvirt.open(uri))
        except libvirt.libvirtError as error:
            opened.set_exception(error)

    threading.Thread(target=dial, daemon=True, name="libvirt open").start()
    try:
        return opened.result(within_s)
    except TimeoutError as silence:
        hint = "restart its daemon, with kill -9 if need be: guests run on without it"
        raise HypervisorError(f"{uri}: the daemon has said nothing for {within_s:g} s", hint=hint) from silence


class Connection:
    """A connection to a hypervisor that is opened again when its daemon was restarted.

    Only between calls: what was under way when the daemon went fails, and whoever asked knows what to do about it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._connection = open_connection(uri)
        self._closed = False
        self._used_s = time.monotonic()

    def live(self) -> Any:
        """libvirt's connection."""
        with self._lock:
            idle_s, self._used_s = time.monotonic() - self._used_s, time.monotonic()
            # Without an event loop a daemon's death is seen only when it is asked something.
            if not self._closed and not (self._connection.isAlive() and (idle_s < _IDLE_S or self._answers())):
                self._connection = open_connection(self.uri)
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


@functools.cache
def _run_events() -> None:
    """Let libvirt's event loop run, in a thread of its own; only connections opened from now on take part in it."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True, name="libvirt events").start()


class LibvirtConsole:
    """A libvirt stream to a guest's serial console or channel, on a connection of its own.

    What comes is taken by libvirt's event loop, so that who waits for it and who sends don't wait for each other.
    """

    def __init__(self, connection: Any, stream: Any, what: str) -> None:
        self._connection = connection
        self._stream = stream
        self._what = what
        self._arrived = bytearray()
        self._changed = threading.Condition()
        self._letting_go = threading.Lock()
        self._ended = self._closed = self._let_go = False
        self._failure: libvirt.libvirtError | None = None

    @classmethod
    def open(cls, uri: str, what: str, attach: Callable[[Any, Any], object]) -> LibvirtConsole:
        """Open one.

        Args:
            attach: connects the stream that it is given, on the connection that it is given.

        Raises:
            HypervisorError: with `what` in front.
        """
        with _RUNNING_EVENTS:
            _run_events()
        with saying(what):
            connection = open_connection(uri)
            try:
                stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
                attach(connection, stream)
                console = cls(connection, stream, what)
                anything = libvirt.VIR_STREAM_EVENT_READABLE | _OVER
                stream.eventAddCallback(anything, lambda _stream, events, _opaque: console._take(events), None)
            except BaseException:
                connection.close()
                raise
        return console

    def _take(self, events: int) -> None:
        """What the event loop calls: something came, or the end did."""
        with self._changed:
            try:
                data = self._stream.recv(CHUNK_BYTES)
                self._ended = data == b"" or (data == _NOT_YET and bool(events & _OVER))
            except libvirt.libvirtError as failure:
                self._ended, self._failure = True, failure
            else:
                self._arrived += data if isinstance(data, bytes) else b""
            if self._ended:
                self._stream.eventRemoveCallback()
            self._changed.notify_all()

    def read(self, size: int = 4096) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._ended or self._closed)
            data = bytes(self._arrived[:size])
            del self._arrived[:size]
            if self._failure and not data and not self._closed:
                raise HypervisorError(f"{self._what}: {self._failure.get_error_message()}") from self._failure
            return data

    def write(self, data: bytes) -> None:
        with saying(self._what):
            while data:
                sent = self._stream.send(data[:CHUNK_BYTES])
                data = data[max(sent, 0) :]
                if sent == _NOT_YET:
                    time.sleep(_FULL_S)

    def close(self) -> None:
        """Let go of it; whoever comes second waits for the first, so that no process ends with a stream that is open.

        virtqemud and libvirtd (11.3) can lock up for good when a client goes away while its stream has something for
        it: daemonStreamEvent closes the client under the lock that the client's close wants.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._letting_go:
            if self._let_go:
                return
            self._let_go = True
            # The far end may have closed it already.
            for let_go in (self._stream.eventRemoveCallback, self._stream.abort, self._connection.close):
                with suppress(libvirt.libvirtError):
                    let_go()
