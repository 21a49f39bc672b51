"""The report: its figures add up, its page needs nothing else and says what the history says, drawings are whole."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_checks import FAULT_S, dies, sampled
from test_sabotage import CLAIMS, HEALED_S, fine_run

from labctl import __version__
from labctl.checks import Result
from labctl.errors import InputError
from labctl.history import (
    ClaimEvent,
    Event,
    FaultEvent,
    FaultPhase,
    History,
    HistoryWriter,
    JournalEvent,
    LabEvent,
    Note,
    Opened,
    Outcome,
    ReadinessEvent,
    Sample,
    TestEvent,
    read_history,
)
from labctl.report import Scenario, as_html, as_json, mermaid, scenario_of, svg, worst, write_report
from labctl.report.timeline import timeline
from labctl.topology.load import find_topology, load_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, LabSpec

SVG = "{http://www.w3.org/2000/svg}"
MICRO = find_topology("micro")


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A run that is fine, with its claims, in a file."""
    path = tmp_path / "test_it" / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.append(LabEvent(-0.2, "small", "micro.yaml", MICRO.read_text(), "tcg"), Note(1.0, "<b>not bold</b>"))
        writer.append(*fine_run(), *(ClaimEvent(26.0, c.check, dict(c.arguments)) for c in CLAIMS))
    seen = read_history(path)
    # The writer's own time of opening is the host's, which has nothing to do with that of the run.
    events = (dataclasses.replace(e, at_s=-0.3) if isinstance(e, Opened) else e for e in seen.events)
    return dataclasses.replace(seen, events=tuple(events))


@pytest.fixture
def scenario(history: History) -> Scenario:
    return scenario_of(history)


def spec(topology: str) -> LabSpec:
    return resolve(load_topology(find_topology(topology)), lab=None, accelerator=Accelerator.TCG)


# -- what it counts for ------------------------------------------------------------------------------------------------

NOT_HEALED = FaultEvent(27.0, "power-off", "m1", FaultPhase.INJECTED)


def ended(history: History, outcome: str, *more: Event) -> Scenario:
    return scenario_of(dataclasses.replace(history, events=(*history.events, *more, TestEvent(28.0, NODE_ID, outcome))))


NODE_ID = "tests/micro/test_x.py::test_a_member_dies[power-off]"


@pytest.mark.parametrize(
    ("outcome", "more", "result", "stands", "remark"),
    [
        ("passed", (), Result.PASS, Result.PASS, ""),
        ("passed", (NOT_HEALED,), Result.INCONCLUSIVE, Result.PASS, "its verdict is INCONCLUSIVE, as the test expects"),
        ("failed", (NOT_HEALED,), Result.INCONCLUSIVE, Result.INCONCLUSIVE, ""),
        ("failed", (), Result.PASS, Result.FAIL, "the test failed, its verdict is PASS"),
    ],
)
def test_a_verdict_counts_for_what_its_test_made_of_it(
    history: History, outcome: str, more: tuple[Event, ...], result: Result, stands: Result, remark: str
) -> None:
    found = ended(history, outcome, *more)
    assert (found.result, found.stands, found.remark) == (result, stands, remark)
    assert worst([found]) is stands


def test_a_passed_test_that_judged_nothing_makes_nothing_better(history: History) -> None:
    unjudged = [e for e in history.events if not isinstance(e, ClaimEvent)]
    found = ended(History((*unjudged, NOT_HEALED)), "passed")
    assert (found.result, found.stands) == (Result.INCONCLUSIVE, Result.INCONCLUSIVE)


def test_a_test_is_named_as_the_claim_that_its_name_is(history: History, tmp_path: Path) -> None:
    found = ended(history, "failed")
    assert found.name == "a member dies: power-off"
    page = as_html([history], [found], tmp_path)
    assert f"{NODE_ID}, failed" in page
    assert re.search(
        'FAIL</span> <a href="#s1">a member dies: power-off</a>.*the test failed, its verdict is PASS', page
    )
    (plain,) = json.loads(as_json([found]))
    assert (plain["result"], plain["stands"], plain["outcome"]) == ("PASS", "FAIL", "failed")


