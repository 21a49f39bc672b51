"""The command that shows what nobody else must know: secrets."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, LabOption, app, existing_lab
from labctl.console import RESULTS
from labctl.console import table as make_table
from labctl.errors import InputError
from labctl.vault import load_secrets

__all__ = ["secrets"]


@app.command(rich_help_panel="Nodes")
def secrets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one alone, as it is.")] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Show the lab's passwords and keys: users.NAME, and those of its roles.

    They are random, made when the lab first comes up, and kept with it where root alone can read them. Keys and
    certificates of several lines are shown by name: `labctl secrets certificate-authority.ca_root_certificate`.
    """
    with existing_lab(lab, connect) as the_lab:
        found = load_secrets(the_lab.hypervisor, the_lab.name)
    by_name = dict(found.items())
    if name is not None:
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise InputError(f"lab {the_lab.name} has no secret {name}", hint=f"its secrets: {known}")
        typer.echo(by_name[name].rstrip("\n"))
    elif as_json:
        RESULTS.print_json(json.dumps(asdict(found)))
    else:
        table = make_table("secret", "value")
        for key, value in by_name.items():
            table.add_row(key, escape(_shown(value)))
        RESULTS.print(table if by_name else "no secrets")


def _shown(value: str) -> str:
    first, *more = value.splitlines()
    return f"{first} ({len(more) + 1} lines)" if more else first
