"""From the prober's lines to events: nothing lost, nothing made up, times on the history's clock."""

from __future__ import annotations

import json
from typing import Any

from labctl.history import AgentReading, ClockEvent, Note, Outcome, Sample, SamplerEvent, SamplerKind
from labctl.probes.feed import Feed

OFFSET_S = 100.0
WALL_S = 1_700_000_000.0


def line(kind: str, **values: Any) -> bytes:
    return json.dumps({"line": kind, **values}).encode() + b"\n"


def clock(mono: float, wall_s: float = WALL_S) -> bytes:
    return line("clock", real_ns=round((mono + wall_s) * 1e9), mono=mono, jitter=0.0)


def request(k: int, started: float, ended: float | None = None, outcome: str = "ok") -> bytes:
    ended = started if ended is None else ended
    return line(
        "request", k=k, due=started - 0.01, started=started, ended=ended, source="10.0.0.1", port=4000,
        outcome=outcome, member="m1", detail="200",
    )  # fmt: skip


def reading(mono: float, wall_s: float = WALL_S, trip_s: float = 0.01) -> AgentReading:
    host_s = mono + OFFSET_S
    return AgentReading(host_s - trip_s / 2, round((mono + wall_s) * 1e9), host_s + trip_s / 2)


def feed() -> Feed:
    return Feed("web", "client", "10.0.0.9:80")


def test_a_sample_is_on_the_historys_clock_with_its_error() -> None:
    one = feed()
    one.take(clock(1), reading(1.5))
    events = one.take(request(7, 1.6, 1.7) + clock(2) + clock(3), reading(2.5))
    (sample,) = [e for e in events if isinstance(e, Sample)]
    assert (round(sample.at_s, 6), round(sample.ended_s, 6), round(sample.error_s, 6)) == (101.6, 101.7, 0.005)
    assert (sample.probe, sample.source, sample.target, sample.member) == ("web", "10.0.0.1", "10.0.0.9:80", "m1")
    assert (sample.outcome, sample.number, round(sample.late_s, 6)) == (Outcome.OK, 7, 0.01)


def test_a_sample_is_held_back_until_a_reading_lies_after_it() -> None:
    one = feed()
    one.take(clock(1), reading(0.5))
    assert not [e for e in one.take(request(0, 2.0) + clock(2), reading(1.5)) if isinstance(e, Sample)]
    assert [e for e in one.take(clock(3), reading(2.5)) if isinstance(e, Sample)]


def test_the_rest_comes_at_the_end() -> None:
    one = feed()
    one.take(clock(1) + request(0, 5.0), reading(0.9))
    assert [e.number for e in one.last(200.0) if isinstance(e, Sample)] == [0]
    assert one.last(200.0) == []


def test_lines_may_arrive_in_any_pieces() -> None:
    data = clock(1) + request(0, 1.1) + request(1, 1.2) + clock(2)
    one = feed()
    events = [e for i in range(0, len(data), 7) for e in one.take(data[i : i + 7], reading(1.5))] + one.last(200.0)
    assert [e.number for e in events if isinstance(e, Sample)] == [0, 1]
    assert not [e for e in events if isinstance(e, Note)]


def test_a_line_that_cannot_be_read_is_said() -> None:
    events = feed().take(b'{"line": "req\xff\n[1]\n' + clock(1), reading(0.9))
    notes = [e.text for e in events if isinstance(e, Note)]
    assert len(notes) == 2
    assert all("web: unreadable line" in text for text in notes)


def test_a_last_line_cut_short_is_said() -> None:
    one = feed()
    one.take(clock(1) + request(0, 0.5)[:30], reading(0.9))
    assert "cut short" in "".join(e.text for e in one.last(200.0) if isinstance(e, Note))


def test_without_a_clock_samples_are_not_placed_at_a_guess() -> None:
    one = feed()
    one.take(request(0, 1.0), reading(0.9))
    (note,) = one.last(200.0)
    assert isinstance(note, Note)
    assert "1 lines lost" in note.text


def test_a_step_of_the_guests_wall_clock_is_said_once_and_moves_no_sample() -> None:
    one = feed()
    one.take(clock(1), reading(0.9))
    stepped = WALL_S + 3600
    events = one.take(clock(2) + request(0, 2.5) + clock(3, stepped) + clock(4, stepped), reading(3.5, stepped))
    events += one.take(clock(5, stepped), reading(4.5, stepped)) + one.last(200.0)
    assert [e.text for e in events if isinstance(e, Note)] == [
        "client: its wall clock was set by +3600.000 s; the mapping holds"
    ]
    (sample,) = [e for e in events if isinstance(e, Sample)]
    assert abs(sample.at_s - (2.5 + OFFSET_S)) <= sample.error_s


def test_the_mapping_is_told_once_as_long_as_it_holds() -> None:
    one = feed()
    events = one.take(clock(1), reading(1.5)) + one.take(clock(2), reading(2.5)) + one.take(clock(3), reading(2.9))
    (told,) = [e for e in events if isinstance(e, ClockEvent)]
    assert (told.node, round(told.offset_s, 6), round(told.error_s, 6)) == ("client", OFFSET_S, 0.005)


def test_late_and_end_become_sampler_events() -> None:
    one = feed()
    one.take(clock(1), reading(0.9))
    lines = line("late", k=3, due=1.0, started=1.5) + line("end", at=2.0, reason="limit", started=9, finished=8, late=1)
    late, end = [e for e in one.take(lines, reading(1.9)) + one.last(200.0) if isinstance(e, SamplerEvent)]
    assert (late.kind, late.lasted_s, round(late.at_s, 6)) == (SamplerKind.LATE, 0.5, 101.5)
    assert (end.kind, end.requests, end.finished, end.detail) == (SamplerKind.ENDED, 9, 8, "limit")
    assert one.ended


def test_a_prober_without_a_sign_of_life_is_stalled_once_until_the_next_sign() -> None:
    one = feed()
    one.take(clock(1), reading(1.0))
    assert one.stall(103.9, lambda: "?") == []
    (stalled,) = one.stall(104.2, lambda: "gone")
    assert isinstance(stalled, SamplerEvent)
    assert stalled.kind is SamplerKind.STALLED
    assert "3.2 s: gone" in stalled.detail
    assert one.stall(105.0, lambda: "?") == []
    one.take(clock(6), reading(6.0))
    assert one.stall(107.0, lambda: "?") == []
    assert len(one.stall(110.0, lambda: "again")) == 1


def test_a_prober_that_has_ended_is_not_stalled() -> None:
    one = feed()
    one.take(clock(1) + line("end", at=1.0, reason="limit", started=0, finished=0, late=0), reading(1.0))
    assert one.stall(200.0, lambda: "?") == []