def test_the_worst_comes_first_on_top_of_the_page(history: History, tmp_path: Path) -> None:
    both = [ended(history, "passed"), ended(history, "failed")]
    page = as_html([history, history], both, tmp_path)
    assert re.findall('<a href="#(s.)">', page) == ["s2", "s1"]
    assert re.findall('<h2 id="(s.)">', page) == ["s1", "s2"]


# -- figures -----------------------------------------------------------------------------------------------------------


def test_every_request_is_in_one_bar(scenario: Scenario, history: History) -> None:
    (series,) = scenario.probes
    assert series.requests == len(history.of(Sample))
    assert sum(sum(b.members.values()) + b.failed for b in series.bins) == series.requests
    assert sum(b.failed for b in series.bins) == series.failed == 5
    assert scenario.members == ("m1", "m2")


def test_a_fault_reaches_from_its_injection_to_its_heal(scenario: Scenario) -> None:
    (fault,) = scenario.faults
    assert (fault.fault, fault.target, fault.confirmed) == ("power-off", "m1", True)
    assert fault.from_s == pytest.approx(FAULT_S + 0.3)
    assert fault.until_s == pytest.approx(HEALED_S + 1.3)


def test_the_outage_is_that_of_the_clients_that_were_hit(scenario: Scenario) -> None:
    (gap,) = scenario.probes[0].gaps
    assert (gap.fault, gap.failed) == ("power-off", 5)
    assert gap.shortest_s == pytest.approx(0.4)
    assert gap.longest_s is not None
    assert gap.longest_s > gap.shortest_s


def test_an_outage_that_was_not_seen_to_end_has_no_longest(tmp_path: Path) -> None:
    events = (*sampled(dies(100.0)), FaultEvent(FAULT_S, "power-off", "m1", FaultPhase.INJECTED))
    found = scenario_of(History(events))
    assert found.probes[0].gaps[0].longest_s is None
    assert found.faults[0].until_s is None
    assert json.loads(as_json([found]))[0]["probes"][0]["gaps"][0]["longest_s"] is None
    assert "not seen to end" in timeline(found, found.probes[0])


def test_a_history_of_nothing_is_inconclusive_and_shows_nothing() -> None:
    found = scenario_of(History(()))
    assert (found.result, found.probes, found.length_s) == (Result.INCONCLUSIVE, (), 0.0)
    assert worst([]) is Result.INCONCLUSIVE


# -- drawings ----------------------------------------------------------------------------------------------------------


def classes(drawing: str) -> list[str]:
    return [e.get("class", "") for e in ElementTree.fromstring(drawing).iter()]


def test_a_timeline_shows_members_failures_the_fault_the_outage_and_changed_views(scenario: Scenario) -> None:
    drawing = timeline(scenario, scenario.probes[0])
    seen = classes(drawing)
    assert {"m0", "m1", "failed", "fault", "sure", "maybe", "change", "axis"} <= set(seen)
    assert re.search(r"outage 0\.40 s to 0\.\d\d s", drawing)
    assert "power-off of m1" in drawing


def test_no_bar_is_beyond_the_drawing(scenario: Scenario) -> None:
    root = ElementTree.fromstring(timeline(scenario, scenario.probes[0]))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for bar in root.iter(f"{SVG}rect"):
        x, y = float(bar.get("x", "")), float(bar.get("y", ""))
        assert 0 <= x <= x + float(bar.get("width", "")) <= width
        assert 0 <= y <= y + float(bar.get("height", "")) <= height


