"""Probes: what is asked of a service from the client guest, and the sampling that runs while the lab is broken.

The prober runs by itself in the guest and keeps its rate whatever happens to the host's side; its file is read over the
guest agent, so samples arrive also while the guest's network is cut.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from labctl.clock import Clock, Deadline, SystemClock, wait_until
from labctl.errors import CommandFailed, DeadlineExceeded, GuestError, HypervisorError, LabError
from labctl.history import AgentReading, HistoryWriter, Sample, SamplerEvent, SamplerKind
from labctl.probes.archive import prober_archive
from labctl.probes.feed import Feed
from labctl.probes.spec import Expect, Kind, Probe

__all__ = ["Expect", "Kind", "Probe", "ProbeGuest", "RunningProbe"]

_COMMAND_WITHIN_S = 30.0  # the longest that a small command takes in an emulated guest on a busy host

# $1: where. Also removes what probers left whose harness died; a folder without its pid file is just being set up.
_PREPARE = """
for old in "$1"/labctl-probe.*; do
  [ -s "$old/pid" ] && ! [ "/proc/$(cat "$old/pid")/cwd" -ef "$old" ] && rm -rf "$old"
done
exec mktemp -d "$1/labctl-probe.XXXXXX"
"""
# $1: folder. Both setsid and nohup exec, so the background process is the prober itself.
_START = """
cd "$1" || exit
nohup setsid python3 -I -S -B "$1/prober.pyz" "$1/plan.json" "$1/samples.jsonl" </dev/null >"$1/stderr" 2>&1 &
echo $! >"$1/pid"
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

    def run(self, argv: Sequence[str], *, within_s: float) -> Completed:
        """Run a command to its end."""
        ...

    def write_file(self, path: str, data: bytes, *, mode: int) -> None:
        """Write a file."""
        ...

    def read_file(self, path: str, *, offset: int) -> bytes:
        """A file's bytes from `offset` to its present end."""
        ...

    def clock_ns(self) -> int:
        """The guest's wall clock (guest-get-time)."""
        ...


