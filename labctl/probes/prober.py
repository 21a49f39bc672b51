"""The program that asks a service at a fixed rate from inside a guest, and writes down each answer.

    python3 prober.py PLAN OUTPUT        PLAN: a JSON file, or - for standard input; OUTPUT: appended to

It stands alone: Python 3.11 or later and its standard library. Request k is due at start + k * `interval_s`, whatever
became of the ones before it, so that a server that hangs is not hidden. Request k binds `sources[k % n]`.

OUTPUT is JSON Lines, each written at once; times are seconds on the guest's CLOCK_MONOTONIC:

    {"line": "start", "pid", "at"}
    {"line": "request", "k", "due", "started", "ended", "source", "port", "outcome", "member", "detail", "connection",
     "answers"}
    {"line": "clock", "real_ns", "mono", "jitter"}     every `clock_s`, at the start and at the end
    {"line": "late", "k", "due", "started"}            a request that was started more than `late_s` after it was due
    {"line": "end", "at", "reason", "started", "finished", "late"}

SIGTERM: no new requests from the next thing that happens on, the outcome of those under way, `end`, exit code 0. The
same after `limit_s`, so that it ends by itself when nobody is left to stop it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import ssl

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MAX_ANSWER_BYTES = 1 << 20
MAX_STARTS_PER_TURN = 16  # more at once would keep the answers under way waiting, and blame the server for it
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the port is chosen on connect, so one port serves several sources

OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    **dict.fromkeys((errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN), "reset"),
    **dict.fromkeys((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN), "unreachable"),
    errno.ETIMEDOUT: "timeout",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What to ask, how often, and what counts as right.

    Attributes:
        kind: `tcp` (connect), `http`, `https` (GET), `kept` (GET on a connection that each source keeps), `udp` (one
            datagram, one answer), `dns` (the same, and the answer must resolve), or `lines` (a dialogue line by line).
        host: name for the Host header, for the TLS server name and for the certificate; else the address.
        interval_s: from one request to the next, over all sources.
        limit_s: seconds after which it stops by itself.
        status: the HTTP status expected.
        body: regular expression that must be found in the body, or the datagram; empty for any.
        member: regular expression whose first group in the body names the member; a header X-Labctl-Member comes first.
        ca_file: trusted certificates; empty for the guest's own.
        payload: the datagram to send; hexadecimal of `dns`.
        linger: of `udp`: wait until the timeout for further answers, and count them.
        dialogue: of `lines`: what a line must begin with, and what is then sent; other lines before it are read over.
        secure: of `lines` and `kept`: over TLS from the first byte on.
    """

    name: str
    kind: str
    address: str
    port: int
    interval_s: float
    timeout_s: float
    limit_s: float
    host: str = ""
    path: str = "/"
    sources: tuple[str, ...] = ()
    late_s: float = 0.1
    clock_s: float = 1.0
    status: int = 200
    body: str = ""
    member: str = ""
    ca_file: str = ""
    payload: str = "labctl\n"
    linger: bool = False
    dialogue: tuple[tuple[str, str], ...] = ()
    secure: bool = False


class AnswerError(Exception):
    """The request ended with another outcome than ok; arguments: outcome, detail."""


Steps = Generator[int, None, tuple[str | None, str]]
"""A request as a generator: yields the events it waits for, returns (member, detail) when the answer is right."""


class Attempt:
    """One request that is under way."""

    def __init__(self, k: int, due: float, started: float, plan: Plan) -> None:
        self.k, self.due, self.started = k, due, started
        self.deadline = started + plan.timeout_s
        self.source = plan.sources[k % len(plan.sources)] if plan.sources else ""
        self.stage = "connecting"
        self.port = self.events = 0
        self.fd = -1
        self.sock: Any = None  # a socket, later maybe TLS on it
        self.steps: Steps | None = None
        self.connection = 0  # of `kept`: the source's how manieth
        self.answers: list[tuple[float, str | None, str]] = []  # of `linger`: when, which member, what

    def connect(self, plan: Plan) -> None:
        """Open the socket, bind the source, begin to connect. Raises OSError."""
        family = socket.AF_INET6 if ":" in plan.address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM if plan.kind in {"udp", "dns"} else socket.SOCK_STREAM)
        self.fd = self.sock.fileno()
        self.sock.setblocking(False)
        if self.source:
            self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((self.source, 0))
        raise_code(self.sock.connect_ex((plan.address, plan.port)))
        self.port = self.sock.getsockname()[1]


def raise_code(code: int) -> None:
    """Raise the error of an errno, unless it means that all is well."""
    if code not in {0, errno.EINPROGRESS}:
        raise OSError(code, os.strerror(code))