@pytest.mark.parametrize("topology", ["micro", "exchange2007", "tests/golden/good/members-32.yaml"])
def test_a_topology_is_drawn_with_all_that_it_has(topology: str) -> None:
    lab = spec(topology)
    drawing = svg(lab)
    texts = [e.text for e in ElementTree.fromstring(drawing).iter(f"{SVG}text")]
    for node in lab.nodes:
        assert node.name in texts
        assert f"[{node.name!r}" not in texts
    assert classes(drawing).count("member") == sum(len(c.members) for c in lab.clusters)
    flowchart = mermaid(lab)
    assert flowchart.startswith("flowchart TB\n")
    assert flowchart.count("==>") == sum(len(c.members) for c in lab.clusters)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(history: History, scenario: Scenario, tmp_path: Path) -> None:
    page = as_html([history], [scenario], tmp_path)
    outside = re.findall(r'(?:src|href)="([^"]+)"|url\(([^)]+)\)|@import', page)
    assert {a or b for a, b in outside} == {"#s1", "test_it/history.jsonl"}
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_the_page_says_what_the_history_says(history: History, scenario: Scenario, tmp_path: Path) -> None:
    page = as_html([history], [scenario], tmp_path)
    assert '<span class="result PASS">PASS</span> <a href="#s1">test_it</a>' in page
    assert "power-off of m1 took effect" in page
    assert "&lt;b&gt;not bold&lt;/b&gt;" in page
    assert "<b>not bold" not in page
    assert "The lab small (micro.yaml)" in page
    assert "10.78.0.21" in page
    assert f"labctl {__version__}" in page


def test_the_worst_comes_first_on_the_page(history: History, tmp_path: Path) -> None:
    broken = dataclasses.replace(
        history,
        events=tuple(
            dataclasses.replace(e, outcome=Outcome.RESET) if isinstance(e, Sample) and e.at_s < 1 else e
            for e in history.events
        ),
    )
    found = scenario_of(broken)
    page = as_html([broken], [found], tmp_path)
    assert page.index("labctl: <span") < page.index('class="result FAIL"')
    first = re.search(r'<div class="finding (\w+)"', page)
    assert first
    assert first[1] == "FAIL"


def test_a_topology_that_can_not_be_read_is_told_in_words(tmp_path: Path) -> None:
    seen = History((LabEvent(0.0, "small", "old.yaml", "lab: [", "tcg"),))
    assert "no picture: " in as_html([seen], [scenario_of(seen)], tmp_path)


def test_the_report_is_a_page_and_its_figures(history: History, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.html"
    assert write_report([history], target) is Result.PASS
    assert target.read_text().startswith("<!doctype html>")
    (figures,) = json.loads(target.with_suffix(".json").read_text())
    assert figures["result"] == "PASS"
    assert figures["probes"][0]["requests"] == 600


def test_a_report_that_can_not_be_written_is_bad_input(history: History, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        write_report([history], tmp_path / "file" / "report.html")


# -- journals and readiness --------------------------------------------------------------------------------------------


def test_journal_lines_near_what_failed_are_shown_and_others_are_not(history: History) -> None:
    lines = (
        JournalEvent(FAULT_S + 0.2, "m2", "keepalived", "m1 is <gone>"),
        JournalEvent(FAULT_S - 8.0, "m2", "nginx", "a quiet time"),
    )
    seen = dataclasses.replace(history, events=(*history.events, *lines))
    scenario = scenario_of(seen)
    assert [m.text for m in scenario.journal] == ["m2 keepalived: m1 is <gone>"]
    page = as_html([seen], [scenario], Path("/"))
    assert "m2 keepalived: m1 is &lt;gone&gt;" in page
    assert "a quiet time" not in page


def test_where_there_are_too_many_lines_the_worst_are_shown(history: History) -> None:
    lines = [JournalEvent(FAULT_S + n / 1000, "m2", "x", f"line {n}") for n in range(300)]
    worst_line = JournalEvent(FAULT_S + 0.5, "m2", "x", "disaster", priority=2)
    scenario = scenario_of(dataclasses.replace(history, events=(*history.events, *lines, worst_line)))
    assert len(scenario.journal) == 200
    assert scenario.journal[-1].text == "m2 x: disaster"
    assert [m.at_s for m in scenario.journal] == sorted(m.at_s for m in scenario.journal)


def test_what_happened_when_tells_what_served(history: History) -> None:
    events = (
        ReadinessEvent(FAULT_S + 1, "m1", "", "", ready=False, detail="no answer"),
        ReadinessEvent(FAULT_S + 2, "m2", "web-server", "HTTP answers", ready=True),
    )
    seen = dataclasses.replace(history, events=(*history.events, *events))
    page = as_html([seen], [scenario_of(seen)], Path("/"))
    assert "m1 (does not answer: no answer)" in page
    assert "m2: web-server: HTTP answers (passes)" in page
