"""The fake hypervisor's consoles."""

from __future__ import annotations

import threading

from labctl.errors import HypervisorError

__all__ = ["FakeConsole"]


class FakeConsole:
    """A console whose guest is the test: `feed` is what the guest says, `typed` what it was told, until it `ended`."""

    def __init__(self) -> None:
        self.typed = b""
        self._said = b""
        self.ended = False
        self._changed = threading.Condition()

    def feed(self, data: bytes) -> None:
        """Let the guest say `data`."""
        with self._changed:
            self._said += data
            self._changed.notify_all()

    def read(self, size: int = 4096) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._said or self.ended)
            data, self._said = self._said[:size], self._said[size:]
            return data

    def write(self, data: bytes) -> None:
        with self._changed:
            if self.ended:
                raise HypervisorError("console: closed")
            self.typed += data

    def close(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()
