"""One request that is under way, and what all kinds of request are made of."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .plan import Plan

if TYPE_CHECKING:
    import ssl

__all__ = [
    "READ",
    "WRITE",
    "AnswerError",
    "Attempt",
    "Client",
    "Steps",
    "connected",
    "handshake",
    "outcome_of",
    "patiently",
    "receive_all",
    "say",
]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MAX_ANSWER_BYTES = 1 << 20
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


Steps = Generator[int, None, tuple[str | None, str]]
"""A request as a generator: yields the events it waits for, returns (member, detail) when the answer is right."""


@dataclass
class Client:
    """What a source keeps from one request to the next.

    Attributes:
        address: of the source; empty for the guest's own choice.
        sock: its connection, while no request is under way on it.
        connections: how many it has had.
    """

    address: str
    sock: Any = None
    connections: int = 0


class Attempt:
    """One request that is under way."""

    def __init__(
        self, k: int, due: float, started: float, plan: Plan, client: Client, tls: ssl.SSLContext | None
    ) -> None:
        self.k, self.due, self.started = k, due, started
        self.plan, self.client, self.tls = plan, client, tls
        self.deadline = started + plan.timeout_s
        self.stage = "connecting"
        self.port = self.events = 0
        self.fd = -1
        self.sock: Any = None  # a socket, later maybe TLS on it
        self.steps: Steps | None = None
        self.fresh = True  # the connection is this request's first
        self.connection = 0  # of a kind that keeps them: the source's how manieth
        self.answers: list[tuple[float, str | None, str]] = []  # of `linger`: when, which member, what

    @property
    def host(self) -> str:
        """The name that is asked for."""
        return self.plan.host or self.plan.address

    def take_kept(self) -> bool:
        """Take the connection that the client keeps, if there is one."""
        sock, self.client.sock = self.client.sock, None
        if sock is None:
            return False
        self.sock, self.fd, self.port, self.fresh = sock, sock.fileno(), sock.getsockname()[1], False
        return True

    def connect(self) -> None:
        """Open the socket, bind the source, begin to connect. Raises OSError."""
        plan = self.plan
        family = socket.AF_INET6 if ":" in plan.address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM if plan.kind in {"udp", "dns"} else socket.SOCK_STREAM)
        self.fd = self.sock.fileno()
        self.sock.setblocking(False)
        if self.client.address:
            self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((self.client.address, 0))
        raise_code(self.sock.connect_ex((plan.address, plan.port)))
        self.port = self.sock.getsockname()[1]


def raise_code(code: int) -> None:
    """Raise the error of an errno, unless it means that all is well."""
    if code not in {0, errno.EINPROGRESS}:
        raise OSError(code, os.strerror(code))


def connected(attempt: Attempt) -> Generator[int, None, None]:
    """Wait until the connection is there."""
    yield WRITE
    raise_code(attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def say(attempt: Attempt, data: bytes) -> Generator[int, None, None]:
    """Send what is so short that the socket takes it as a whole."""
    yield from patiently(lambda: attempt.sock.send(data), WRITE)


def handshake(attempt: Attempt) -> Generator[int, None, None]:
    """TLS on the connection, the certificate checked, if the plan wants it."""
    if attempt.tls is None:
        return
    attempt.stage = "in the TLS handshake"
    attempt.sock = attempt.tls.wrap_socket(
        attempt.sock, server_hostname=attempt.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    yield from patiently(attempt.sock.do_handshake)


def receive_all(attempt: Attempt) -> Generator[int, None, bytes]:
    """What comes until the other side closes."""
    answer = b""
    while len(answer) <= MAX_ANSWER_BYTES:
        try:
            chunk = yield from patiently(lambda: attempt.sock.recv(65536))
        except OSError as error:
            if type(error).__name__ != "SSLEOFError":
                raise
            chunk = b""  # many servers close without TLS's close_notify; the length tells whether the answer is whole
        if not chunk:
            return answer
        attempt.stage = "receiving the answer"
        answer += chunk
    raise AnswerError("wrong", f"an answer of more than {MAX_ANSWER_BYTES} bytes")


def patiently(call: Callable[[], T], blocked: int = READ) -> Generator[int, None, T]:
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
