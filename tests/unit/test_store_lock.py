"""The lock between labctl's processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labctl.store import locked

HOLDER = """
import sys
from labctl.store import locked
with locked(sys.argv[1], lambda: print("waits", flush=True)):
    print("holds", flush=True)
    sys.stdin.read()
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts processes that take a lock, say so, and hold it until their input ends."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    processes: list[subprocess.Popen[str]] = []

    def go(name: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", HOLDER, name]
        processes.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield go
    for process in processes:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    """The next line of a holder."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_is_held_by_one_process_at_a_time_and_freed_when_it_is_killed(start: Start) -> None:
    first, second = start("lab-a"), None
    assert says(first) == "holds"
    second = start("lab-a")
    assert says(second) == "waits"
    first.send_signal(signal.SIGKILL)
    assert says(second) == "holds"


def test_a_lock_is_let_go_of_at_the_end_of_its_block(start: Start) -> None:
    holder = start("lab-a")
    assert says(holder) == "holds"
    holder.communicate("")
    waits: list[int] = []
    with locked("lab-a", lambda: waits.append(1)):
        assert waits == []


def test_locks_of_other_names_are_free(start: Start) -> None:
    assert says(start("lab-a")) == "holds"
    waits: list[int] = []
    with locked("lab-b", lambda: waits.append(1)):
        assert waits == []


def test_who_has_to_wait_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    holder = start("lab-a")
    assert says(holder) == "holds"
    waits: list[int] = []

    def free_it() -> None:
        waits.append(1)
        holder.kill()

    with locked("lab-a", free_it):
        assert waits == [1]
