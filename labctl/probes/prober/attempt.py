"""One request that is under way, and what all kinds of request are made of."""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from .plan import Plan

if TYPE_CHECKING:
    import ssl

__all__ = [
    "MAX_ANSWER_BYTES",
    "READ",
    "WRITE",
    "AnswerError",
    "Attempt",
    "Client",
    "Steps",
    "Until",
    "Waits",
    "connected",
    "handshake",
    "outcome_of",
    "patiently",
    "receive",
    "receive_all",
    "say",
]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MAX_ANSWER_BYTES = 1 << 20
PACED_BYTES = 1 << 16  # that much is received ahead of its time at most
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the port is chosen on connect, so one port serves several sources

OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    **dict.fromkeys((errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN), "reset"),
    **dict.fromkeys((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN), "unreachable"),
    errno.ETIMEDOUT: "timeout",
}
T = TypeVar("T")


class AnswerError(Exception):
    """The request ended with another outcome than ok; arguments: outcome, detail."""


class Until(float):
    """Nothing to wait for but a moment, on CLOCK_MONOTONIC."""


Waits = Generator[int | Until, None, T]
"""Yields the events that it waits for on the connection that is spoken on, or a moment; returns what came of it."""
Steps = Waits[tuple[str | None, str]]
"""A request: returns (member, detail) when the answer is right."""


@dataclass
class Wire:
    """A connection.

    Attributes:
        sock: a socket, later maybe TLS on it.
        rest: what was received and not looked at yet.
    """

    sock: Any
    rest: bytes = b""


@dataclass
class Client:
    """What a source keeps from one request to the next.

    Attributes:
        address: of the source; empty for the guest's own choice.
        wires: its connections by name, while no request is under way on them.
        connections: how many it has had, or how many sessions.
        known: what a kind wants to know again: cookies, keys.
    """

    address: str
    wires: dict[str, Wire] = field(default_factory=dict)
    connections: int = 0
    known: dict[str, Any] = field(default_factory=dict)


class Attempt:
    """One request that is under way.

    Attributes:
        run: tells this run of the prober from others.
        wires: its connections by name; most kinds have one, whose name is empty.
        on: the name of the one that is spoken on.
        fresh: the connection is this request's first.
        connection: of a kind that keeps connections or sessions: the source's how manieth.
        mail: the id of the mail that was handed over to its end, unless it was refused then.
        answers: of `linger`: when, which member, what.
        ending: it may end now, though there would be more to do.
    """

    def __init__(
        self, k: int, due: float, started: float, plan: Plan, client: Client, tls: ssl.SSLContext | None, run: str
    ) -> None:
        self.k, self.due, self.started, self.run = k, due, started, run
        self.plan, self.client, self.tls = plan, client, tls
        self.deadline = started + plan.timeout_s
        self.stage = "connecting"
        self.port = self.connection = 0
        self.wires: dict[str, Wire] = {}
        self.on = self.mail = ""
        self.watched: tuple[int, int] | None = None  # file descriptor and events
        self.wakes_at = math.inf
        self.steps: Steps | None = None
        self.fresh, self.ending = True, False
        self.answers: list[tuple[float, str | None, str]] = []

    @property
    def host(self) -> str:
        """The name that is asked for."""
        return self.plan.host or self.plan.address

    @property
    def wire(self) -> Wire:
        """The connection that is spoken on."""
        return self.wires[self.on]

    @property
    def sock(self) -> Any:
        """Its socket."""
        return self.wire.sock

    def take_kept(self) -> bool:
        """Take the connections that the client keeps, if there are any."""
        self.wires, self.client.wires = self.client.wires, {}
        if not self.wires:
            return False
        self.port, self.fresh = self.sock.getsockname()[1], False
        return True

    def connect(self, on: str = "") -> None:
        """Open a socket, bind the source, begin to connect; it is spoken on from now on. Raises OSError."""
        plan, self.on = self.plan, on
        family = socket.AF_INET6 if ":" in plan.address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if plan.kind in {"udp", "dns"} else socket.SOCK_STREAM)
        self.wires[on] = Wire(sock)
        sock.setblocking(False)
        if plan.kib_s:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PACED_BYTES)
        if self.client.address:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self.client.address, 0))
        raise_code(sock.connect_ex((plan.address, plan.port)))
        self.port = self.port or sock.getsockname()[1]

    def close(self) -> None:
        """Let go of all connections."""
        for wire in self.wires.values():
            wire.sock.close()


def raise_code(code: int) -> None:
    """Raise the error of an errno, unless it means that all is well."""
    if code not in {0, errno.EINPROGRESS}:
        raise OSError(code, os.strerror(code))


def connected(attempt: Attempt) -> Waits[None]:
    """Wait until the connection is there, and TLS on it if the plan wants it from the first byte on."""
    yield WRITE
    raise_code(attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    if attempt.plan.secure:
        yield from handshake(attempt)


def say(attempt: Attempt, data: bytes) -> Waits[None]:
    """Send what is so short that the socket takes it as a whole."""
    yield from patiently(lambda: attempt.sock.send(data), WRITE)


def handshake(attempt: Attempt) -> Waits[None]:
    """TLS on the connection, the certificate checked."""
    assert attempt.tls is not None
    attempt.stage = "in the TLS handshake"
    attempt.wire.sock = attempt.tls.wrap_socket(
        attempt.sock, server_hostname=attempt.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    yield from patiently(attempt.sock.do_handshake)


def receive(attempt: Attempt, most: int = 65536) -> Waits[bytes]:
    """What comes next; nothing when the other side has closed.

    Many servers close without TLS's close_notify; who needs to know whether the answer is whole knows its length.
    """
    try:
        chunk: bytes = yield from patiently(lambda: attempt.sock.recv(most))
    except OSError as error:
        if type(error).__name__ != "SSLEOFError":
            raise
        return b""
    return chunk


def receive_all(attempt: Attempt) -> Waits[bytes]:
    """What comes until the other side closes."""
    answer = b""
    while len(answer) <= MAX_ANSWER_BYTES:
        chunk = yield from receive(attempt)
        if not chunk:
            return answer
        attempt.stage = "receiving the answer"
        answer += chunk
    raise AnswerError("wrong", f"an answer of more than {MAX_ANSWER_BYTES} bytes")


def patiently(call: Callable[[], T], blocked: int = READ) -> Waits[T]:
    """What `call` returns, once its socket is ready for it.

    TLS says itself what it waits for; its errors are told by name, since the plain kinds never import ssl, which costs
    an emulated guest a second and 4 MB.
    """
    while True:
        try:
            return call()
        except BlockingIOError:
            yield blocked
        except OSError as error:
            awaited = {"SSLWantReadError": READ, "SSLWantWriteError": WRITE}.get(type(error).__name__)
            if awaited is None:
                raise
            yield awaited


def outcome_of(error: AnswerError | OSError) -> tuple[str, str]:
    """Outcome and detail of an attempt that ended in an error."""
    if isinstance(error, AnswerError):
        return error.args[0], error.args[1]
    if hasattr(error, "verify_message"):
        return "wrong", f"certificate: {error.verify_message}"
    if type(error).__name__ == "SSLEOFError":
        return "reset", "closed in the TLS handshake"
    if hasattr(error, "library"):  # OpenSSL's: the server spoke, and what it said is no TLS that we can use
        return "wrong", str(error)
    return OUTCOMES.get(error.errno or 0, "error"), error.strerror or str(error)
