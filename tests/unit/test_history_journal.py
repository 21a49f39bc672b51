"""A history's file: what is written is read, and what is broken is said."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from labctl.errors import HostError, InputError
from labctl.history import (
    ClaimEvent,
    ClockEvent,
    Event,
    FaultEvent,
    FaultPhase,
    History,
    HistoryWriter,
    LabEvent,
    MachineEvent,
    MembershipEvent,
    Note,
    Opened,
    Outcome,
    Sample,
    SamplerEvent,
    SamplerKind,
    Window,
    read_history,
)

SAMPLE = Sample(1.5, 1.6, 0.01, "web", "10.0.0.1", "10.0.0.9:80", "m1", Outcome.OK, "200", number=3, late_s=0.002)
EVERY_KIND: tuple[Event, ...] = (
    SAMPLE,
    Sample(2.5, 2.6, 0.01, "web", "10.0.0.1", "10.0.0.9:80", None, Outcome.TIMEOUT, "naïve \u2028 line"),
    FaultEvent(2.0, "power-off", "m1", FaultPhase.CONFIRMED, "domain shut off"),
    MembershipEvent(2.2, "web", "m2", ("m1", "m2")),
    SamplerEvent(0.5, "web", SamplerKind.STARTED, interval_s=0.1, timeout_s=0.9, sources=("10.0.0.1", "10.0.0.2")),
    ClockEvent(0.5, "client", -3.25, 0.004),
    LabEvent(0.1, "small", "small.yaml", "lab: small\n", "tcg"),
    MachineEvent(2.1, "m1", "shut off"),
    ClaimEvent(4.0, "no_failures", {"probe": "web", "window": {"from_s": 1.5}}),
    Note(3.0, "a note"),
)


def written(path: Path, *events: Event) -> Path:
    with HistoryWriter(path) as writer:
        writer.append(*events)
    return path


def test_every_kind_of_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = read_history(written(tmp_path / "new" / "history.jsonl", *EVERY_KIND))
    assert history.events[1:] == EVERY_KIND
    assert isinstance(history.events[0], Opened)
    assert history.torn_lines == ()


def test_each_event_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.append(SAMPLE)
        assert read_history(path).events[-1] == SAMPLE
        assert writer.read().events[-1] == SAMPLE


def test_a_second_writer_appends(tmp_path: Path) -> None:
    path = written(tmp_path / "history.jsonl", Note(1.0, "first"))
    written(path, Note(2.0, "second"))
    assert [n.text for n in read_history(path).of(Note)] == ["first", "second"]


def test_lines_of_several_threads_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:

        def work(name: str) -> None:
            for number in range(50):
                writer.append(Note(float(number), name * 100))

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_history(path).of(Note)) == 200


def test_a_last_line_cut_by_a_crash_is_left_out_and_said(tmp_path: Path) -> None:
    path = written(tmp_path / "history.jsonl", Note(1.0, "whole"), Note(2.0, "cut"))
    path.write_bytes(path.read_bytes()[:-5])
    history = read_history(path)
    assert [n.text for n in history.of(Note)] == ["whole"]
    assert history.torn_lines == (3,)


def test_after_a_crash_the_next_writer_loses_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "history.jsonl", Note(1.0, "whole"), Note(2.0, "cut"))
    path.write_bytes(path.read_bytes()[:-5])
    written(path, Note(3.0, "later"))
    history = read_history(path)
    assert [n.text for n in history.of(Note)] == ["whole", "later"]
    assert history.torn_lines == (3,)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"event":"note","at_s":1.0', "delimiter"),
        ("[]", "a list where an object is expected"),
        ('{"at_s":1.0,"text":"?"}', "event None is none of"),
        ('{"event":"verdict","at_s":1.0}', "event 'verdict' is none of"),
        ('{"event":"note","at_s":"soon","text":"?"}', "note event: at_s"),
        ('{"event":"note","at_s":1.0}', "note event: text"),
        ('{"event":"note","at_s":1.0,"text":"?","color":"red"}', "unknown key color"),
        ('{"event":"opened","at_s":1.0,"utc":"?","version":99}', "newer labctl"),
    ],
)
def test_a_broken_line_elsewhere_is_refused_with_its_number(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path / "history.jsonl")
    path.write_text(path.read_text() + line + "\n" + '{"event":"note","at_s":2.0,"text":"after"}\n')
    with pytest.raises(InputError, match=said) as refused:
        read_history(path)
    assert [(p.file, p.line) for p in refused.value.problems] == [(str(path), 2)]


def test_all_broken_lines_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('x\n{"event":"note","at_s":2.0,"text":"fine"}\ny\n\n')
    with pytest.raises(InputError) as refused:
        read_history(path)
    assert [p.line for p in refused.value.problems] == [1, 3]


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_history(tmp_path / "none.jsonl")


def test_writing_to_a_closed_history_is_refused(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl") as writer:
        pass
    with pytest.raises(HostError, match="not open"):
        writer.append(SAMPLE)


def test_a_number_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl") as writer, pytest.raises(ValueError, match="JSON"):
        writer.append(Note(float("nan"), "?"))


def test_lines_are_json_objects_with_the_attributes_as_keys(tmp_path: Path) -> None:
    lines = written(tmp_path / "history.jsonl", SAMPLE).read_text().splitlines()
    assert json.loads(lines[1]) == {
        "event": "sample",
        "at_s": 1.5,
        "ended_s": 1.6,
        "error_s": 0.01,
        "probe": "web",
        "source": "10.0.0.1",
        "target": "10.0.0.9:80",
        "member": "m1",
        "outcome": "ok",
        "detail": "200",
        "number": 3,
        "late_s": 0.002,
        "connection": 0,
        "answers": 1,
        "mail": "",
    }


def sample(at_s: float, source: str = "a", probe: str = "web") -> Sample:
    return Sample(at_s, at_s, 0.0, probe, source, "t:1", "m1", Outcome.OK)


def test_samples_are_chosen_by_probe_source_and_window_and_ordered_by_start() -> None:
    history = History((sample(3), sample(1), sample(2, "b"), sample(2.5, "c"), sample(2, "a", "imap")))
    assert [s.at_s for s in history.samples("web")] == [1, 2, 2.5, 3]
    assert [s.at_s for s in history.samples("web", ["a", "b"])] == [1, 2, 3]
    assert [s.at_s for s in history.samples("web", window=Window(2, 2.5))] == [2, 2.5]
    assert history.samples("web", []) == ()


def test_a_source_without_samples_is_there_when_asked_for() -> None:
    history = History((sample(1), sample(2, "b")))
    assert {s: len(v) for s, v in history.by_source("web", ["a", "z"]).items()} == {"a": 1, "z": 0}
    assert {s: len(v) for s, v in history.by_source("web").items()} == {"a": 1, "b": 1}


def test_faults_are_chosen_by_kind_and_target() -> None:
    one = FaultEvent(1.0, "power-off", "m1", FaultPhase.INJECTED)
    two = FaultEvent(2.0, "pause", "m2", FaultPhase.INJECTED)
    history = History((two, one))
    assert history.faults() == (one, two)
    assert history.faults("pause") == (two,)
    assert history.faults(target="m1") == (one,)


def test_only_another_view_is_a_membership_change() -> None:
    both, alone = ("m1", "m2"), ("m2",)
    views = [(1, "m1", both), (1, "m2", both), (2, "m2", both), (3, "m2", alone), (4, "m2", alone), (5, "m2", both)]
    history = History(tuple(MembershipEvent(float(at), "web", who, alive) for at, who, alive in views))
    assert [e.at_s for e in history.membership_changes("web")] == [3, 5]
    assert history.membership_changes("other") == ()
