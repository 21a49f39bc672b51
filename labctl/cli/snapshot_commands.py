"""Commands on saved states: snapshot save, restore, ls, show, rm."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, LabOption, app, existing_lab
from labctl.cli.progress import reporting
from labctl.console import RESULTS, SAYS, table
from labctl.errors import InputError
from labctl.hypervisor.seam import Hypervisor
from labctl.lab import open_hypervisor
from labctl.state.kept import Manifest, State, load_state, remove_state, state_users, states, why_not_whole

__all__ = ["snapshot"]

snapshot = typer.Typer(
    no_args_is_help=True, help="States of a whole lab, RAM and disks, that can be restored in seconds."
)
app.add_typer(snapshot, name="snapshot", rich_help_panel="Labs")

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
KeyArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of a snapshot, or a key as `snapshot ls` shows it.")]


@snapshot.command()
def save(name: NameArgument, lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Save the lab as it is, RAM and disks of all nodes together. It is paused meanwhile, and then runs on."""
    with existing_lab(lab, connect) as the_lab, reporting() as reporter:
        the_lab.save_snapshot(name, reporter)


@snapshot.command()
def restore(name: NameArgument, lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Put the lab into the state that was saved under that name; what happened since is lost."""
    with existing_lab(lab, connect) as the_lab, reporting() as reporter:
        the_lab.restore_snapshot(name, reporter)


@snapshot.command("ls")
def ls(as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """List all saved states: snapshots, and the ready states that `labctl up` keeps by itself."""
    with open_hypervisor(connect) as hypervisor:
        rows = [_row(hypervisor, m) for m in states(hypervisor)]
    if as_json:
        RESULTS.print_json(json.dumps(rows))
        return
    shown = table("key", "lab", "saved", "nodes", "size", "used by")
    for row in rows:
        users = ", ".join(row["used_by"]) or "-"
        nodes = ", ".join(row["nodes"])
        shown.add_row(row["key"], row["lab"], row["saved_at"], nodes, f"{row['size_bytes'] >> 20} MiB", users)
    RESULTS.print(shown if rows else "no saved states")


@snapshot.command()
def show(name: KeyArgument, lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Show one saved state: what it is of, and what each node's disk and RAM take."""
    with open_hypervisor(connect) as hypervisor:
        manifest = _find(hypervisor, name, lab)
        state = _whole(hypervisor, manifest)
    RESULTS.print(
        f"key     {manifest.key}\nlab     {manifest.lab}\ndigest  {manifest.digest}\nsaved   {_when(manifest)}"
        f" under {manifest.host or 'conditions that are gone'}"
    )
    for node, machine in state.machines.items():
        disk_mib, ram_mib = machine.disk.allocation_bytes >> 20, machine.ram.allocation_bytes >> 20
        RESULTS.print(f"node    {node}: disk {disk_mib} MiB, RAM {ram_mib} MiB")


@snapshot.command()
def rm(name: KeyArgument, lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Remove a saved state; refuses while a lab stands on it."""
    with open_hypervisor(connect) as hypervisor:
        manifest = _find(hypervisor, name, lab)
        remove_state(hypervisor, manifest.key)
    SAYS.print(f"saved state {manifest.key} is gone")


def _find(hypervisor: Hypervisor, name: str, lab: str | None) -> Manifest:
    there = states(hypervisor)
    found = [m for m in there if name == m.key or (m.name == name and m.lab == (lab or m.lab))]
    if len(found) == 1:
        return found[0]
    known = ", ".join(m.key for m in there) or "none"
    which = "several saved states are called" if found else "there is no saved state"
    raise InputError(f"{which} {name}", hint=f"saved states: {known}")


def _whole(hypervisor: Hypervisor, manifest: Manifest) -> State:
    state = load_state(hypervisor, manifest)
    if state is None:
        why = why_not_whole(hypervisor, manifest) or "a save image is of a kind unknown to us"
        raise InputError(f"saved state {manifest.key} is not whole: {why}", hint=f"labctl snapshot rm {manifest.key}")
    return state


def _when(manifest: Manifest) -> str:
    return datetime.fromtimestamp(manifest.saved_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _row(hypervisor: Hypervisor, manifest: Manifest) -> dict[str, Any]:
    state = load_state(hypervisor, manifest)
    return {
        "key": manifest.key,
        "lab": manifest.lab,
        "saved_at": _when(manifest),
        "nodes": list(manifest.nodes),
        "size_bytes": state.size_bytes if state else 0,
        "whole": state is not None,
        "used_by": list(state_users(hypervisor.volumes(), manifest.key)),
    }
