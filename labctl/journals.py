"""The guests' journals in the history, on its clock.

Each entry of a journal has both of the guest's clocks at one moment, and the guest agent tells its wall clock between
two looks at the host's; together they say where the entry belongs, and how sure that is (see `ClockFit`). A guest
without systemd has no journal.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from labctl.clock import Clock
from labctl.errors import LabError
from labctl.guest.agent import Guest
from labctl.history import AgentReading, ClockFit, ClockPair, Event, HistoryWriter, JournalEvent, Note
from labctl.parallel import for_all, repeated

__all__ = ["Entry", "entries_of", "placed", "watching_journals"]

MOST_LINES = 1000  # of each node; the newest
FETCH_WITHIN_S = 90.0  # emulated, on a busy host
_JITTER_S = 0.002  # between journald's two looks at its clocks

# $1: since when, $2: how many lines at most. What the guest agent writes down is what labctl itself does.
_FETCH = """
[ -d /run/systemd/system ] || exit 0
found=$(journalctl --merge --no-pager --quiet --output=json --since "$1" \
    --output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_BOOT_ID) || exit
printf '%s\n' "$found" | grep -v '"SYSLOG_IDENTIFIER":"qemu-ga"' | tail -n "$2"
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a journal, on the guest's own clocks.

    Attributes:
        boot: tells the guest's boots apart.
    """

    boot: str
    real_ns: int
    mono_s: float
    source: str
    priority: int
    text: str


def entries_of(listed: str) -> list[Entry]:
    """What `journalctl --output=json` has written; entries without words are left out."""
    return [entry for line in listed.splitlines() if line and (entry := _entry(json.loads(line))).text]


def _entry(values: dict[str, object]) -> Entry:
    text = values.get("MESSAGE") or ""
    if isinstance(text, list):  # bytes that are no UTF-8
        text = bytes(text).decode("utf-8", "replace")
    return Entry(
        boot=str(values["_BOOT_ID"]),
        real_ns=int(str(values["__REALTIME_TIMESTAMP"])) * 1000,
        mono_s=int(str(values["__MONOTONIC_TIMESTAMP"])) / 1e6,
        source=str(values.get("SYSLOG_IDENTIFIER", "")),
        priority=int(str(values.get("PRIORITY", 6))),
        text=str(text),
    )


def placed(node: str, entries: Iterable[Entry], readings: Sequence[AgentReading], now_s: float) -> list[Event]:
    """The entries on the history's clock; a note for those of a boot in which the guest's clock was never read."""
    events: list[Event] = []
    for _, group in itertools.groupby(sorted(entries, key=lambda e: (e.boot, e.mono_s)), key=lambda e: e.boot):
        known = list(group)
        fit = ClockFit.of(readings, (ClockPair(e.real_ns, e.mono_s, _JITTER_S) for e in known))
        if fit.segments:
            events += [_event(node, entry, fit) for entry in known]
        else:
            events.append(Note(now_s, f"{node}: when {len(known)} lines of its journal were written is not known"))
    return sorted(events, key=lambda e: e.at_s)


def _event(node: str, entry: Entry, fit: ClockFit) -> JournalEvent:
    at_s, error_s = fit.to_host(entry.mono_s)
    return JournalEvent(at_s, node, entry.source, entry.text, entry.priority, error_s)


@contextmanager
def watching_journals(
    nodes: Sequence[str], guest: Callable[[str], Guest], history: HistoryWriter, clock: Clock, *, every_s: float = 5.0
) -> Iterator[None]:
    """Record, at the end, what the nodes' journals say of the time of the block; a node that is away is noted.

    Args:
        every_s: from one look at the guests' clocks to the next.
    """
    readings: dict[str, list[AgentReading]] = {node: [] for node in nodes}
    lock = threading.Lock()

    def look() -> None:
        for node in nodes:
            try:
                before_s = clock.now_s()
                reading = AgentReading(before_s, guest(node).clock_ns(), clock.now_s())
            except LabError:
                continue  # away for now, as the history of the faults says
            with lock:
                readings[node].append(reading)

    def record(node: str) -> None:
        history.append(*_read(guest(node), readings[node], clock))

    try:
        with repeated(look, "clocks", every_s=every_s):
            yield
    finally:
        look()
        for_all(record, nodes)


def _read(guest: Guest, readings: Sequence[AgentReading], clock: Clock) -> list[Event]:
    if not readings:
        return [Note(clock.now_s(), f"{guest.name}: it never answered, so its journal was not read")]
    since = f"@{min(r.real_ns for r in readings) // 1_000_000_000}"
    try:
        listed = guest.succeed(["/bin/sh", "-c", _FETCH, "sh", since, str(MOST_LINES)], within_s=FETCH_WITHIN_S)
        entries = entries_of(listed)
    except (LabError, ValueError, KeyError) as error:
        return [Note(clock.now_s(), f"{guest.name}: its journal could not be read: {error!r}")]
    return placed(guest.name, entries, readings, clock.now_s())
