"""Commands on what happened: verdict, report; and on what is to be: graph."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from labctl.checks import Verdict, judge_history, summary
from labctl.cli.app import JsonOption, app
from labctl.cli.lab_commands import TopologyArgument
from labctl.console import RESULTS, SAYS
from labctl.history import read_history
from labctl.lab import DEFAULT_TOPOLOGY
from labctl.report import as_json as figures_as_json
from labctl.report import mermaid, scenario_of, svg, write_report
from labctl.topology.load import find_topology, load_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator

__all__ = ["graph", "report", "verdict"]

HistoriesArgument = Annotated[
    list[Path], typer.Argument(metavar="HISTORY…", help="Files that tests left: artifacts/TEST/history.jsonl.")
]


@app.command(rich_help_panel="Histories")
def verdict(histories: HistoriesArgument, as_json: JsonOption = False) -> None:
    """Judge what happened again: by the claims that a history was judged by, or by those that hold of any.

    Exit code 1 unless every verdict is PASS.
    """
    verdicts = [judge_history(read_history(path)) for path in histories]
    if as_json:
        RESULTS.print_json(json.dumps([_as_json(v) for v in verdicts]))
    else:
        RESULTS.print("\n\n".join(summary(v) for v in verdicts), markup=False)
    if not all(v.passed for v in verdicts):
        raise typer.Exit(1)


def _as_json(found: Verdict) -> dict[str, Any]:
    return {
        "verdict": found.result,
        "evidence": found.evidence,
        "findings": [
            {
                "check": f.check,
                "result": f.result,
                "reason": f.reason,
                "figures": {
                    g.name: {"value": None if math.isinf(g.value) else g.value, "unit": g.unit} for g in f.figures
                },
            }
            for f in found.findings
        ],
    }


@app.command(rich_help_panel="Histories")
def report(
    histories: HistoriesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file; figures go beside it, as .json.")] = Path(
        "report.html"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make a page of what happened: verdicts, timelines, figures, in one file that needs no network."""
    seen = [read_history(path) for path in histories]
    if as_json:
        RESULTS.print(figures_as_json([scenario_of(history) for history in seen]), end="", markup=False)
        return
    result = write_report(seen, output)
    SAYS.print(f"{output}: {result}", markup=False)


class Format(StrEnum):
    """What `labctl graph` draws."""

    SVG = "svg"
    MERMAID = "mermaid"


@app.command(rich_help_panel="Labs")
def graph(
    topology: TopologyArgument = DEFAULT_TOPOLOGY,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="svg stands alone; mermaid is for wikis.")
    ] = Format.SVG,
) -> None:
    """Draw a topology."""
    spec = resolve(load_topology(find_topology(topology)), lab=None, accelerator=Accelerator.TCG)
    typer.echo(svg(spec) if format_ is Format.SVG else mermaid(spec), nl=False)
