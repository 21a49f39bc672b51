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

from labctl.probes import prober

CERTIFICATE = Path(__file__).with_name("test_probes_tls.pem")  # key and self-signed certificate of mail.test, to 2119
INTERVAL_S = 0.02
LIMIT_S = 0.3
TIMEOUT_S = 2.0  # where an answer is to come, however busy the machine is
SHORT_S = 0.15  # where none is to come
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
        file = folder / f"{name}.json"
        file.write_text(json.dumps(values))
        argv = [sys.executable, "-I", "-S", "-B", prober.__file__, "-" if stdin else str(file), str(self.output)]
        with file.open() as text:
            self.process = subprocess.Popen(argv, stdin=text if stdin else subprocess.DEVNULL)

    def end(self) -> Run:
        code = self.process.wait(timeout=5)
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
    """All plans at once, since most of their time is waiting."""
    folder = tmp_path_factory.mktemp("probers")
    udp_port: list[int] = []
    threading.Thread(target=datagrams, args=(udp_port,), daemon=True).start()
    welcome, secure = servers(http(b"welcome", header="X-Labctl-Member: m1\r\n")), servers(tls)
    hanging, mail = servers(hang), {"kind": "https", "host": "mail.test", "ca_file": str(CERTIFICATE)}
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
    }
    started = {name: Started(folder, name, port, **plan) for name, (port, plan) in plans.items()}
    return {name: one.end() for name, one in started.items()}


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
    assert sorted(took)[len(took) // 2] < SHORT_S + 0.1


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
    assert prober.outcome_of(OSError(code, "said so")) == (outcome, "said so")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    running = Started(tmp_path, "kind", 1, kind="gopher")
    assert running.process.wait(timeout=5) == 1
