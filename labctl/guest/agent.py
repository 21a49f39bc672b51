"""A guest, controlled out of band: commands, files and time over the QEMU guest agent's virtio-serial channel.

Nothing here needs the guest's network. Replies pass through libvirt's RPC, whose strings hold 4 MiB, so files move in
chunks and a command's output goes through files in the guest rather than in the agent's answer: it can be of any size.
"""

from __future__ import annotations

import base64
import io
import tarfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from labctl.clock import Clock, Deadline, SystemClock, wait_until
from labctl.errors import AgentGone, CommandFailed, DeadlineExceeded, GuestError
from labctl.hypervisor.seam import Hypervisor

__all__ = ["Completed", "Guest"]

READ_CHUNK_BYTES = 1 << 20  # base64 of it and the JSON around it stay well below the 4 MiB of libvirt's strings
WRITE_CHUNK_BYTES = 128 << 10  # more than about 200 KiB in one command never arrive whole at an emulated guest's agent
ANSWER_WITHIN_S = 30.0  # of one agent command; an emulated guest on a busy host is slow, not dead
CLOCK_WITHIN_S = 0.5  # a reading takes some tenths of that on a busy host
SET_CLOCK_WITHIN_S = 120.0
FORGET_WITHIN_S = 5.0  # of removing what a command leaves; a guest that is stuck should not be waited for twice
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1: where output goes, $2: seconds until it is killed, then the command. timeout(1) ends the whole process group.
# Only the files of its output are for root alone; the command itself runs with the usual umask.
_WRAPPER = (
    's=$1 t=$2; shift 2; umask 077; exec >"$s.out" 2>"$s.err" <"$s.in"; umask 022; exec timeout --signal=KILL "$t" "$@"'
)
_WRAPPER_NO_STDIN = _WRAPPER.replace('"$s.in"', "/dev/null")


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. `exit_code` is 128 + the signal's number when a signal ended it."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, stripped."""
        return self.stdout.decode(errors="replace").strip()


