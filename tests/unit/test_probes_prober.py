"""The prober, as a process against servers on the loopback: each outcome, the open model, and how it ends."""

from __future__ import annotations

import errno
import json
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import InputError
from labctl.probes.archive import prober_archive
from labctl.probes.prober.attempt import outcome_of
from labctl.probes.prober.plan import Plan
from labctl.probes.prober.run import delay_of
from labctl.probes.spec import Kind, Probe, question_of

CERTIFICATE = Path(__file__).with_name("test_probes_tls.pem")  # key and self-signed certificate of mail.test, to 2119
INTERVAL_S = 0.02
LIMIT_S = 0.3
TIMEOUT_S = 2.0  # where an answer is to come, however busy the machine is
SHORT_S = 0.15  # where none is to come
AT_ONCE = 13
LINGER_S = 1.0  # where one waits whether another comes
SOURCES = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]

Answer = Callable[[socket.socket], None]


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Does the same with each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.answer = answer
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.answer(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is what some of these tests are about."""


def http(body: bytes, status: str = "200 OK", header: str = "", length: int | None = None) -> Answer:
    size = len(body) if length is None else length
    answer = f"HTTP/1.1 {status}\r\n{header}Content-Length: {size}\r\n\r\n".encode() + body

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return serve


def tls(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with context.wrap_socket(connection, server_side=True) as wrapped:
        http(b"welcome", header="X-Labctl-Member: m1\r\n")(wrapped)


def hang(connection: socket.socket) -> None:
    time.sleep(3)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def close(connection: socket.socket) -> None:
    connection.recv(65536)


def echo(connection: socket.socket) -> None:
    """The source address that the server saw."""
    http(f"member={connection.getpeername()[0]} ".encode())(connection)


def datagrams(port_of: list[int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port_of.append(sock.getsockname()[1])
        while True:
            _, sender = sock.recvfrom(65535)
            sock.sendto(b"member=u1", sender)


def answering(*answers: bytes) -> int:
    """A port that answers each datagram with all of these; its first two bytes come first, but not before `!`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            asked, sender = sock.recvfrom(65535)
            for answer in answers:
                sock.sendto(answer[1:] if answer.startswith(b"!") else asked[:2] + answer, sender)

    threading.Thread(target=serve, daemon=True).start()
    return int(sock.getsockname()[1])


def keeping(answers: int) -> Answer:
    """Answers that many requests on a connection, in two pieces, and closes it."""

    def serve(connection: socket.socket) -> None:
        for _ in range(answers):
            if not connection.recv(65536):
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nmem")
            time.sleep(0.002)
            connection.sendall(b"b=m1")

    return serve


def speaking(*lines: bytes) -> Answer:
    """Says a line, waits for one, says the next."""

    def serve(connection: socket.socket) -> None:
        for line in lines:
            connection.sendall(line)
            connection.recv(65536)

    return serve


def spoken(kind: Kind, **more: Any) -> dict[str, Any]:
    """What a probe of that kind tells the prober about how to speak."""
    plan = Probe("mail", kind, "127.0.0.1", 25, **more).plan()
    return {name: plan[name] for name in ("kind", "secure", "dialogue", "payload") if name in plan}


def secured(answer: Answer) -> Answer:
    def serve(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        with context.wrap_socket(connection, server_side=True) as wrapped:
            answer(wrapped)

    return serve


ARCHIVE = prober_archive()
KEPT = {"kind": "kept", "sources": SOURCES, "interval_s": 0.3, "timeout_s": 0.9, "limit_s": 2.65}
SMTP = (b"220 mbx ESMTP\r\n", b"250-mbx\r\n250-STARTTLS\r\n250 HELP\r\n", b"221 bye\r\n")
IMAP = (b"* OK ready\r\n", b"* CAPABILITY IMAP4rev2\r\na OK in\r\n", b"* BYE\r\nb OK out\r\n")
POP3 = (b"+OK ready\r\n", b"+OK\r\n", b"+OK in\r\n", b"+OK bye\r\n")
RESOLVED = bytes.fromhex("8180 0001 0002 0000 0000")
NO_NAME = bytes.fromhex("8183 0001 0000 0000 0000")
LOGIN = {"user": "anna", "password": 'a"b'}


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Run:
    """A prober that ran: its exit code and its lines."""

    code: int
    lines: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["line"] == kind]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(r["outcome"] for r in self.of("request"))

    @property
    def details(self) -> str:
        return " | ".join(sorted({r["detail"] for r in self.of("request")}))


class Started:
    """A prober that runs."""

    def __init__(self, folder: Path, name: str, port: int, *, stdin: bool = False, **plan: Any) -> None:
        self.output = folder / f"{name}.jsonl"
        values = {
            "name": name, "kind": "http", "address": "127.0.0.1", "port": port, "interval_s": INTERVAL_S,
            "timeout_s": TIMEOUT_S, "limit_s": LIMIT_S, **plan,
        }  # fmt: skip
        file, program = folder / f"{name}.json", folder / "prober.pyz"
        file.write_text(json.dumps(values))
        if not program.exists():  # others of this folder may run it already
            program.write_bytes(ARCHIVE)
        argv = [sys.executable, "-I", "-S", "-B", str(program), "-" if stdin else str(file), str(self.output)]
        with file.open() as text:
            self.process = subprocess.Popen(argv, stdin=text if stdin else subprocess.DEVNULL)

    def end(self) -> Run:
        code = self.process.wait(timeout=20)
        return Run(code, [json.loads(line) for line in self.output.read_text().splitlines()])

    def wait_for(self, kind: str) -> None:
        deadline = time.monotonic() + 3
        while not (self.output.exists() and f'"line": "{kind}"' in self.output.read_text()):
            assert time.monotonic() < deadline, f"no {kind} line"
            time.sleep(0.005)


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[Answer], int]]:
    running: list[Server] = []

    def serve(answer: Answer) -> int:
        running.append(Server(answer))
        return int(running[-1].server_address[1])

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def runs(servers: Callable[[Answer], int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Many plans at once, since most of their time is waiting."""
    folder = tmp_path_factory.mktemp("probers")
    udp_port: list[int] = []
    threading.Thread(target=datagrams, args=(udp_port,), daemon=True).start()
    welcome, secure = servers(http(b"welcome", header="X-Labctl-Member: m1\r\n")), servers(tls)
    hanging, mail = servers(hang), {"kind": "http", "secure": True, "host": "mail.test", "ca_file": str(CERTIFICATE)}
    while not udp_port:
        time.sleep(0.001)
    plans: dict[str, tuple[int, dict[str, Any]]] = {
        "good": (welcome, {"body": "welc.me", "sources": SOURCES}),
        "another at once": (welcome, {"body": "welc.me", "sources": SOURCES}),
        "clocks": (welcome, {"clock_s": 0.05, "interval_s": 1, "limit_s": 0.26}),
        "endless": (servers(http(b"x" * (2 << 20))), {"interval_s": 1}),
        "stdin": (welcome, {"stdin": True}),
        "member in the body": (servers(echo), {"member": "member=([0-9.]+)", "sources": SOURCES}),
        "tcp": (welcome, {"kind": "tcp"}),
        "udp": (udp_port[0], {"kind": "udp", "member": "member=(u.)", "sources": SOURCES}),
        "udp refused": (free_port(socket.SOCK_DGRAM), {"kind": "udp"}),
        "https": (secure, mail),
        "untrusted": (secure, {**mail, "ca_file": ""}),
        "other name": (secure, {**mail, "host": "cas.test"}),
        "no tls": (welcome, mail),
        "tls hangs": (hanging, {**mail, "timeout_s": SHORT_S}),
        "hangs": (hanging, {"timeout_s": SHORT_S}),
        "refuses": (free_port(), {}),
        "resets": (servers(reset), {}),
        "closes": (servers(close), {}),
        "cut short": (servers(http(b"welc", length=7)), {}),
        "wrong body": (servers(http(b"maintenance")), {"body": "welcome"}),
        "wrong status": (servers(http(b"welcome", "503 Service Unavailable")), {}),
        "foreign source": (welcome, {"sources": ["192.0.2.1"]}),
        "kept": (servers(keeping(1000)), {"member": "memb=(m.)", **KEPT}),
        "kept tls": (servers(secured(keeping(1000))), {**KEPT, **mail, "kind": "kept", "secure": True}),
        "not kept": (servers(keeping(1)), KEPT),
        "dns": (answering(RESOLVED), spoken(Kind.DNS, question="web.micro.test")),
        "dns late answer": (answering(b"!\xff\xff not the answer", RESOLVED), spoken(Kind.DNS, host="web.micro.test")),
        "no such name": (answering(NO_NAME), spoken(Kind.DNS, question="web.micro.test")),
        "two answer": (answering(b"member=u1", b"member=u2"), {
            "kind": "udp", "member": "member=(u.)", "linger": True, "timeout_s": LINGER_S
        }),
        "one answers": (answering(b"member=u1"), {"kind": "udp", "linger": True, "timeout_s": LINGER_S}),
        "none answers": (answering(), {"kind": "udp", "linger": True, "timeout_s": LINGER_S}),
        "smtp": (servers(speaking(*SMTP)), spoken(Kind.SMTP)),
        "smtp refuses": (servers(speaking(b"554 no mail here\r\n")), spoken(Kind.SMTP)),
        "imap": (servers(speaking(*IMAP)), spoken(Kind.IMAP, **LOGIN)),
        "imap refuses": (servers(speaking(IMAP[0], b"a NO who?\r\n")), spoken(Kind.IMAP, **LOGIN)),
        "imaps": (servers(secured(speaking(IMAP[0], IMAP[2]))), {**spoken(Kind.IMAPS), **mail, "kind": "lines"}),
        "pop3": (servers(speaking(*POP3)), spoken(Kind.POP3, **LOGIN)),
        "pop3 refuses": (servers(speaking(POP3[0], b"-ERR who?\r\n")), spoken(Kind.POP3, **LOGIN)),
        "hangs up": (servers(speaking(IMAP[0])), spoken(Kind.IMAP)),
    }  # fmt: skip
    ran: dict[str, Run] = {}
    names = list(plans)
    for batch in (names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)):
        started = {name: Started(folder, name, plans[name][0], **plans[name][1]) for name in batch}
        ran |= {name: one.end() for name, one in started.items()}
    return ran


@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        ("good", "ok", "200"),
        ("another at once", "ok", "200"),
        ("endless", "wrong", "more than 1048576 bytes"),
        ("stdin", "ok", "200"),
        ("member in the body", "ok", "200"),
        ("tcp", "ok", ""),
        ("udp", "ok", "9 bytes"),
        ("https", "ok", "200"),
        ("untrusted", "wrong", "certificate: self"),
        ("other name", "wrong", "certificate: Hostname mismatch"),
        ("hangs", "timeout", "waiting for the answer after 0.1"),
        ("tls hangs", "timeout", "in the TLS handshake after 0.1"),
        ("refuses", "refused", "Connection refused"),
        ("udp refused", "refused", "Connection refused"),
        ("resets", "reset", "Connection reset"),
        ("closes", "reset", "closed after 0 bytes"),
        ("cut short", "reset", "closed after 4 of 7 bytes"),
        ("wrong body", "wrong", "body 'maintenance' without 'welcome'"),
        ("wrong status", "wrong", "expected status 200"),
        ("no tls", "wrong", "SSL"),
        ("kept", "ok", "200"),
        ("kept tls", "ok", "200"),
        ("dns", "ok", "2 answers"),
        ("dns late answer", "ok", "2 answers"),
        ("no such name", "wrong", "response code 3, 0 answers"),
        ("two answer", "ok", "11 bytes"),
        ("one answers", "ok", "11 bytes"),
        ("none answers", "timeout", "waiting for the answer"),
        ("smtp", "ok", "5 lines"),
        ("smtp refuses", "wrong", "'554 no mail here', expected '220 '"),
        ("imap", "ok", "5 lines"),
        ("imap refuses", "wrong", "'a NO who?', expected 'a OK'"),
        ("imaps", "ok", "3 lines"),
        ("pop3", "ok", "4 lines"),
        ("pop3 refuses", "wrong", "'-ERR who?'"),
        ("hangs up", "reset", "closed while waiting for 'b OK'"),
        ("foreign source", "error", "Cannot assign"),
    ],
)
def test_each_outcome_is_told_apart_and_explained(runs: dict[str, Run], name: str, outcome: str, detail: str) -> None:
    run = runs[name]
    assert set(run.outcomes) == {outcome}, run.details
    assert detail in run.details
    assert run.code == 0


@pytest.mark.parametrize("name", ["good", "another at once", "hangs", "refuses", "resets", "tls hangs"])
def test_the_rate_is_kept_whatever_the_server_does(runs: dict[str, Run], name: str) -> None:
    requests = runs[name].of("request")
    assert sorted(r["k"] for r in requests) == list(range(15))
    assert {
        round(r["due"] - requests[0]["due"] - r["k"] * INTERVAL_S + requests[0]["k"] * INTERVAL_S, 4) for r in requests
    } == {0}
    assert all(r["started"] >= r["due"] - 1e-6 for r in requests)


def test_a_request_ends_when_its_timeout_is_over(runs: dict[str, Run]) -> None:
    took = [r["ended"] - r["started"] for r in runs["hangs"].of("request")]
    assert min(took) >= SHORT_S
    assert sorted(took)[len(took) // 2] < 1.0  # the server hangs for three seconds; the machine may be busy


@pytest.mark.parametrize("name", ["good", "member in the body", "udp"])
def test_each_request_comes_from_the_next_source(runs: dict[str, Run], name: str) -> None:
    assert all(r["source"] == SOURCES[r["k"] % 3] and r["port"] > 0 for r in runs[name].of("request"))


def test_the_server_sees_the_source_address(runs: dict[str, Run]) -> None:
    assert all(r["member"] == r["source"] for r in runs["member in the body"].of("request"))


@pytest.mark.parametrize(("name", "member"), [("good", "m1"), ("https", "m1"), ("udp", "u1"), ("tcp", None)])
def test_the_member_that_answered_is_named(runs: dict[str, Run], name: str, member: str | None) -> None:
    assert {r["member"] for r in runs[name].of("request")} == {member}


def test_an_answer_of_the_wrong_kind_names_no_member(runs: dict[str, Run]) -> None:
    assert {r["member"] for r in runs["wrong body"].of("request")} == {None}


def test_the_limit_ends_it_and_the_counts_are_right(runs: dict[str, Run]) -> None:
    for run in runs.values():
        end = run.lines[-1]
        assert (end["line"], end["reason"]) == ("end", "limit")
        assert end["started"] == end["finished"] == len(run.of("request"))


def test_the_clocks_are_written_at_the_start_and_at_the_end(runs: dict[str, Run]) -> None:
    run = runs["good"]
    assert [line["line"] for line in run.lines[:2]] == ["start", "clock"]
    assert run.lines[-2]["line"] == "clock"
    walls = [c["real_ns"] / 1e9 - c["mono"] for c in run.of("clock")]
    assert max(walls) - min(walls) < 0.01
    assert all(0 <= c["jitter"] < 0.01 for c in run.of("clock"))


def test_the_clocks_are_written_at_their_interval(runs: dict[str, Run]) -> None:
    *clocks, _at_the_end = [c["mono"] for c in runs["clocks"].of("clock")]
    assert len(clocks) >= 3
    assert all(at_s >= clocks[0] + number * 0.05 - 0.01 for number, at_s in enumerate(clocks))


def test_sigterm_lets_what_is_under_way_end(servers: Callable[[Answer], int], tmp_path: Path) -> None:
    running = Started(tmp_path, "drain", servers(hang), limit_s=60, timeout_s=0.2)
    running.wait_for("clock")
    running.process.terminate()
    run = running.end()
    end = run.lines[-1]
    assert (run.code, end["line"], end["reason"]) == (0, "end", "signal")
    assert end["started"] == end["finished"] == run.outcomes["timeout"] > 0


def test_a_sampler_that_was_stopped_says_which_requests_were_late(
    servers: Callable[[Answer], int], tmp_path: Path
) -> None:
    running = Started(tmp_path, "late", servers(http(b"welcome")), late_s=0.05, limit_s=0.3)
    running.wait_for("request")
    running.process.send_signal(signal.SIGSTOP)
    time.sleep(0.15)  # the stall itself
    running.process.send_signal(signal.SIGCONT)
    run = running.end()
    late = {line["k"] for line in run.of("late")}
    assert late == {r["k"] for r in run.of("request") if r["started"] - r["due"] > 0.05}
    assert len(late) >= 4
    assert sorted(r["k"] for r in run.of("request")) == list(range(15))
    assert run.lines[-1]["late"] == len(late)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EPIPE, "reset"),
        (errno.EMFILE, "error"),
    ],
)
def test_the_systems_errors_have_their_outcome(code: int, outcome: str) -> None:
    assert outcome_of(OSError(code, "said so")) == (outcome, "said so")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    running = Started(tmp_path, "kind", 1, kind="gopher")
    assert running.process.wait(timeout=5) == 1


@pytest.mark.parametrize("name", ["kept", "kept tls"])
def test_a_connection_that_is_kept_carries_all_requests_of_its_source(runs: dict[str, Run], name: str) -> None:
    requests = runs[name].of("request")
    assert len(requests) > len(SOURCES)
    assert {r["connection"] for r in requests} == {1}
    assert len({(r["source"], r["port"]) for r in requests}) == len(SOURCES)
    assert {r["member"] for r in runs["kept"].of("request")} == {"m1"}


def test_a_connection_that_breaks_is_made_anew_and_that_is_told(runs: dict[str, Run]) -> None:
    run = runs["not kept"]
    assert run.code == 0
    assert set(run.outcomes) == {"ok", "reset"}
    mine = [r for r in run.of("request") if r["source"] == SOURCES[0]]
    assert [r["connection"] for r in mine[:3]] == [1, 1, 2]
    assert [r["outcome"] for r in mine[:3]] == ["ok", "reset", "ok"]


def test_a_request_that_two_answer_says_so(runs: dict[str, Run]) -> None:
    assert {r["answers"] for r in runs["two answer"].of("request")} == {2}
    assert {r["member"] for r in runs["two answer"].of("request")} == {"u1"}
    assert {r["answers"] for r in runs["one answers"].of("request")} == {1}
    took_s = min(r["ended"] - r["started"] for r in runs["one answers"].of("request"))
    assert took_s < LINGER_S / 2  # when the answer came, not when waiting for more was over


def test_a_probe_of_dns_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="a question is missing"):
        Probe("dns", Kind.DNS, "127.0.0.1", 53)


def test_a_connection_that_is_kept_has_room_for_one_request_at_a_time() -> None:
    with pytest.raises(InputError, match=r"each source is asked every 0\.05 s, and may take 0\.9 s"):
        Probe("web", Kind.KEPT, "127.0.0.1", 80)


def test_a_connection_that_is_kept_can_be_secure() -> None:
    assert spoken(Kind.KEPT_TLS, sources=tuple(SOURCES), rate_hz=1.0) == {
        "kind": "kept", "secure": True
    }  # fmt: skip


def test_a_question_is_as_the_rfc_wants_it() -> None:
    asked = question_of("web.micro.test.")
    assert asked[10:] == b"\x03web\x05micro\x04test\x00\x00\x01\x00\x01"
    assert asked[:10] == bytes.fromhex("0100 0001 0000 0000 0000")


def test_a_password_can_hold_any_character() -> None:
    (_, login), *_ = spoken(Kind.IMAP, **LOGIN)["dialogue"]
    assert login == 'a LOGIN "anna" "a\\"b"'


def test_plans_of_one_program_do_not_ask_all_at_the_same_moments() -> None:
    slow = Plan("p", "tcp", "10.0.0.1", 80, interval_s=16.0, timeout_s=1.0, limit_s=60.0)
    assert [delay_of(slow, i, 4) for i in range(4)] == [0.0, 4.0, 8.0, 12.0]
    seldom = Plan("p", "tcp", "10.0.0.1", 80, interval_s=1000.0, timeout_s=1.0, limit_s=60.0)
    assert delay_of(seldom, 1, 2) == 15.0
