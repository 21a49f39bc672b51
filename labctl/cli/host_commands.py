"""Commands on the host: doctor."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.markup import escape

from labctl.accelerator import cpu_flags, is_local
from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, app
from labctl.console import RESULTS
from labctl.doctor import Finding, ThisHost, diagnose, healthy
from labctl.hypervisor.libvirt_api import connect as connect_to

__all__ = ["doctor"]

_WORDS = {True: "[green]OK[/]  ", None: "[yellow]note[/]", False: "[red]BAD[/] "}


@app.command(rich_help_panel="Host")
def doctor(as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Check every prerequisite; what is wrong comes with the command that mends it."""
    host = ThisHost() if is_local(connect) else None
    findings = diagnose(lambda: connect_to(connect), host, flags=cpu_flags(connect))
    if as_json:
        RESULTS.print_json(json.dumps([asdict(f) for f in findings]))
    else:
        for finding in findings:
            _show(finding)
    if not healthy(findings):
        raise typer.Exit(3)


def _show(finding: Finding) -> None:
    RESULTS.print(f"{_WORDS[finding.ok]}  {finding.name}: {escape(finding.found)}")
    if finding.ok is not True:
        if finding.expected:
            RESULTS.print(f"      expected: {finding.expected}", markup=False)
        if finding.mend:
            RESULTS.print(f"      mend: {finding.mend}", markup=False)