class Guest:
    """One guest.

    Args:
        name: the node's name, for messages.
        domain: libvirt's name of its domain.
        evidence: gives lines that help to understand a guest that does not answer (its console's last ones).
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        name: str,
        domain: str,
        *,
        evidence: Callable[[], str] = lambda: "",
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.domain = domain
        self._hypervisor = hypervisor
        self._evidence = evidence
        self._clock = clock or SystemClock()

    def command(
        self, execute: str, arguments: Mapping[str, Any] | None = None, *, within_s: float = ANSWER_WITHIN_S
    ) -> Any:
        """One guest agent command (QEMU Guest Agent Protocol Reference) and its answer.

        Raises:
            AgentGone: no answer in time; the message ends with the evidence.
            GuestError: the agent refused.
        """
        message: dict[str, Any] = {"execute": execute}
        if arguments:
            message["arguments"] = dict(arguments)
        try:
            return self._hypervisor.agent(self.domain, message, within_s)
        except AgentGone as gone:
            raise AgentGone(_with_evidence(f"{self.name}: {gone}", self._evidence()), hint=gone.hint) from gone
        except GuestError as refused:
            raise GuestError(f"{self.name}: {refused}", hint=refused.hint) from refused

    # -- is it there? ----------------------------------------------------------------------------------------------

    def answers(self) -> str:
        """Empty when the agent answers at once, else why it doesn't."""
        try:
            self._hypervisor.agent(self.domain, {"execute": "guest-ping"}, 2.0)
        except AgentGone as gone:
            return str(gone)
        return ""

    def wait_for_agent(self, deadline: Deadline) -> None:
        """Wait until the agent answers.

        Raises:
            DeadlineExceeded: it didn't; the message ends with the evidence.
        """

        def probe() -> tuple[bool | None, str]:
            why_not = self.answers()
            return (None if why_not else True), why_not

        wait_until(f"{self.name}: the guest agent answers", probe, deadline, every_s=0.2, evidence=self._evidence)

    # -- commands --------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        within_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
        spool: str = "/run",
        on_output: Callable[[bytes, bytes], None] | None = None,
    ) -> Completed:
        """Run a command to its end.

        Args:
            within_s: it and its process group are killed in the guest after so many seconds.
            spool: directory in the guest that holds the output meanwhile; `/run` is memory, take a disk for much.
            on_output: called with (standard output, standard error) as it comes; `Completed` is then without output.

        Raises:
            DeadlineExceeded: it outlived `within_s`; it has been killed.
            AgentGone: the agent stopped answering.
            GuestError: it could not be started.
        """
        slot = f"{spool}/labctl-{uuid.uuid4().hex[:12]}"
        files = [f"{slot}.out", f"{slot}.err"]
        if stdin is not None:
            files.append(f"{slot}.in")
        try:
            if stdin is not None:
                self.write_file(f"{slot}.in", stdin, mode=None)
            return self._run(slot, argv, stdin is not None, within_s, environment, on_output)
        finally:
            self._forget(files)

    def _run(
        self,
        slot: str,
        argv: Sequence[str],
        has_stdin: bool,
        within_s: float,
        environment: Mapping[str, str] | None,
        on_output: Callable[[bytes, bytes], None] | None,
    ) -> Completed:
        wrapper = _WRAPPER if has_stdin else _WRAPPER_NO_STDIN
        began_s = self._clock.now_s()  # before the guest begins to count, so that its deadline is never the earlier one
        started = self._start(["/bin/sh", "-c", wrapper, "labctl", slot, f"{within_s:.3f}", *argv], environment)
        # The guest kills it at the deadline; the grace is for the kill to be seen through a slow agent.
        deadline = Deadline.within(within_s + 10.0, self._clock)
        tails = _Tails(self, slot) if on_output else None
        pause_s = 0.005
        while True:
            status = self.command("guest-exec-status", {"pid": started})
            if tails and on_output:
                tails.pass_on(on_output, at_end=status["exited"])
            if status["exited"]:
                break
            if deadline.expired:
                raise DeadlineExceeded(
                    f"{self.name}: {argv[0]}: still running after {within_s:.0f} s and could not be killed"
                )
            self._clock.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)
        code = status.get("exitcode", 0) if "signal" not in status else 128 + status["signal"]
        if code == 137 and self._clock.now_s() - began_s >= within_s:
            raise DeadlineExceeded(f"{self.name}: {' '.join(argv)}: still running after {within_s:g} s, killed")
        if tails:
            return Completed(code, b"", b"")
        return Completed(code, self.read_file(f"{slot}.out"), self.read_file(f"{slot}.err"))

    def _start(
        self, argv: Sequence[str], environment: Mapping[str, str] | None, *, within_s: float = ANSWER_WITHIN_S
    ) -> int:
        variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})}
        answer = self.command(
            "guest-exec",
            {
                "path": argv[0],
                "arg": list(argv[1:]),
                "env": [f"{k}={v}" for k, v in variables.items()],
                "capture-output": False,
            },
            within_s=within_s,
        )
        return int(answer["pid"])

    def _forget(self, files: Sequence[str]) -> None:
        """Remove a command's files."""
        try:
            removal = self._start(["/bin/rm", "-f", *files], None, within_s=FORGET_WITHIN_S)
        except AgentGone:
            return  # the guest is gone and, `/run` being memory, its files with it
        # The agent keeps a process by its pid until it is asked how that ended, and a pid comes again some day: what is
        # never asked about would then be taken for the end of another command that has only just begun.
        deadline = Deadline.within(FORGET_WITHIN_S, self._clock)
        pause_s = 0.005
        while not (self._has_ended(removal) or deadline.expired):
            self._clock.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)

    def _has_ended(self, pid: int) -> bool:
        """Whether a process that nobody needs has; also when the agent has gone, or come anew, and can't know it."""
        try:
            return bool(self.command("guest-exec-status", {"pid": pid}, within_s=FORGET_WITHIN_S)["exited"])
        except GuestError:
            return True

    def succeed(self, argv: Sequence[str], *, stdin: bytes | None = None, within_s: float = 60.0) -> str:
        """Run a command that must end with 0, and return its standard output as text, stripped.

        Raises:
            CommandFailed: another exit code; the message carries what the command said.
        """
        done = self.run(argv, stdin=stdin, within_s=within_s)
        if done.exit_code:
            said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
            raise CommandFailed(f"{self.name}: {' '.join(argv)}: exit code {done.exit_code}\n{said}".rstrip())
        return done.text

    def shell(self, script: str, *, within_s: float = 60.0) -> str:
        """`succeed` for a shell script."""
        return self.succeed(["/bin/sh", "-c", script], within_s=within_s)

    # -- files -----------------------------------------------------------------------------------------------------

    def write_file(
        self, path: str, data: bytes, *, mode: int | None = 0o644, on_bytes: Callable[[int], None] = lambda _n: None
    ) -> None:
        """Write a file, binary-safe, whole or not at all: it is written beside its place and renamed there.

        Args:
            mode: its permissions; None writes in place and leaves permissions alone, which saves a command.
        """
        target = path if mode is None else f"{path}.labctl-new"
        if mode is not None:
            self._ensure_directory(str(PurePosixPath(path).parent))
        try:
            self._write(target, data, on_bytes)
            if mode is not None:
                # -T: a directory of that name is an error rather than a place to put the file into.
                self.succeed(["/bin/sh", "-c", 'chmod "$1" "$2" && mv -T "$2" "$3"', "sh", f"{mode:o}", target, path])
        except BaseException:
            if target != path:
                self._forget([target])
            raise

    def _write(self, path: str, data: bytes, on_bytes: Callable[[int], None]) -> None:
        handle = self.command("guest-file-open", {"path": path, "mode": "w"})
        try:
            for start in range(0, len(data), WRITE_CHUNK_BYTES):
                chunk = data[start : start + WRITE_CHUNK_BYTES]
                self._write_all(handle, chunk)
                on_bytes(len(chunk))
        finally:
            self.command("guest-file-close", {"handle": handle})

    def _ensure_directory(self, directory: str) -> None:
        self.succeed(["/bin/mkdir", "-p", directory])

    def _write_all(self, handle: int, chunk: bytes) -> None:
        while chunk:
            encoded = base64.b64encode(chunk).decode()
            written = self.command("guest-file-write", {"handle": handle, "buf-b64": encoded})["count"]
            chunk = chunk[written:]

    def read_file(self, path: str, *, offset: int = 0, on_bytes: Callable[[int], None] = lambda _n: None) -> bytes:
        """The bytes of a file from `offset` to its present end.

        Raises:
            GuestError: there is no such file.
        """
        parts: list[bytes] = []
        handle = self.command("guest-file-open", {"path": path, "mode": "r"})
        try:
            if offset:
                self.command("guest-file-seek", {"handle": handle, "offset": offset, "whence": "set"})
            while True:
                answer = self.command("guest-file-read", {"handle": handle, "count": READ_CHUNK_BYTES})
                parts.append(base64.b64decode(answer["buf-b64"]))
                on_bytes(answer["count"])
                if answer["eof"] or not answer["count"]:
                    return b"".join(parts)
        finally:
            self.command("guest-file-close", {"handle": handle})

    def write_files(self, files: Mapping[str, tuple[bytes, int]], *, within_s: float = 120.0) -> None:
        """Write many small files in one go: path → (content, permissions); directories are made as needed."""
        archive = _tar(files)
        self.succeed(
            ["/bin/tar", "-x", "-C", "/", "--no-same-owner", "--no-overwrite-dir"], stdin=archive, within_s=within_s
        )

    # -- time ------------------------------------------------------------------------------------------------------

    def clock_ns(self) -> int:
        """The guest's wall clock, nanoseconds since the epoch (guest-get-time)."""
        return int(self.command("guest-get-time"))

    def set_clock(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Set the guest's wall clock, and look: until it is right to `CLOCK_WITHIN_S`.

        A command starts late, on a busy host by a second; what it was late by is added the next time. It is not
        guest-set-time, which fails where the guest has no hwclock(8) to write the hardware clock with.

        Args:
            now_ns: the right time, nanoseconds since the epoch.

        Raises:
            DeadlineExceeded: it can't be set to that.
        """
        late_ns = 0

        def probe() -> tuple[bool | None, str]:
            nonlocal late_ns
            self._do(["/bin/date", "--utc", f"--set=@{(now_ns() + late_ns) / 1e9:.6f}"])
            before_ns, guest_ns, after_ns = now_ns(), self.clock_ns(), now_ns()
            off_s = max(before_ns - guest_ns, guest_ns - after_ns) / 1e9
            late_ns += (before_ns + after_ns) // 2 - guest_ns
            return off_s <= CLOCK_WITHIN_S or None, f"it is {off_s:.3f} s off"

        wait_until(f"{self.name}: its clock is right", probe, Deadline.within(SET_CLOCK_WITHIN_S, self._clock))

    def _do(self, argv: Sequence[str]) -> None:
        """Run a short command without labctl's wrapper and what that costs; neither output nor exit code is seen."""
        how = {"path": argv[0], "arg": list(argv[1:]), "env": [], "capture-output": False}
        pid = self.command("guest-exec", how)["pid"]

        def probe() -> tuple[bool | None, str]:
            return self.command("guest-exec-status", {"pid": pid})["exited"] or None, "it runs"

        wait_until(f"{self.name}: {argv[0]}", probe, Deadline.within(ANSWER_WITHIN_S, self._clock), every_s=0.05)


class _Tails:
    """Follows a running command's two output files."""

    def __init__(self, guest: Guest, slot: str) -> None:
        self._guest = guest
        self._offsets = {f"{slot}.out": 0, f"{slot}.err": 0}

    def pass_on(self, on_output: Callable[[bytes, bytes], None], *, at_end: bool) -> None:
        fresh = []
        for path, offset in list(self._offsets.items()):
            try:
                data = self._guest.read_file(path, offset=offset)
            except AgentGone:
                raise
            except GuestError:
                if at_end:
                    raise
                data = b""  # the wrapper has not opened it yet
            self._offsets[path] = offset + len(data)
            fresh.append(data)
        if any(fresh):
            on_output(fresh[0], fresh[1])


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _with_evidence(message: str, evidence: str) -> str:
    return f"{message}\n{evidence}" if evidence else message
