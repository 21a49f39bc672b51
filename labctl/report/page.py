"""The report: one HTML file that needs nothing else, and the same figures as JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from labctl import __version__
from labctl.checks import Finding, Result
from labctl.errors import InputError, LabError
from labctl.history import History, LabEvent
from labctl.render.templates import render_text
from labctl.report.figures import Moment, Scenario, scenario_of
from labctl.report.graph import svg
from labctl.report.timeline import timeline
from labctl.topology.load import parse_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator

__all__ = ["as_html", "as_json", "worst", "write_report"]

_WORST_FIRST = [Result.FAIL, Result.INCONCLUSIVE, Result.PASS]


def worst(scenarios: Sequence[Scenario]) -> Result:
    """What several runs come to; INCONCLUSIVE when there are none."""
    results = {s.stands for s in scenarios} or {Result.INCONCLUSIVE}
    return next(r for r in _WORST_FIRST if r in results)


def write_report(histories: Sequence[History], target: Path) -> Result:
    """Write the report to a file, and its figures beside it with the suffix `.json`; returns what they come to.

    Raises:
        InputError: the file can't be written.
    """
    scenarios = [scenario_of(history) for history in histories]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(as_html(histories, scenarios, target.parent), encoding="utf-8")
        target.with_suffix(".json").write_text(as_json(scenarios), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror}") from error
    return worst(scenarios)


def as_json(scenarios: Sequence[Scenario]) -> str:
    """The figures of the report."""
    plain = [{**dataclasses.asdict(s), "stands": s.stands} for s in scenarios]
    return json.dumps([_plain(s) for s in plain], indent=1, ensure_ascii=False) + "\n"


def _plain(value: object) -> object:
    """What JSON can hold: an unknown number is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_html(histories: Sequence[History], scenarios: Sequence[Scenario], folder: Path) -> str:
    """The page.

    Args:
        folder: where it will lie, for links to the evidence.
    """
    page = files("labctl.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return render_text(
        page,
        "page.html.j2",
        {
            "verdict": worst(scenarios),
            "scenarios": scenarios,
            "worst_first": sorted(enumerate(scenarios, 1), key=lambda s: _WORST_FIRST.index(s[1].stands)),
            "labs": _pictures(histories),
            "written": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "version": __version__,
            "timeline": timeline,
            "findings": _worst_first,
            "moments": _moments,
            "logs": _logs,
            "link": lambda path: os.path.relpath(path, folder) if path else "",
        },
    )


def _worst_first(scenario: Scenario) -> list[Finding]:
    return sorted(scenario.findings, key=lambda f: _WORST_FIRST.index(f.result))


def _logs(history: str) -> list[Path]:
    """What else lies beside a history: consoles, journals."""
    folder = Path(history).parent
    return sorted(p for p in folder.glob("*.log")) if history else []


def _moments(scenario: Scenario) -> list[Moment]:
    faults = [
        moment
        for fault in scenario.faults
        for moment in (
            Moment(fault.from_s, f"{fault.fault} of {fault.target} is injected"),
            *(
                [Moment(fault.until_s, f"{fault.fault} of {fault.target} is healed")]
                if fault.until_s is not None
                else []
            ),
        )
    ]
    return sorted([*faults, *scenario.membership, *scenario.readiness, *scenario.notes], key=lambda m: m.at_s)


def _pictures(histories: Sequence[History]) -> list[tuple[str, str]]:
    """Each lab once, with its picture; a topology of another labctl is told in words."""
    events = {e.topology: e for history in histories for e in history.of(LabEvent)}
    return [(f"{event.lab} ({Path(event.file).name})", _picture(event)) for event in events.values()]


def _picture(event: LabEvent) -> str:
    try:
        topology = parse_topology(event.topology, event.file)
        return svg(resolve(topology, lab=event.lab, accelerator=Accelerator(event.accelerator)))
    except (LabError, ValueError) as error:
        return render_text("<p>no picture: {{ why }}</p>", "picture.html.j2", {"why": str(error)})
