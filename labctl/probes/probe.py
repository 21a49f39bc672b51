"""Probes: what is asked of a service from the client guest, and the sampling that runs while the lab is broken.

The prober runs by itself in the guest and keeps its rate whatever happens to the host's side; its file is read over the
guest agent, so samples arrive also while the guest's network is cut.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from labctl.clock import Clock, Deadline, SystemClock, wait_until
from labctl.errors import CommandFailed, DeadlineExceeded, GuestError, HypervisorError, InputError, LabError
from labctl.history import AgentReading, HistoryWriter, Sample, SamplerEvent, SamplerKind
from labctl.probes.archive import prober_archive
from labctl.probes.feed import Feed
from labctl.probes.spec import Expect, Kind, Probe

__all__ = ["Expect", "Kind", "Probe", "ProbeGuest", "RunningProbe"]

_COMMAND_WITHIN_S = 30.0  # the longest that a small command takes in an emulated guest on a busy host
_START_WITHIN_S = 120.0  # the longest that Python takes to start there, beside other work
_LOOKS_PER_COMMAND = 6  # looks at what was read, before one asks the guest itself

# $1: where; standard input: what belongs into the folder, as tar. Also removes what probers left whose harness died; a
# folder without its pid file is just being set up. Both setsid and nohup exec, so the background process is the prober
# itself. All of it in one go: each command costs an emulated guest a second.
_START = """
for old in "$1"/labctl-probe.*; do
  [ -s "$old/pid" ] && ! [ "/proc/$(cat "$old/pid")/cwd" -ef "$old" ] && rm -rf "$old"
done
umask 077
folder=$(mktemp -d "$1/labctl-probe.XXXXXX") && cd "$folder" && tar -x || exit
nohup setsid python3 -I -S -B "$folder/prober.pyz" plan.json samples.jsonl </dev/null >stderr 2>&1 &
echo $! >pid
echo "$folder"
"""
# $1: folder, $2: signal. Exit code 1 when there is no such process. Its working directory tells it from a later process
# of that number; its command line would not do, which is empty for a moment in each exec.
_SIGNAL = """
pid=$(cat "$1/pid" 2>/dev/null) && [ "/proc/$pid/cwd" -ef "$1" ] && kill -"$2" "$pid"
"""
# $1: folder. Returns when the process has ended and nothing of it is left.
_REMOVE = """
pid=$(cat "$1/pid" 2>/dev/null)
while [ -n "$pid" ] && [ "/proc/$pid/cwd" -ef "$1" ]; do
  kill -KILL "$pid"
  sleep 0.05
done
exec rm -rf -- "$1"
"""


class Completed(Protocol):
    """A command that ended in the guest."""

    @property
    def exit_code(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...


class ProbeGuest(Protocol):
    """What a probe needs of the guest that it runs in; all of it out of band."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, within_s: float) -> Completed:
        """Run a command to its end."""
        ...

    def read_file(self, path: str, *, offset: int) -> bytes:
        """A file's bytes from `offset` to its present end."""
        ...

    def clock_ns(self) -> int:
        """The guest's wall clock (guest-get-time)."""
        ...


class _Stream:
    """What is known of one probe while it runs."""

    def __init__(self, probe: Probe, node: str, stall_s: float) -> None:
        self.probe = probe
        self.feed = Feed(probe.name, node, probe.target, stall_s)
        self.sampled: list[tuple[float, str]] = []  # when each request was started, and from where

    def fresh(self, since_s: float) -> list[int]:
        """How many requests of each source were started since then and are over."""
        asked = [source for at_s, source in self.sampled if at_s >= since_s]
        return [asked.count(source) for source in self.probe.sources or ("",)]


