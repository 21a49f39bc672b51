"""Commands on parent disks: image build, ls, show, rm, prune."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from labctl import images
from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, app
from labctl.cli.progress import reporting
from labctl.console import RESULTS, SAYS, table
from labctl.errors import InputError
from labctl.hypervisor.seam import Hypervisor
from labctl.images import Parent
from labctl.inventory import Inventory
from labctl.lab import inventory, open_hypervisor
from labctl.machines import remove_unused

__all__ = ["image"]

image = typer.Typer(
    no_args_is_help=True, help="The parent disks that all nodes are clones of.", rich_markup_mode="markdown"
)
app.add_typer(image, name="image", rich_help_panel="Host")

ParentArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="As `labctl image ls` names it; the digest may be cut short.")
]


@image.command()
def build(
    name: Annotated[str, typer.Argument(metavar="[IMAGE]", help="A folder of images/.")] = "debian-13",
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Build a parent disk unless it is there already. `labctl up` does this by itself."""
    with open_hypervisor(connect) as hypervisor, reporting() as reporter:
        parent = images.build(hypervisor, images.load_recipe(name), reporter.note)
    SAYS.print(f"{_title(parent)} is there")


@image.command("ls")
def ls(as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """List the parent disks, with the labs that are backed by them."""
    with open_hypervisor(connect) as hypervisor:
        rows = [(p, images.users_of(hypervisor, p)) for p in images.parents(hypervisor)]
        everything = inventory(hypervisor)
    if as_json:
        RESULTS.print_json(json.dumps([_as_json(p, users) for p, users in rows]))
        return
    shown = table("image", "recipe digest", "size", "packages", "used by")
    for parent, users in rows:
        manifest = parent.manifest
        size = f"{parent.disk.allocation_bytes >> 20} MiB"
        used = "\n".join(_labs(users, everything)) or "-"
        shown.add_row(manifest.image, manifest.digest, size, str(len(manifest.packages)), used)
    RESULTS.print(shown if rows else "no parent disks; labctl image build makes one")


@image.command()
def show(
    name: ParentArgument,
    packages: Annotated[bool, typer.Option("--packages", help="Every package inside, with its version.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read it all and compare its checksum.")] = False,
    as_json: JsonOption = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Show one parent disk."""
    with open_hypervisor(connect) as hypervisor:
        parent = _find(hypervisor, name)
        users = images.users_of(hypervisor, parent)
        intact = images.verify(hypervisor, parent) if verify else None
    if as_json:
        extra = {"packages": dict(parent.manifest.packages)} if packages else {}
        RESULTS.print_json(json.dumps({**_as_json(parent, users), "intact": intact, **extra}))
    else:
        _show(parent, users, intact, packages=packages)
    if intact is False:
        raise typer.Exit(3)


@image.command()
def rm(name: ParentArgument, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Remove a parent disk; refuses while anything is backed by it."""
    with open_hypervisor(connect) as hypervisor:
        parent = _find(hypervisor, name)
        remove_unused(hypervisor, parent)
        images.remove(hypervisor, parent)
    SAYS.print(f"{_title(parent)} is gone")


@image.command()
def prune(connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Remove every parent disk that nothing is backed by and that no recipe here would make again, and broken ones."""
    with open_hypervisor(connect) as hypervisor:
        for name in images.remove_interrupted(hypervisor):
            SAYS.print(f"{name}, of a build that was interrupted, is gone")
        current = {images.load_recipe(name).volume("qcow2") for name in images.recipe_names()}
        for parent in images.parents(hypervisor):
            if parent.disk.name in current:
                continue
            remove_unused(hypervisor, parent)
            if images.users_of(hypervisor, parent):
                continue
            images.remove(hypervisor, parent)
            SAYS.print(f"{_title(parent)} is gone")


def _find(hypervisor: Hypervisor, name: str) -> Parent:
    """A parent by image name, by digest, or by the beginning of its digest."""
    there = images.parents(hypervisor)
    found = [p for p in there if name == p.manifest.image or p.manifest.digest.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{p.manifest.image} ({p.manifest.digest})" for p in there) or "none"
    which = "several parent disks are called" if found else "there is no parent disk"
    raise InputError(f"{which} {name}", hint=f"parent disks, by name and digest: {known}")


def _labs(users: tuple[str, ...], everything: Inventory) -> list[str]:
    """Who stands on a parent, in short: each lab and saved state with how many nodes do; others by their own name."""
    owners = {d.name: (d.mark.lab, d.mark.name) for d in everything.domains if d.mark}
    owners |= {v.name: (v.lab, v.name.split(".")[2]) for v in everything.volumes if v.lab}
    parts = (v.name.split(".") for v in everything.volumes)
    owners |= {".".join(p): (f"state {p[1]}", p[2]) for p in parts if p[0] == "state" and len(p) == 4}
    nodes: dict[str, set[str]] = {}
    for lab, node in (owners[user] for user in users if user in owners):
        nodes.setdefault(lab, set()).add(node)
    counted = [f"{lab} ({len(names)} node{'s' * (len(names) > 1)})" for lab, names in sorted(nodes.items())]
    return counted + [user for user in users if user not in owners]


def _title(parent: Parent) -> str:
    return f"parent disk {parent.manifest.image} ({parent.manifest.digest})"


def _show(parent: Parent, users: tuple[str, ...], intact: bool | None, *, packages: bool) -> None:
    manifest = parent.manifest
    RESULTS.print(f"image     {manifest.image}")
    RESULTS.print(f"digest    {manifest.digest} (of its recipe)")
    RESULTS.print(f"volume    {parent.disk.path}")
    RESULTS.print(
        f"size      {parent.disk.allocation_bytes >> 20} MiB here, {manifest.capacity_bytes >> 30} GiB in a guest"
    )
    RESULTS.print(f"kernel    {manifest.kernel}")
    RESULTS.print(f"built in  {manifest.build_s} s")
    verdict = {None: "", True: " (verified)", False: " ([red]the disk has another one: it was written to[/])"}[intact]
    RESULTS.print(f"sha256    {manifest.sha256}{verdict}")
    for number, user in enumerate(users or ("-",)):
        RESULTS.print(f"{'' if number else 'used by':<9} {user}", markup=False)
    RESULTS.print(f"packages  {len(manifest.packages)}")
    if packages:
        for name, version in manifest.packages:
            RESULTS.print(f"          {name} {version}")


def _as_json(parent: Parent, users: tuple[str, ...]) -> dict[str, object]:
    manifest = parent.manifest
    return {
        "image": manifest.image,
        "digest": manifest.digest,
        "path": parent.disk.path,
        "allocation_bytes": parent.disk.allocation_bytes,
        "capacity_bytes": manifest.capacity_bytes,
        "sha256": manifest.sha256,
        "kernel": manifest.kernel,
        "build_s": manifest.build_s,
        "package_count": len(manifest.packages),
        "used_by": list(users),
    }