# -- the kinds of request ------------------------------------------------------------------------------------------


def ask_tcp(attempt: Attempt) -> Steps:
    """Connect, no more."""
    yield WRITE
    raise_code(attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return None, ""


def ask_udp(attempt: Attempt, plan: Plan) -> Steps:
    """One datagram, and the first answer to it."""
    attempt.stage = "waiting for the answer"
    yield from patiently(lambda: attempt.sock.send(plan.payload.encode()), WRITE)
    while True:
        answer = yield from patiently(lambda: attempt.sock.recv(65535))
        member, detail = judged_body(plan, answer, None), f"{len(answer)} bytes"
        if not plan.linger:
            return member, detail
        attempt.answers.append((time.monotonic(), member, detail))


def ask_dns(attempt: Attempt, plan: Plan) -> Steps:
    """One question, and an answer to it that resolves (RFC 1035, 4.1)."""
    attempt.stage = "waiting for the answer"
    question = (attempt.k % 0xFFFF).to_bytes(2) + bytes.fromhex(plan.payload)
    yield from patiently(lambda: attempt.sock.send(question), WRITE)
    answer = b""
    while answer[:2] != question[:2]:  # what is no answer to this question is somebody's else
        answer = yield from patiently(lambda: attempt.sock.recv(65535))
    code, count = answer[3] & 15, int.from_bytes(answer[6:8])
    if code or not count:
        raise AnswerError("wrong", f"response code {code}, {count} answers")
    return None, f"{count} answers"


def ask_lines(attempt: Attempt, plan: Plan, tls: ssl.SSLContext | None) -> Steps:
    """A dialogue as in SMTP, IMAP and POP3: each line that is awaited, and what is said to it."""
    yield from ask_tcp(attempt)
    if tls is not None:
        yield from handshake(attempt, tls, plan.host or plan.address)
    said, lines = b"", 0
    for awaited, reply in plan.dialogue:
        attempt.stage = f"waiting for {awaited!r}"
        while True:
            line, found, said = said.partition(b"\n")
            if not found:
                chunk = yield from patiently(lambda: attempt.sock.recv(65536))
                if not chunk or len(line) > MAX_ANSWER_BYTES:
                    raise AnswerError("reset", f"closed while {attempt.stage}")
                said = line + chunk
                continue
            lines += 1
            if re.match(awaited, line.decode("utf-8", "replace")):
                break
            if re.match(r"(-ERR|[45]\d\d[ -]|\S+ (NO|BAD) )", line.decode("utf-8", "replace")):
                raise AnswerError("wrong", f"{line.decode('utf-8', 'replace').strip()[:80]!r}, expected {awaited!r}")
        if reply:
            yield from say(attempt, reply.encode() + b"\r\n")
    return None, f"{lines} lines"


def ask_kept(attempt: Attempt, plan: Plan, fresh: bool, tls: ssl.SSLContext | None) -> Steps:
    """GET on a connection that stays, made first if need be; the length says where the answer ends."""
    if fresh:
        yield from ask_tcp(attempt)
        if tls is not None:
            yield from handshake(attempt, tls, plan.host or plan.address)
    attempt.stage = "sending the request"
    yield from say(attempt, request_of(plan, attempt, "1.1"))
    attempt.stage = "waiting for the answer"
    answer = b""
    while True:
        head, found, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head) if found else None
        if found and length is None:
            raise AnswerError("wrong", "an answer without its length can't be kept apart from the next one")
        if length and len(body) >= int(length[1]):
            return judged_http(plan, answer)
        chunk = yield from patiently(lambda: attempt.sock.recv(65536))
        if not chunk:
            raise AnswerError("reset", f"closed after {len(answer)} bytes of an answer")
        answer += chunk


def ask_http(attempt: Attempt, plan: Plan, tls: ssl.SSLContext | None) -> Steps:
    """GET, the answer read to the end of the connection."""
    yield from ask_tcp(attempt)
    host = plan.host or plan.address
    if tls is not None:
        yield from handshake(attempt, tls, host)
    attempt.stage = "sending the request"
    yield from say(attempt, request_of(plan, attempt, "1.0"))
    attempt.stage = "waiting for the answer"
    answer = yield from receive_all(attempt)
    return judged_http(plan, answer)


def say(attempt: Attempt, data: bytes) -> Generator[int, None, None]:
    """Send what is so short that the socket takes it as a whole."""
    yield from patiently(lambda: attempt.sock.send(data), WRITE)


def request_of(plan: Plan, attempt: Attempt, version: str) -> bytes:
    """A GET."""
    agent = f"labctl-probe/{plan.name} {attempt.k}"
    return (
        f"GET {plan.path} HTTP/{version}\r\nHost: {plan.host or plan.address}\r\nUser-Agent: {agent}\r\n\r\n".encode()
    )