class RunningProbe:
    """Probes that sample from entering to leaving, or to `stop`, and write what they see to a history.

    Several are run by one program in the guest, which is started once: that costs an emulated guest some seconds.

    On leaving, the prober has ended and its files are gone, also when the body raised; if that could not be had, the
    errors come in one ExceptionGroup, or as notes on the body's own exception.

    Args:
        base: folder in the guest; `/run` is memory, so that a full disk does not end the sampling.
        poll_s: seconds between two looks at the prober's file.
        stall_s: a prober without a sign of life for so long is recorded as stalled.
    """

    def __init__(
        self,
        probe: Probe | Sequence[Probe],
        guest: ProbeGuest,
        history: HistoryWriter,
        *,
        clock: Clock | None = None,
        base: str = "/run",
        poll_s: float = 1.0,
        stall_s: float = 3.0,
    ) -> None:
        self.probes = (probe,) if isinstance(probe, Probe) else tuple(probe)
        if not self.probes or len({p.name for p in self.probes}) < len(self.probes):
            raise InputError(
                f"probes {', '.join(p.name for p in self.probes)}: expected one or more, of different names"
            )
        self._guest, self._history, self._base, self._poll_s = guest, history, base, poll_s
        self._clock = clock or SystemClock()
        self._streams = {p.name: _Stream(p, guest.name, stall_s) for p in self.probes}
        self._folder = ""
        self._offset = 0
        self._rest = b""
        self._unread = ""
        self._quit = threading.Event()
        self._failure: BaseException | None = None
        self._follower = threading.Thread(target=self._follow, name=f"probe {self._names}", daemon=True)

    @property
    def _names(self) -> str:
        return ", ".join(self._streams)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def stop(self) -> None:
        """Start no more requests, wait for the outcome of those under way and write them down; twice is fine.

        Raises:
            DeadlineExceeded: the prober did not end in time; what it has written is in the history.
            AgentGone: the guest can't be asked; what was read of it is in the history.
        """
        if self._quit.is_set():
            return
        try:
            self._end_prober()
        finally:
            self._quit.set()
            if self._follower.ident:
                self._follower.join()
            self._write_rest()
        if self._failure:
            raise self._failure

    def sample_rounds(self, rounds: int, *, at_least_s: float = 0.0, within_s: float = 300.0) -> None:
        """Wait until every source was asked so many times from now on, by what is written down.

        Args:
            at_least_s: and so much time has passed.

        Raises:
            DeadlineExceeded: the samples did not come.
        """
        began_s = self._clock.now_s()
        counts = {name: rounds * max(1, len(s.probe.sources)) for name, s in self._streams.items()}

        def enough() -> tuple[bool | None, str]:
            if self._failure:
                raise self._failure
            fresh = {name: stream.fresh(began_s) for name, stream in self._streams.items()}
            done = min(min(each) for each in fresh.values()) >= rounds and self._clock.now_s() >= began_s + at_least_s
            seen = ", ".join(f"{sum(each)} samples of {name}" for name, each in fresh.items())
            return (True if done else None), self._unread or seen

        what = f"{self._guest.name}: " + ", ".join(f"{count} samples of {name}" for name, count in counts.items())
        wait_until(what, enough, Deadline.within(within_s, self._clock), every_s=min(0.5, self._poll_s))

    # -- life of the prober ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        plans = json.dumps([probe.plan() for probe in self.probes]).encode()
        content = _packed({"prober.pyz": prober_archive(), "plan.json": plans, "samples.jsonl": b""})
        began = self._run(["sh", "-c", _START, "sh", self._base], stdin=content, within_s=_START_WITHIN_S)
        self._folder = began.stdout.decode().strip()
        self._history.append(*(self._started(probe) for probe in self.probes))
        self._follower.start()
        deadline = Deadline.within(_START_WITHIN_S, self._clock)
        self._await("the prober starts", lambda s: s.feed.started, deadline)
        if not all(s.feed.started for s in self._streams.values()):
            raise GuestError(f"{self._guest.name}: the prober of {self._names} did not start\n{self._last_words()}")

    def _started(self, probe: Probe) -> SamplerEvent:
        return SamplerEvent(
            self._clock.now_s(),
            probe.name,
            SamplerKind.STARTED,
            probe.target,
            interval_s=probe.interval_s,
            timeout_s=probe.timeout_s,
            sources=probe.sources,
        )

    def _end_prober(self) -> None:
        if not self._folder or self._sh(_SIGNAL, "TERM").exit_code:
            return  # it is gone already, and the follower's last look finds whether it said so
        # An attempt may last as long as that, and the next look for what to do may be a sign of life away.
        longest_s = max(probe.timeout_s + probe.clock_s for probe in self.probes)
        deadline = Deadline.within(longest_s + _COMMAND_WITHIN_S, self._clock)
        self._await("the prober ends", lambda s: s.feed.ended, deadline)

    def _remove(self) -> None:
        if self._folder:
            self._run(["sh", "-c", _REMOVE, "sh", self._folder])
        self._folder = ""

    def _leave(self, error: BaseException | None) -> None:
        """Stop and clean up, all of it, and then tell what went wrong."""
        failures: list[Exception] = []
        for step in (self.stop, self._remove):
            try:
                step()
            except Exception as caught:  # noqa: BLE001 - gathered and raised below
                failures.append(caught)
        if error is None and failures:
            raise ExceptionGroup(f"probe {self._names} on {self._guest.name}", failures)
        for failure in failures:
            assert error is not None
            error.add_note(f"and the probe {self._names} could not be cleaned up: {failure}")

    # -- following -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """The follower's thread: look at the file until told to quit, and once more then."""
        try:
            while not self._quit.wait(self._poll_s if self._begun() else min(0.1, self._poll_s)):
                self._look()
            self._look()
        except BaseException as failure:  # noqa: BLE001 - raised in `stop`, where somebody listens
            self._failure = failure

    def _begun(self) -> bool:
        return all(s.feed.started for s in self._streams.values())

    def _look(self) -> None:
        try:
            before_s = self._clock.now_s()
            reading = AgentReading(before_s, self._guest.clock_ns(), self._clock.now_s())
            data = self._guest.read_file(f"{self._folder}/samples.jsonl", offset=self._offset)
            self._offset += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for stream in self._streams.values():
                self._feed(stream, [line for line in lines if _is_of(line, stream.probe)], reading)
                self._history.append(*stream.feed.stall(before_s, self._why_silent))
        except (GuestError, HypervisorError, DeadlineExceeded) as error:
            self._tell_unread(error)
        else:
            self._unread = ""

    def _feed(self, stream: _Stream, lines: Sequence[bytes], reading: AgentReading) -> None:
        events = stream.feed.take(b"".join(line + b"\n" for line in lines), reading)
        self._history.append(*events)
        stream.sampled += [(e.at_s, e.source) for e in events if isinstance(e, Sample)]

    def _write_rest(self) -> None:
        """What was held back, and that a line was cut short."""
        now_s = self._clock.now_s()
        if self._rest:
            self._history.note(f"{self._names}: the last line is cut short: {self._rest[:80]!r}")
        for stream in self._streams.values():
            self._history.append(*stream.feed.last(now_s))

    def _why_silent(self) -> str:
        if self._alive():
            return "the process is there and its file does not grow"
        return f"the process is gone. {self._last_words()}".strip()

    def _tell_unread(self, error: LabError) -> None:
        """Once for each spell without an answer; the sampling goes on meanwhile, or its file shows that not."""
        if not self._unread:
            self._history.note(f"probe {self._names}: its samples can't be read for now: {error}")
        self._unread = str(error)

    # -- commands in the guest -------------------------------------------------------------------------------------

    def _alive(self) -> bool:
        return self._sh(_SIGNAL, "0").exit_code == 0

    def _await(self, what: str, claim: Callable[[_Stream], bool], deadline: Deadline) -> None:
        """Wait until all probes say so in their file, or the prober is gone, for which is looked now and then."""
        looks = itertools.count(1)

        def look() -> tuple[bool | None, str]:
            said = [name for name, stream in self._streams.items() if claim(stream)]
            done = len(said) == len(self._streams) or self._failure
            gone = not done and next(looks) % _LOOKS_PER_COMMAND == 0 and not self._alive()
            return (True if done or gone else None), self._unread or f"of {', '.join(said) or 'none'} it is in the file"

        every_s = min(0.5, self._poll_s)
        claimed = f"{self._guest.name}: {what} ({self._names})"
        wait_until(claimed, look, deadline, every_s=every_s, evidence=self._last_words)

    def _last_words(self) -> str:
        """What the prober wrote to its standard error."""
        return self._run(["tail", "-n", "5", f"{self._folder}/stderr"]).stdout.decode(errors="replace")

    def _sh(self, script: str, *arguments: str) -> Completed:
        return self._guest.run(["sh", "-c", script, "sh", self._folder, *arguments], within_s=_COMMAND_WITHIN_S)

    def _run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, within_s: float = _COMMAND_WITHIN_S
    ) -> Completed:
        done = self._guest.run(argv, stdin=stdin, within_s=within_s)
        if done.exit_code:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise CommandFailed(
                f"{self._guest.name}: {argv[0]} for probe {self._names}: exit code {done.exit_code}: {said}"
            )
        return done


def _is_of(line: bytes, probe: Probe) -> bool:
    """Whether a line is of that probe, whose name the prober writes first."""
    return line.startswith(json.dumps({"probe": probe.name}).encode()[:-1] + b",")


def _packed(files: Mapping[str, bytes]) -> bytes:
    """Files as tar, for root alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()
