"""Commands that break a lab by hand and mend it: fault inject, ls, heal."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, LabOption, app, existing_lab
from labctl.console import RESULTS, SAYS, table
from labctl.errors import DeadlineExceeded, InputError
from labctl.faults import KINDS, Unrecorded, active, confirm, heal, heal_all, inject, load, parse

__all__ = ["fault"]

fault = typer.Typer(no_args_is_help=True, help="Break a lab by hand, see what is broken, and mend it.")
app.add_typer(fault, name="fault", rich_help_panel="Labs")


def _told(name: str) -> str:
    """A kind with its parameters, as one types it."""
    fields = [f for f in dataclasses.fields(KINDS[name]) if f.name not in {"node", "groups"}]
    optional = (f"[{f.name}={'' if f.default in {None, ''} else f.default}]" for f in fields if not _needed(f))
    return " ".join([name, *(f"{f.name}=…" for f in fields if _needed(f)), *optional])


def _needed(field: dataclasses.Field[object]) -> bool:
    return field.default is dataclasses.MISSING


_KINDS = "\n\n".join(f"`{_told(name)}`" for name in KINDS)


@fault.command(
    "inject",
    help=f"""Do a fault and see that it took effect; it stays until `labctl fault heal`.

TARGET is a node; of a partition its groups: `labctl fault inject partition m1/m2,client one_way=yes`.

The kinds, with what they take (in brackets: what may be left out):

{_KINDS}
""",
)
def inject_(
    kind: Annotated[str, typer.Argument(metavar="KIND")],
    target: Annotated[str, typer.Argument(metavar="TARGET")],
    parameters: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]…")] = None,
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Do a fault and see that it took effect."""
    wanted = parse(kind, target, dict(_pair(p) for p in parameters or ()))
    with existing_lab(lab, connect) as the_lab:
        ground = the_lab.ground()
        inject(wanted, ground, Unrecorded())
        seen, what = confirm(wanted, ground, Unrecorded())
    if not seen:
        raise DeadlineExceeded(
            f"{wanted.kind} of {target} was not seen in effect: {what}", hint="labctl fault heal --all"
        )
    SAYS.print(f"{wanted.kind} of {target} is in effect: {what}", markup=False)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"{text!r}: expected NAME=VALUE", hint="labctl fault inject --help shows what each kind takes")
    return name, value


@fault.command("ls")
def ls(lab: LabOption = None, as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """List the faults that were begun and are not healed, whoever began them."""
    with existing_lab(lab, connect) as the_lab:
        marks = active(the_lab.ground())
    if as_json:
        rows = [{"kind": m.kind, "target": m.target, "since": m.since, "fault": json.loads(m.fault)} for m in marks]
        RESULTS.print_json(json.dumps(rows))
        return
    shown = table("fault", "target", "since", "parameters")
    for mark in marks:
        known = load(mark.fault)
        rest = {f.name: getattr(known, f.name) for f in dataclasses.fields(known) if f.name not in {"node", "groups"}}
        shown.add_row(mark.kind, mark.target, mark.since, " ".join(f"{k}={v}" for k, v in rest.items()))
    RESULTS.print(shown if marks else "no faults")


@fault.command("heal")
def heal_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="As `fault ls` shows it, or its first word.")
    ] = None,
    target: Annotated[str | None, typer.Argument(metavar="[TARGET]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All faults of the lab.")] = False,
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Heal faults, and see that they are healed: `labctl fault heal loss m1`, `labctl fault heal --all`."""
    if bool(kind) == everything:
        raise InputError(
            "which fault?", hint="labctl fault heal --all, or a KIND and TARGET as labctl fault ls shows them"
        )
    with existing_lab(lab, connect) as the_lab:
        ground = the_lab.ground()
        if everything:
            for mark in heal_all(ground):
                SAYS.print(f"{mark.kind} of {mark.target} is healed", markup=False)
            return
        there = active(ground)
        chosen = [m for m in there if kind in {m.kind, m.kind.split(" ", maxsplit=1)[0]} and target in {None, m.target}]
        if not chosen:
            known = ", ".join(f"{m.kind} {m.target}" for m in there) or "none"
            raise InputError(f"there is no fault {kind} {target or ''}".rstrip(), hint=f"faults: {known}")
        for mark in chosen:
            heal(load(mark.fault), ground, Unrecorded())
            SAYS.print(f"{mark.kind} of {mark.target} is healed", markup=False)