def handshake(attempt: Attempt, tls: ssl.SSLContext, host: str) -> Generator[int, None, None]:
    """TLS on the connection, the certificate checked."""
    attempt.stage = "in the TLS handshake"
    attempt.sock = tls.wrap_socket(
        attempt.sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
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


def judged_http(plan: Plan, answer: bytes) -> tuple[str | None, str]:
    """Member and status of an answer that is what the plan expects; raises AnswerError."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        raise AnswerError("reset", f"closed after {len(answer)} bytes, before the end of the header")
    status_line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    length = headers.get("content-length", "")
    if length.isdigit() and len(body) < int(length):
        raise AnswerError("reset", f"closed after {len(body)} of {length} bytes")
    status = status_line[9:12]  # HTTP/1.1 200 OK
    if status != str(plan.status):
        raise AnswerError("wrong", f"{status_line[:80]!r}, expected status {plan.status}")
    return judged_body(plan, body, headers.get("x-labctl-member")), status


def judged_body(plan: Plan, body: bytes, member: str | None) -> str | None:
    """The member that a right body names; raises AnswerError."""
    text = body.decode("utf-8", "replace")
    if plan.body and not re.search(plan.body, text):
        raise AnswerError("wrong", f"body {text[:60]!r} without {plan.body!r}")
    match = re.search(plan.member, text) if plan.member and member is None else None
    return match[match.re.groups and 1] if match else member


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


class Prober:
    """Runs one plan to its end."""

    def __init__(self, plan: Plan, output: int) -> None:
        self.plan = plan
        self.output = output
        self.selector = selectors.DefaultSelector()
        self.tls = tls_context(plan) if plan.kind == "https" or plan.secure else None
        self.kept: dict[str, Any] = {}  # by source, its connection while no request is under way on it
        self.connections: dict[str, int] = {}  # by source, how many it has had
        self.under_way: dict[int, Attempt] = {}  # by k, so by deadline too: all have the same timeout
        self.next_k = self.finished = self.late = 0
        self.begin = self.next_clock = self.limit = 0.0
        self.stopping = ""

    def run(self) -> None:
        """Ask until told to stop or the limit, then write down the rest."""
        self.begin = self.next_clock = time.monotonic()
        self.limit = self.begin + self.plan.limit_s
        self.write(line="start", pid=os.getpid(), at=self.begin)
        while not (self.stopping and not self.under_way):
            self.turn(time.monotonic())
        self.write_clock()
        counts = {"started": self.next_k, "finished": self.finished, "late": self.late}
        self.write(line="end", at=time.monotonic(), reason=self.stopping, **counts)

    def stop(self, reason: str) -> None:
        """Start no more requests."""
        self.stopping = self.stopping or reason

    def turn(self, now: float) -> None:
        """One round: start what is due, wait for the next thing to happen, deal with it."""
        if now >= self.next_clock:
            self.write_clock()
            self.next_clock = max(self.next_clock + self.plan.clock_s, now)
        self.expire(now)  # a source keeps one connection: what is over on it ends before the next begins
        for _ in range(MAX_STARTS_PER_TURN):
            due = self.due(self.next_k)
            if self.stopping or due > time.monotonic() or due >= self.limit:
                break
            self.start()
        if now >= self.limit <= self.due(self.next_k):  # what was due before is asked, however late
            self.stop("limit")
        for key, _ in self.selector.select(self.idle_s()):
            self.step(key.data)
        self.expire(time.monotonic())

    def due(self, k: int) -> float:
        """When request `k` is due."""
        return self.begin + k * self.plan.interval_s

    def idle_s(self) -> float:
        """Seconds until something has to be done without an answer."""
        if self.stopping and not self.under_way:
            return 0.0
        moments = [self.next_clock] if self.stopping else [self.next_clock, self.due(self.next_k), self.limit]
        oldest = next(iter(self.under_way.values()), None)
        moments += [oldest.deadline] if oldest else []
        return max(0.0, min(moments) - time.monotonic())

    def start(self) -> None:
        """Start the next request."""
        k, due, now = self.next_k, self.due(self.next_k), time.monotonic()
        self.next_k += 1
        if now - due > self.plan.late_s:
            self.late += 1
            self.write(line="late", k=k, due=due, started=now)
        attempt = Attempt(k, due, now, self.plan)
        self.under_way[k] = attempt
        sock = self.kept.pop(attempt.source, None)
        try:
            if sock is not None:
                attempt.sock, attempt.fd, attempt.port = sock, sock.fileno(), sock.getsockname()[1]
            else:
                attempt.connect(self.plan)
        except OSError as error:
            self.finish(attempt, *outcome_of(error))
            return
        if self.plan.kind == "kept":
            self.connections[attempt.source] = self.connections.get(attempt.source, 0) + (sock is None)
            attempt.connection = self.connections[attempt.source]
        attempt.steps = self.steps(attempt, fresh=sock is None)
        self.step(attempt)

    def steps(self, attempt: Attempt, *, fresh: bool) -> Steps:
        """The generator of the plan's kind."""
        kinds: dict[str, Callable[[], Steps]] = {
            "tcp": lambda: ask_tcp(attempt),
            "udp": lambda: ask_udp(attempt, self.plan),
            "dns": lambda: ask_dns(attempt, self.plan),
            "lines": lambda: ask_lines(attempt, self.plan, self.tls),
            "kept": lambda: ask_kept(attempt, self.plan, fresh, self.tls),
        }
        return kinds.get(self.plan.kind, lambda: ask_http(attempt, self.plan, self.tls))()

    def step(self, attempt: Attempt) -> None:
        """Let a request go on, to its end or to the next thing that it waits for."""
        assert attempt.steps is not None
        try:
            events = next(attempt.steps)
        except StopIteration as done:
            member, detail = done.value
            self.finish(attempt, "ok", detail, member)
        except (OSError, AnswerError) as error:
            self.finish(attempt, *outcome_of(error))
        else:
            self.watch(attempt, events)

    def watch(self, attempt: Attempt, events: int) -> None:
        """Wait for `events` on the attempt's socket."""
        if attempt.events == 0:
            self.selector.register(attempt.fd, events, attempt)
        elif attempt.events != events:
            self.selector.modify(attempt.fd, events, attempt)
        attempt.events = events

    def expire(self, now: float) -> None:
        """End the requests whose time is up."""
        for attempt in list(self.under_way.values()):
            if attempt.deadline > now:
                break
            if attempt.answers:
                _, member, detail = attempt.answers[0]
                self.finish(attempt, "ok", detail, member)
                continue
            self.finish(attempt, "timeout", f"{attempt.stage} after {now - attempt.started:.3f} s")

    def finish(self, attempt: Attempt, outcome: str, detail: str, member: str | None = None) -> None:
        """Write the outcome down and let go of the socket."""
        ended = attempt.answers[0][0] if attempt.answers else time.monotonic()
        del self.under_way[attempt.k]
        if attempt.events:
            self.selector.unregister(attempt.fd)
        if outcome == "ok" and attempt.connection and attempt.source not in self.kept:
            self.kept[attempt.source] = attempt.sock
        elif attempt.sock is not None:
            attempt.sock.close()
        self.finished += 1
        self.write(
            line="request", k=attempt.k, due=attempt.due, started=attempt.started, ended=ended, source=attempt.source,
            port=attempt.port, outcome=outcome, member=member, detail=detail, connection=attempt.connection,
            answers=max(1, len(attempt.answers)),
        )  # fmt: skip

    def write_clock(self) -> None:
        """Both clocks at one moment; the best of three, since anything may come between two reads."""
        reads = [(time.monotonic(), time.time_ns(), time.monotonic()) for _ in range(3)]
        first, real_ns, last = min(reads, key=lambda r: r[2] - r[0])
        self.write(line="clock", real_ns=real_ns, mono=(first + last) / 2, jitter=last - first)

    def write(self, **values: Any) -> None:
        """One line, in one write."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        os.write(self.output, json.dumps(rounded).encode() + b"\n")


def tls_context(plan: Plan) -> ssl.SSLContext:
    """Checks certificates against the guest's CA store, or the plan's."""
    import ssl  # noqa: PLC0415 - see `patiently`

    context = ssl.create_default_context(cafile=plan.ca_file or None)
    # Python 3.13 rejects certificates that curl, browsers and mail clients take; it is their view that counts here.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def main(argv: list[str]) -> int:
    """Run the plan in the file `argv[1]`, appending to `argv[2]`."""
    values = json.loads(sys.stdin.read() if argv[1] == "-" else Path(argv[1]).read_text("utf-8"))
    dialogue = tuple((awaited, reply) for awaited, reply in values.get("dialogue", ()))
    plan = Plan(**{**values, "sources": tuple(values.get("sources", ())), "dialogue": dialogue})
    kinds = ("tcp", "http", "https", "kept", "udp", "dns", "lines")
    if plan.kind not in kinds:
        raise SystemExit(f"kind {plan.kind!r} is none of {', '.join(kinds)}")
    # A server that hangs keeps rate * timeout sockets open.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    prober = Prober(plan, os.open(argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    signal.signal(signal.SIGTERM, lambda *_: prober.stop("signal"))
    prober.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
