"""Host programs: the one module that starts processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from labctl.errors import DeadlineExceeded, HostError

__all__ = ["become", "end_in_order", "found", "run", "run_bytes"]


def end_in_order() -> None:
    """From now on SIGTERM and SIGHUP end this process as Ctrl-C does: what it has begun is ended first.

    The exit code is 128 + the signal, as a shell would say it. What is ignored, as under nohup(1), stays so.
    """

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def found(program: str) -> bool:
    """Whether `program` is on the PATH."""
    return shutil.which(program) is not None


def run(
    argv: Sequence[str | Path],
    *,
    within_s: float = 60.0,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a host program to its end and return its standard output.

    Args:
        argv: the program and its arguments; never a shell line.
        within_s: it is killed after so many seconds.
        stdin: what it reads; nothing by default.
        cwd: its working directory.
        on_line: called with each line as it comes, standard error included, which is then part of the result.

    Raises:
        HostError: the program is missing or ended with a code other than 0; its last lines are in the message.
        DeadlineExceeded: it outlived `within_s`.
    """
    if on_line:
        return _run_streaming(_command(argv), within_s, cwd, on_line)
    return run_bytes(argv, within_s=within_s, stdin=stdin, cwd=cwd).decode(errors="replace")


def run_bytes(
    argv: Sequence[str | Path], *, within_s: float = 60.0, stdin: bytes | None = None, cwd: Path | None = None
) -> bytes:
    """`run` for a program whose output is not text."""
    command = _command(argv)
    try:
        done = subprocess.run(command, input=stdin, cwd=cwd, capture_output=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired as expired:
        raise DeadlineExceeded(f"{command[0]}: still running after {within_s:g} s, killed") from expired
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace")
        raise HostError(f"{' '.join(command)}: exit code {done.returncode}\n{_tail(said)}")
    return done.stdout


def become(argv: Sequence[str | Path]) -> NoReturn:
    """Let a host program take this process's place: its terminal, its signals and its exit code are ours.

    Raises:
        HostError: the program is missing.
    """
    command = _command(argv)
    os.execvp(command[0], command)  # noqa: S606 -- no shell, as everywhere


def _command(argv: Sequence[str | Path]) -> list[str]:
    command = [str(part) for part in argv]
    if not found(command[0]):
        raise HostError(f"{command[0]}: program not found", hint="sudo ./bootstrap true installs what labctl needs")
    return command


def _run_streaming(command: list[str], within_s: float, cwd: Path | None, on_line: Callable[[str], None]) -> str:
    # timeout(1) keeps the deadline while this thread blocks on the pipe, and ends the whole process group.
    bounded = ["timeout", "--kill-after=5", f"{max(within_s, 0.001):.3f}", *command]  # 0 would be no deadline at all
    lines: list[str] = []
    with subprocess.Popen(
        bounded, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                lines.append(line)
                on_line(line.rstrip("\n"))
        except BaseException:
            child.terminate()
            raise
    if child.returncode in {124, 137}:
        raise DeadlineExceeded(f"{command[0]}: still running after {within_s:g} s, killed\n{_tail(''.join(lines))}")
    if child.returncode:
        raise HostError(f"{' '.join(command)}: exit code {child.returncode}\n{_tail(''.join(lines))}")
    return "".join(lines)


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
