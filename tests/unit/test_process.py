"""Host programs: what they say, how they fail, and that they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labctl.errors import DeadlineExceeded, HostError
from labctl.process import found, run, run_bytes


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_a_program_is_found_on_the_path() -> None:
    assert found("sh")
    assert not found("no-such-program")


def test_a_program_gives_its_standard_output_alone() -> None:
    assert run(sh("echo out; echo err >&2")) == "out\n"


def test_output_that_is_no_text_comes_as_it_is() -> None:
    assert run_bytes(sh(r"printf '\377\000'")) == b"\xff\x00"


def test_a_program_reads_what_it_is_given_and_nothing_else() -> None:
    assert run(["cat"], stdin=b"given") == "given"
    assert run(["cat"], stdin=b"") == ""


def test_a_program_runs_where_it_is_told_to(tmp_path: Path) -> None:
    assert run(["pwd"], cwd=tmp_path).strip() == str(tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_that_is_missing_is_named_with_the_way_to_get_it(streaming: bool) -> None:
    with pytest.raises(HostError, match="no-such-program: program not found") as missing:
        run(["no-such-program"], on_line=print if streaming else None)
    assert "bootstrap" in missing.value.hint


@pytest.mark.parametrize("streaming", [False, True])
def test_a_failure_names_the_command_the_code_and_the_last_lines(streaming: bool) -> None:
    lines: list[str] = []
    with pytest.raises(HostError) as failed:
        run(sh("seq 100 >&2; exit 3"), on_line=lines.append if streaming else None)
    head, *tail = str(failed.value).splitlines()
    assert head == "sh -c seq 100 >&2; exit 3: exit code 3"
    assert tail == [str(n) for n in range(86, 101)]


def test_a_failure_without_error_output_says_what_came_on_standard_output() -> None:
    with pytest.raises(HostError, match=r"exit code 1\nout$"):
        run(sh("echo out; exit 1"))


def test_lines_are_passed_on_as_they_come_with_error_output_between() -> None:
    lines: list[str] = []
    assert run(sh("echo a; echo b >&2; echo c"), on_line=lines.append) == "a\nb\nc\n"
    assert lines == ["a", "b", "c"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_that_outlives_its_deadline_is_killed(streaming: bool) -> None:
    began_s = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"sh: still running after 0\.2 s, killed"):
        run(sh("echo begun; exec sleep 30"), within_s=0.2, on_line=print if streaming else None)
    assert time.monotonic() - began_s < 5


def test_what_a_killed_program_started_ends_with_it() -> None:
    # Else this call would wait for the child, which has the pipe.
    began_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        run(sh("sleep 30; true"), within_s=0.2, on_line=print)
    assert time.monotonic() - began_s < 5


def test_a_listener_that_fails_ends_the_program() -> None:
    def refuse(line: str) -> None:
        raise HostError(f"not {line}")

    began_s = time.monotonic()
    with pytest.raises(HostError, match="not begun"):
        run(sh("echo begun; sleep 30; true"), on_line=refuse)
    assert time.monotonic() - began_s < 5


def test_a_program_takes_our_place_with_our_process_and_its_own_exit_code() -> None:
    script = "import os; from labctl.process import become; print(os.getpid(), flush=True)"
    ours = [sys.executable, "-c", f"{script}; become(['sh', '-c', 'echo $$; exit 7'])"]
    done = subprocess.run(ours, capture_output=True, text=True, check=False)
    before, after = done.stdout.split()
    assert (before == after, done.returncode) == (True, 7)


_ENDED = """
import sys
from labctl.process import end_in_order
end_in_order()
try:
    print("begun", flush=True)
    sys.stdin.read()
finally:
    print("ended what was begun", flush=True)
"""


def _begun(*argv: str) -> subprocess.Popen[str]:
    """A process that goes on until its input ends."""
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_ends_what_it_has_begun(number: signal.Signals) -> None:
    with _begun(sys.executable, "-c", _ENDED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.stdout.read() == "ended what was begun\n"
    assert process.returncode == 128 + number


def test_a_process_that_was_told_to_outlive_its_terminal_does() -> None:
    with _begun("/usr/bin/env", "--ignore-signal=HUP", sys.executable, "-c", _ENDED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate("", timeout=60)[0] == "ended what was begun\n"
    assert process.returncode == 0