class RunningProbe:
    """A probe that samples from entering to leaving, or to `stop`, and writes what it sees to a history.

    On leaving, the prober has ended and its files are gone, also when the body raised; if that could not be had, the
    errors come in one ExceptionGroup, or as notes on the body's own exception.

    Args:
        base: folder in the guest; `/run` is memory, so that a full disk does not end the sampling.
        poll_s: seconds between two looks at the prober's file.
        stall_s: a prober without a sign of life for so long is recorded as stalled.
    """

    def __init__(
        self,
        probe: Probe,
        guest: ProbeGuest,
        history: HistoryWriter,
        *,
        clock: Clock | None = None,
        base: str = "/run",
        poll_s: float = 1.0,
        stall_s: float = 3.0,
    ) -> None:
        self.probe = probe
        self._guest, self._history, self._base, self._poll_s = guest, history, base, poll_s
        self._clock = clock or SystemClock()
        self._feed = Feed(probe.name, guest.name, probe.target, stall_s)
        self._folder = ""
        self._offset = 0
        self._sampled_s: list[float] = []
        self._unread = ""
        self._quit = threading.Event()
        self._failure: BaseException | None = None
        self._follower = threading.Thread(target=self._follow, name=f"probe {probe.name}", daemon=True)

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
            self._history.append(*self._feed.last(self._clock.now_s()))
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
        wanted = rounds * max(1, len(self.probe.sources))

        def enough() -> tuple[bool | None, str]:
            if self._failure:
                raise self._failure
            fresh = sum(at_s >= began_s for at_s in self._sampled_s)
            done = fresh >= wanted and self._clock.now_s() >= began_s + at_least_s
            return (True if done else None), self._unread or f"{fresh} samples"

        what = f"{self._guest.name}: {wanted} samples of {self.probe.name}"
        wait_until(what, enough, Deadline.within(within_s, self._clock), every_s=min(0.5, self._poll_s))

    # -- life of the prober ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        prepared = self._run(["sh", "-c", _PREPARE, "sh", self._base])
        self._folder = prepared.stdout.decode().strip()
        self._guest.write_file(f"{self._folder}/prober.pyz", prober_archive(), mode=0o600)
        self._guest.write_file(f"{self._folder}/plan.json", json.dumps(self.probe.plan()).encode(), mode=0o600)
        self._guest.write_file(f"{self._folder}/samples.jsonl", b"", mode=0o600)
        self._run(["sh", "-c", _START, "sh", self._folder])
        self._history.append(self._started())
        self._follower.start()
        deadline = Deadline.within(_COMMAND_WITHIN_S, self._clock)
        self._await("the prober starts", lambda: self._feed.started or not self._alive(), deadline)
        if not self._feed.started:
            raise GuestError(f"{self._guest.name}: the prober of {self.probe.name} did not start\n{self._last_words()}")

    def _started(self) -> SamplerEvent:
        return SamplerEvent(
            self._clock.now_s(),
            self.probe.name,
            SamplerKind.STARTED,
            self.probe.target,
            interval_s=self.probe.interval_s,
            timeout_s=self.probe.timeout_s,
            sources=self.probe.sources,
        )

    def _end_prober(self) -> None:
        if not self._folder or self._sh(_SIGNAL, "TERM").exit_code:
            return  # it is gone already, and the follower's last look finds whether it said so
        deadline = Deadline.within(self.probe.timeout_s + self.probe.interval_s + _COMMAND_WITHIN_S, self._clock)
        self._await("the prober ends", lambda: self._feed.ended or not self._alive(), deadline)

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
            raise ExceptionGroup(f"probe {self.probe.name} on {self._guest.name}", failures)
        for failure in failures:
            assert error is not None
            error.add_note(f"and the probe {self.probe.name} could not be cleaned up: {failure}")

    # -- following -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """The follower's thread: look at the file until told to quit, and once more then."""
        try:
            while not self._quit.wait(self._poll_s if self._feed.started else min(0.1, self._poll_s)):
                self._look()
            self._look()
        except BaseException as failure:  # noqa: BLE001 - raised in `stop`, where somebody listens
            self._failure = failure

    def _look(self) -> None:
        try:
            before_s = self._clock.now_s()
            reading = AgentReading(before_s, self._guest.clock_ns(), self._clock.now_s())
            data = self._guest.read_file(f"{self._folder}/samples.jsonl", offset=self._offset)
            self._offset += len(data)
            events = self._feed.take(data, reading)
            self._history.append(*events)
            self._sampled_s += [e.at_s for e in events if isinstance(e, Sample)]
            self._history.append(*self._feed.stall(before_s, self._why_silent))
        except (GuestError, HypervisorError, DeadlineExceeded) as error:
            self._tell_unread(error)
        else:
            self._unread = ""

    def _why_silent(self) -> str:
        if self._alive():
            return "the process is there and its file does not grow"
        return f"the process is gone. {self._last_words()}".strip()

    def _tell_unread(self, error: LabError) -> None:
        """Once for each spell without an answer; the sampling goes on meanwhile, or its file shows that not."""
        if not self._unread:
            self._history.note(f"probe {self.probe.name}: its samples can't be read for now: {error}")
        self._unread = str(error)

    # -- commands in the guest -------------------------------------------------------------------------------------

    def _alive(self) -> bool:
        return self._sh(_SIGNAL, "0").exit_code == 0

    def _await(self, what: str, claim: Callable[[], bool], deadline: Deadline) -> None:
        def look() -> tuple[bool | None, str]:
            return (True if claim() or self._failure else None), self._unread or "its file is read, that is not in it"

        every_s = min(0.5, self._poll_s)  # each look costs an emulated guest a process
        claimed = f"{self._guest.name}: {what} ({self.probe.name})"
        wait_until(claimed, look, deadline, every_s=every_s, evidence=self._last_words)

    def _last_words(self) -> str:
        """What the prober wrote to its standard error."""
        return self._run(["tail", "-n", "5", f"{self._folder}/stderr"]).stdout.decode(errors="replace")

    def _sh(self, script: str, *arguments: str) -> Completed:
        return self._guest.run(["sh", "-c", script, "sh", self._folder, *arguments], within_s=_COMMAND_WITHIN_S)

    def _run(self, argv: Sequence[str]) -> Completed:
        done = self._guest.run(argv, within_s=_COMMAND_WITHIN_S)
        if done.exit_code:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise CommandFailed(
                f"{self._guest.name}: {argv[0]} for probe {self.probe.name}: exit code {done.exit_code}: {said}"
            )
        return done
