"""Commands on what labctl keeps: cache ls, prune."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from labctl.cache import MOST_AGE_S, MOST_BYTES, entries, prune
from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, app
from labctl.console import RESULTS, SAYS, table
from labctl.lab import open_hypervisor

__all__ = ["cache"]

cache = typer.Typer(no_args_is_help=True, help="Saved states and parent machines, kept so that no lab is made twice.")
app.add_typer(cache, name="cache", rich_help_panel="Host")


@cache.command("ls")
def ls(as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """List what is kept, how large it is, and who stands on it."""
    with open_hypervisor(connect) as hypervisor:
        found = entries(hypervisor)
    if as_json:
        RESULTS.print_json(json.dumps([asdict(e) for e in found]))
        return
    shown = table("kind", "name", "saved", "size", "used by")
    for entry in found:
        saved = datetime.fromtimestamp(entry.saved_at, UTC).strftime("%Y-%m-%d %H:%M") if entry.saved_at else "-"
        users = "\n".join(entry.used_by) or "-"
        shown.add_row(entry.kind, entry.name, saved, f"{entry.size_bytes >> 20} MiB", users)
    total = sum(e.size_bytes for e in found) >> 20
    RESULTS.print(shown if found else "nothing is kept")
    if found:
        RESULTS.print(f"{total} MiB in all")


@cache.command("prune")
def prune_(
    max_gib: Annotated[float, typer.Option("--max-gib", help="Remove the oldest until the rest is no larger.")] = (
        MOST_BYTES / (1 << 30)
    ),
    older_than: Annotated[float, typer.Option("--older-than", metavar="DAYS", help="Remove states of that age.")] = (
        MOST_AGE_S / 86400
    ),
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Named snapshots may go, too.")] = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Remove what is too old, and the oldest until the rest is small enough; never what a lab stands on."""
    with open_hypervisor(connect) as hypervisor:
        removed = prune(
            hypervisor,
            now_s=time.time(),
            most_bytes=int(max_gib * (1 << 30)),
            most_age_s=older_than * 86400,
            snapshots=snapshots,
        )
    for entry in removed:
        SAYS.print(f"{entry.kind} {entry.name} is gone: {entry.size_bytes >> 20} MiB")
    if not removed:
        SAYS.print("nothing to remove")
