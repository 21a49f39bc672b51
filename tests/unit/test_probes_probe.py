"""A running probe against a guest that is a folder of this machine: the real prober, the real follower."""

from __future__ import annotations

import io
import os
import signal
import socket
import socketserver
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from labctl.clock import Deadline, wait_until
from labctl.errors import AgentGone, DeadlineExceeded, GuestError, InputError, LabError
from labctl.guest.agent import Completed
from labctl.history import (
    ClockEvent,
    History,
    HistoryWriter,
    Note,
    Outcome,
    SamplerKind,
    read_history,
)
from labctl.probes import Expect, Kind, Probe, RunningProbe
from labctl.probes.prober.plan import Plan


class LocalGuest:
    """A guest whose files and processes are this machine's. `gone` makes its agent silent."""

    name = "client"

    def __init__(self) -> None:
        self.gone = False
        self.spoil: dict[str, bytes] = {}

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, within_s: float) -> Completed:
        self._answer()
        given = self._spoiled(stdin) if stdin and self.spoil else stdin or b""
        done = subprocess.run(list(argv), check=False, capture_output=True, timeout=within_s, input=given)
        return Completed(done.returncode, done.stdout, done.stderr)

    def _spoiled(self, packed: bytes) -> bytes:
        """An archive with other contents of some files."""
        spoiled = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(packed)) as old, tarfile.open(fileobj=spoiled, mode="w") as new:
            for member in old.getmembers():
                data = self.spoil.get(member.name) or old.extractfile(member).read()  # type: ignore[union-attr]
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        return spoiled.getvalue()

    def read_file(self, path: str, *, offset: int) -> bytes:
        self._answer()
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read()

    def clock_ns(self) -> int:
        self._answer()
        return time.time_ns()

    def _answer(self) -> None:
        if self.gone:
            raise AgentGone("client: the guest agent does not answer")


