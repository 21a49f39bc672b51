"""Guests' journals on the history's clock, and what the roles' checks said when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lab_bench import Bench, pair
from scripted_guest import ManualClock, Said
from test_watching import until

from labctl.errors import AgentGone
from labctl.history import AgentReading, HistoryWriter, JournalEvent, Note, ReadinessEvent
from labctl.journals import Entry, entries_of, placed, watching_journals
from labctl.lab import Lab
from labctl.readiness import watching_readiness
from labctl.render.names import domain_name

NS = 1_000_000_000
EPOCH_S = 1_700_000_000  # the guest's wall clock when its monotonic clock is 0
HOST_S = 5_000.0  # the host's monotonic clock then


def line(mono_s: float, text: object, *, boot: str = "b1", **more: object) -> str:
    values = {
        "__REALTIME_TIMESTAMP": str(round((EPOCH_S + mono_s) * 1e6)),
        "__MONOTONIC_TIMESTAMP": str(round(mono_s * 1e6)),
        "_BOOT_ID": boot,
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "nginx",
        "MESSAGE": text,
        **more,
    }
    return json.dumps(values)


def reading(mono_s: float, took_s: float = 0.02, wall_ahead_s: float = 0.0) -> AgentReading:
    before_s = HOST_S + mono_s - took_s / 2
    return AgentReading(before_s, round((EPOCH_S + mono_s + wall_ahead_s) * NS), before_s + took_s)


def test_entries_are_read_as_journalctl_writes_them() -> None:
    listed = "\n".join([line(1.5, "up"), line(2.0, [104, 105, 255]), line(3.0, None), line(4.0, "x", PRIORITY="3")])
    found = entries_of(listed)
    assert [(e.text, e.priority, e.mono_s, e.source) for e in found] == [
        ("up", 6, 1.5, "nginx"), ("hi\ufffd", 6, 2.0, "nginx"), ("x", 3, 4.0, "nginx")
    ]  # fmt: skip


def test_an_entry_is_put_where_the_hosts_clock_says_with_its_error() -> None:
    entries = entries_of("\n".join(line(mono_s, f"at {mono_s}") for mono_s in (10.0, 20.0, 30.0)))
    found = placed("m1", entries, [reading(15.0), reading(25.0)], 0.0)
    assert [type(e) for e in found] == [JournalEvent] * 3
    for event, mono_s in zip(found, (10.0, 20.0, 30.0), strict=True):
        assert isinstance(event, JournalEvent)
        assert abs(event.at_s - (HOST_S + mono_s)) <= event.error_s < 0.1
        assert event.text == f"at {mono_s}"


def test_a_clock_that_was_set_moves_no_entry() -> None:
    """The wall clock jumps by an hour between 20 and 30 s, and back; the monotonic one does not."""
    jumped = [json.loads(line(mono_s, "x")) for mono_s in (26.0, 28.0)]
    for values in jumped:
        values["__REALTIME_TIMESTAMP"] = str(int(values["__REALTIME_TIMESTAMP"]) + 3600 * 1_000_000)
    listed = [line(10.0, "x"), line(24.0, "x"), *map(json.dumps, jumped), line(35.0, "x")]
    found = placed("m1", entries_of("\n".join(listed)), [reading(15.0), reading(27.0, wall_ahead_s=3600.0)], 0.0)
    at = [e.at_s - HOST_S for e in found]
    assert at == pytest.approx([10.0, 24.0, 26.0, 28.0, 35.0], abs=0.1)


def test_entries_of_two_boots_have_clocks_of_their_own() -> None:
    """The guest boots anew at 100 s of the host's clock, and its monotonic clock begins again."""
    second = [json.loads(line(mono_s, "second", boot="b2")) for mono_s in (1.0, 9.0)]
    for values in second:
        values["__REALTIME_TIMESTAMP"] = str(int(values["__REALTIME_TIMESTAMP"]) + 100 * 1_000_000)
    listed = [line(10.0, "first"), line(20.0, "first"), *map(json.dumps, second)]
    found = placed("m1", entries_of("\n".join(listed)), [reading(15.0), reading(105.0)], 0.0)
    assert [e.at_s - HOST_S for e in found] == pytest.approx([10.0, 20.0, 101.0, 109.0], abs=0.1)


def test_entries_that_nothing_ties_to_the_clock_are_told_and_not_made_up() -> None:
    (note,) = placed("m1", [Entry("b1", NS, 1.0, "nginx", 6, "x")], [], 7.0)
    assert note == Note(7.0, "m1: when 1 lines of its journal were written is not known")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.parent()
    return bench


@pytest.fixture
def lab(bench: Bench) -> Lab:
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    return lab


def test_journals_are_recorded_at_the_end_and_a_node_that_is_away_is_noted(
    bench: Bench, lab: Lab, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def journalctl(argv: list[str], _stdin: bytes) -> Said:
        asked.append(argv)
        return Said(0, line(1.0, "m1 says so").encode())

    bench.guests["m1"].clock_ns = (EPOCH_S + 1) * NS
    bench.guests["m1"].on("/bin/sh", "-c", "\n[ -d /run/systemd", does=journalctl)
    clock = ManualClock()
    with HistoryWriter(tmp_path / "history.jsonl") as history:
        with watching_journals(["m1", "m2"], lab.guest, history, clock, every_s=0.01):
            bench.guests["m2"].fail["guest-exec"] = AgentGone("no answer")
        seen = history.read()
    (event,) = seen.of(JournalEvent)
    assert (event.node, event.text) == ("m1", "m1 says so")
    assert event.at_s == pytest.approx(clock.now_s(), abs=0.1)
    assert [n.text for n in seen.of(Note) if "m2: its journal could not be read" in n.text]
    assert asked[0][-2:] == [f"@{EPOCH_S + 1}", "1000"]


def test_a_node_that_was_away_is_recorded_with_each_check_that_passes_again(
    bench: Bench, lab: Lab, tmp_path: Path
) -> None:
    def seen(history: HistoryWriter, node: str) -> list[ReadinessEvent]:
        return [e for e in history.read().of(ReadinessEvent) if e.node == node]

    inside = bench.guests["m1"]
    with HistoryWriter(tmp_path / "history.jsonl") as history:
        with watching_readiness(lab.spec, lab.guest, history, lab.clock, every_s=0.01):
            inside.fail["guest-ping"] = AgentGone("no answer")
            until(lambda: len(seen(history, "m1")) == 1)
            inside.says("/bin/sh", "-c", "curl", exit_code=7, err=b"refused")
            del inside.fail["guest-ping"]
            until(lambda: len(seen(history, "m1")) == 3)
            inside.says("/bin/sh", "-c", "curl", exit_code=0)
            until(lambda: len(seen(history, "m1")) == 4)
            bench.hypervisor.remove_domain(domain_name(lab.name, "m2"))
            until(lambda: len(seen(history, "m2")) == 1)
        events = seen(history, "m1")
        assert not any(seen(history, node) for node in ("c",))
    assert [(e.role, e.ready) for e in events] == [("", False), ("", True), ("web-server", False), ("web-server", True)]
    assert "no answer" in events[0].detail
    assert "refused" in events[2].detail
