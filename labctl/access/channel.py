"""One SSH session's bytes: a free channel of a node, with an sshd of its own at the other end."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labctl.clock import Clock, Deadline, SystemClock, wait_until
from labctl.errors import AgentGone, ChannelTaken, DeadlineExceeded, GuestError, HypervisorError
from labctl.guest.agent import Guest
from labctl.hypervisor.seam import Console, Hypervisor
from labctl.inventory import DomainState
from labctl.render.names import SSH_CHANNELS

__all__ = ["Session", "open_session", "pass_bytes", "require_reachable"]

FREE_WITHIN_S = 30.0
START_WITHIN_S = 60.0
CHUNK_BYTES = 1 << 16
_SCRIPT = (Path(__file__).parent / "session.sh").read_text()


@dataclass(frozen=True)
class Session:
    """A session that has begun: the next byte that `stream` gives is sshd's first.

    Attributes:
        host_key: the node's public host key as the guest agent told it, `ssh-ed25519 AAAA…`.
    """

    stream: Console
    host_key: str


@contextmanager
def open_session(hypervisor: Hypervisor, guest: Guest, key: str, clock: Clock | None = None) -> Iterator[Session]:
    """A session in which `key`, a public one, may log in; its channel is let go of at the end.

    Raises:
        DeadlineExceeded: all channels are taken, or the guest's sshd did not begin.
        HypervisorError, GuestError: the domain is off, or its agent does not do it.
    """
    clock = clock or SystemClock()
    require_reachable(hypervisor, guest)
    channel, stream = _free_channel(hypervisor, guest, Deadline.within(FREE_WITHIN_S, clock))
    try:
        word = secrets.token_hex(16)
        host_key = guest.succeed(["/bin/sh", "-c", _SCRIPT, "sh", channel, word, key], within_s=START_WITHIN_S)
        _skip_to(stream, f"{word}\n".encode(), f"{guest.name}: the sshd for {channel} begins")
        yield Session(stream, host_key)
    finally:
        stream.close()


def require_reachable(hypervisor: Hypervisor, guest: Guest) -> None:
    """See that a session can begin.

    Raises:
        GuestError: the node is off, or its agent does not answer.
    """
    info = hypervisor.domain(guest.domain)
    if info is None or info.state is not DomainState.RUNNING:
        found = info.state if info else "not there"
        raise GuestError(f"node {guest.name} is {found}; SSH takes one that runs", hint="labctl up brings it back")
    if why_not := guest.answers():
        hint = f"labctl console {guest.name} works without the agent"
        raise AgentGone(f"node {guest.name} has no SSH while its agent does not answer: {why_not}", hint=hint)


def _free_channel(hypervisor: Hypervisor, guest: Guest, deadline: Deadline) -> tuple[str, Console]:
    """The first channel that nobody has open."""

    def probe() -> tuple[tuple[str, Console] | None, str]:
        for channel in SSH_CHANNELS:
            try:
                return (channel, hypervisor.open_channel(guest.domain, channel)), channel
            except ChannelTaken:
                continue
        return None, f"all {len(SSH_CHANNELS)} are taken: that many sessions are open"

    return wait_until(f"{guest.name}: a free channel for SSH", probe, deadline, every_s=0.5)


def _skip_to(stream: Console, mark: bytes, what: str) -> None:
    """Read up to the end of `mark`; what comes before it is what a session before this one had left to say."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        stream.close()

    timer = threading.Timer(START_WITHIN_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        seen = b""
        while not seen.endswith(mark):
            data = stream.read(1)
            if not data and late.is_set():
                raise DeadlineExceeded(f"{what}: not within {START_WITHIN_S:.0f} s")
            if not data:
                raise GuestError(f"{what}: the channel was closed")
            seen = (seen + data)[-len(mark) :]
    finally:
        timer.cancel()


def pass_bytes(stream: Console, source: int, sink: int) -> None:
    """Pass bytes both ways, from the file descriptor `source` and to `sink`, until either side ends.

    Raises:
        HypervisorError: the channel broke.
    """

    def send() -> None:
        try:
            while data := os.read(source, CHUNK_BYTES):
                stream.write(data)
        except HypervisorError:
            pass  # the channel has ended: whoever reads from it is told why
        finally:
            stream.close()

    threading.Thread(target=send, daemon=True, name="ssh").start()
    try:
        while data := stream.read(CHUNK_BYTES):
            _write(sink, data)
    except BrokenPipeError:
        pass  # ssh has ended


def _write(sink: int, data: bytes) -> None:
    while data:
        data = data[os.write(sink, data) :]