class Greeter(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers each connection with the member's name."""

    daemon_threads = True
    request_queue_size = 64

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        request.recv(4096)
        request.sendall(b"HTTP/1.1 200 OK\r\nX-Labctl-Member: m1\r\nContent-Length: 2\r\n\r\nhi")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Greeter(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


class Bench:
    """Everything that a running probe needs, in one folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.guest = LocalGuest()
        self.base = folder / "run"
        self.base.mkdir()
        self.file = folder / "history.jsonl"
        self.port = port
        self.writer = HistoryWriter(self.file)

    def probe(self, name: str = "web", rate_hz: float = 50.0) -> RunningProbe:
        sources = ("127.0.0.21", "127.0.0.22")
        spec = Probe(
            name, Kind.HTTP, "127.0.0.1", self.port, sources=sources, rate_hz=rate_hz, timeout_s=2.0, clock_s=0.05
        )
        return RunningProbe(spec, self.guest, self.writer, base=str(self.base), poll_s=0.02, stall_s=0.2)

    def probes(self, *names: str) -> RunningProbe:
        """Several that one program runs."""
        specs = [self.probe(name).probes[0] for name in names]
        return RunningProbe(specs, self.guest, self.writer, base=str(self.base), poll_s=0.02, stall_s=0.2)

    def history(self) -> History:
        return read_history(self.file)

    def wait_for(self, what: str, claim: Callable[[History], object]) -> None:
        wait_until(what, lambda: (claim(self.history()) or None, "not yet"), Deadline.within(5), every_s=0.02)

    def probers(self) -> list[str]:
        """The command lines of the probers that run in this folder."""
        lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        return [line.replace(b"\0", b" ").decode() for line in lines if str(self.base).encode() in line]


@pytest.fixture
def bench(tmp_path: Path, port: int) -> Iterator[Bench]:
    one = Bench(tmp_path, port)
    with one.writer:
        yield one


def pid_of(bench: Bench) -> int:
    (file,) = bench.base.glob("labctl-probe.*/pid")
    return int(file.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[tuple[Bench, float, float]]:
    """Two probes at once in one guest, from beginning to end; the bench, and when that was."""
    one = Bench(tmp_path_factory.mktemp("whole"), port)
    before_s = time.monotonic()
    with one.writer:
        with one.probe("web"), one.probe("second"):
            assert len(one.probers()) == 2
            one.wait_for("samples", lambda h: min(len(h.samples(n)) for n in ("web", "second")) >= 10)
        yield one, before_s, time.monotonic()


@pytest.mark.parametrize("name", ["web", "second"])
def test_samples_stream_into_the_history_on_its_clock(whole: tuple[Bench, float, float], name: str) -> None:
    bench, before_s, after_s = whole
    samples = bench.history().samples(name)
    assert sorted(s.number for s in samples) == list(range(len(samples)))
    assert {(s.outcome, s.member, s.target) for s in samples} == {(Outcome.OK, "m1", f"127.0.0.1:{bench.port}")}
    assert {s.source for s in samples} == {"127.0.0.21", "127.0.0.22"}
    assert all(before_s - s.error_s <= s.at_s <= s.ended_s <= after_s + s.error_s for s in samples)
    assert all(abs(c.offset_s) <= c.error_s for c in bench.history().of(ClockEvent))


@pytest.mark.parametrize("name", ["web", "second"])
def test_it_says_its_plan_when_it_starts_and_what_counts_when_it_ends(
    whole: tuple[Bench, float, float], name: str
) -> None:
    history = whole[0].history()
    started, ended = (e for e in history.sampler(name) if e.kind is not SamplerKind.LATE)
    assert (started.kind, started.interval_s, started.timeout_s) == (SamplerKind.STARTED, 0.02, 2.0)
    assert started.sources == ("127.0.0.21", "127.0.0.22")
    assert (ended.kind, ended.detail) == (SamplerKind.ENDED, "signal")
    assert ended.requests == ended.finished == len(history.samples(name))


def test_nothing_is_left_behind(whole: tuple[Bench, float, float]) -> None:
    assert whole[0].probers() == []
    assert list(whole[0].base.iterdir()) == []


def test_what_was_sampled_is_in_the_history_after_a_stop(bench: Bench) -> None:
    with bench.probe() as probe:
        probe.stop()
        probe.stop()
        history = bench.history()
    assert history.sampler("web")[-1].finished == len(history.samples("web"))


def test_several_probes_are_one_program_and_each_has_its_samples(bench: Bench) -> None:
    with bench.probes("one", "two", "three") as running:
        assert len(bench.probers()) == 1
        running.sample_rounds(2)
    history = bench.history()
    for name in ("one", "two", "three"):
        ended = history.sampler(name)[-1]
        assert (ended.kind, ended.detail) == (SamplerKind.ENDED, "signal")
        assert ended.finished == len(history.samples(name)) >= 4
    assert list(bench.base.iterdir()) == []


def test_probes_of_one_program_must_have_names_of_their_own(bench: Bench) -> None:
    with pytest.raises(InputError, match="probes web, web: expected one or more, of different names"):
        bench.probes("web", "web")


def test_rounds_are_counted_from_now_on_by_what_is_written_down(bench: Bench) -> None:
    with bench.probe() as probe:
        began_s = time.monotonic()
        probe.sample_rounds(4)
        seen = [s for s in bench.history().samples("web") if s.at_s >= began_s]
        assert len(seen) >= 4 * 2
        probe.sample_rounds(1, at_least_s=0.5)
        assert time.monotonic() - began_s >= 0.5


def test_rounds_that_do_not_come_are_an_error_that_says_how_many_did(bench: Bench) -> None:
    with (
        bench.probe(rate_hz=5.0) as probe,
        pytest.raises(DeadlineExceeded, match=r"200 samples of web: not within .*; last seen: \d+ samples"),
    ):
        probe.sample_rounds(100, within_s=0.2)


def test_nothing_is_left_behind_when_the_body_raises(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.probe():
        raise ZeroDivisionError
    assert bench.probers() == []
    assert list(bench.base.iterdir()) == []
    assert bench.history().sampler("web")[-1].kind is SamplerKind.ENDED


def test_a_prober_that_dies_is_recorded_as_stalled(bench: Bench) -> None:
    with bench.probe():
        os.kill(pid_of(bench), signal.SIGKILL)
        bench.wait_for("the stall", lambda h: [e for e in h.sampler("web") if e.kind is SamplerKind.STALLED])
    stalled, *_ = [e for e in bench.history().sampler("web") if e.kind is SamplerKind.STALLED]
    assert "the process is gone" in stalled.detail
    assert SamplerKind.ENDED not in {e.kind for e in bench.history().sampler("web")}


def test_a_prober_that_hangs_is_recorded_as_stalled_and_removed(bench: Bench) -> None:
    with bench.probe():
        pid = pid_of(bench)
        os.kill(pid, signal.SIGSTOP)
        bench.wait_for("the stall", lambda h: [e for e in h.sampler("web") if e.kind is SamplerKind.STALLED])
        os.kill(pid, signal.SIGCONT)
        bench.wait_for("what was late", lambda h: [e for e in h.sampler("web") if e.kind is SamplerKind.LATE])
    stalled, *_ = [e for e in bench.history().sampler("web") if e.kind is SamplerKind.STALLED]
    assert "the process is there" in stalled.detail
    assert bench.probers() == []


def test_samples_taken_while_the_agent_is_silent_come_afterwards(bench: Bench) -> None:
    with bench.probe():
        bench.wait_for("a sample", lambda h: h.samples("web"))
        bench.guest.gone = True
        bench.wait_for("the note", lambda h: [n for n in h.of(Note) if "can't be read for now" in n.text])
        silent_s = time.monotonic()
        time.sleep(0.1)  # the silence itself
        bench.guest.gone = False
        bench.wait_for("a later sample", lambda h: h.samples("web")[-1].at_s > silent_s + 0.1)
    samples = bench.history().samples("web")
    assert sorted(s.number for s in samples) == list(range(len(samples)))
    assert len([n for n in bench.history().of(Note) if "can't be read" in n.text]) == 1


def test_a_guest_that_is_gone_at_the_end_is_told_and_nothing_hangs(bench: Bench) -> None:
    running = bench.probe()
    running.__enter__()
    bench.guest.gone = True
    with pytest.raises(ExceptionGroup) as told:
        running.__exit__(None, None, None)
    os.kill(pid_of(bench), signal.SIGKILL)
    assert told.group_contains(AgentGone)
    assert f"probe {running.probes[0].name}" not in {thread.name for thread in threading.enumerate()}


def test_a_failed_clean_up_does_not_hide_the_bodys_exception(bench: Bench) -> None:
    def body() -> None:
        with bench.probe():
            bench.guest.gone = True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as told:
        body()
    os.kill(pid_of(bench), signal.SIGKILL)
    assert "could not be cleaned up" in "".join(told.value.__notes__)


def test_a_prober_that_does_not_start_is_an_error_with_its_last_words(bench: Bench) -> None:
    bench.guest.spoil["prober.pyz"] = b"raise SystemExit('no such luck')"
    with pytest.raises(GuestError, match="did not start\nno such luck"), bench.probe():
        pass
    assert list(bench.base.iterdir()) == []


def test_what_a_dead_harness_left_is_removed_by_the_next(bench: Bench) -> None:
    leftover, setting_up = bench.base / "labctl-probe.old", bench.base / "labctl-probe.new"
    leftover.mkdir()
    (leftover / "pid").write_text("999999999\n")
    setting_up.mkdir()
    with bench.probe():
        pass
    assert [p.name for p in bench.base.iterdir()] == ["labctl-probe.new"]


def test_the_plan_is_what_the_prober_takes() -> None:
    probe = Probe(
        "web", Kind.HTTPS, "10.0.0.9", 443, host="mail.test", rate_hz=40, expect=Expect(body="hi", member="m.")
    )
    plan = probe.plan()
    taken = Plan(**plan)
    assert (taken.kind, taken.secure, taken.interval_s) == ("http", True, 0.025)
    assert (taken.body, taken.member, taken.host) == ("hi", "m.", "mail.test")


@pytest.mark.parametrize(("address", "target"), [("10.0.0.9", "10.0.0.9:80"), ("fd00::9", "[fd00::9]:80")])
def test_what_is_asked_is_told_with_its_port(address: str, target: str) -> None:
    assert Probe("web", Kind.TCP, address, 80).target == target


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "../web"}, "a name is made of"),
        ({"rate_hz": 0}, "rate_hz is 0"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"sources": ("10.0.0.1", "fd00::1")}, "fd00::1 can't ask 10.0.0.9: one is IPv4, the other IPv6"),
        ({"address": "fd00::9", "sources": ("10.0.0.1",)}, "10.0.0.1 can't ask fd00::9"),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(wrong: dict[str, object], said: str) -> None:
    values: dict[str, object] = {"name": "web", "kind": Kind.TCP, "address": "10.0.0.9", "port": 80, **wrong}
    with pytest.raises(InputError, match=said) as refused:
        Probe(**values)  # type: ignore[arg-type]
    assert isinstance(refused.value, LabError)
