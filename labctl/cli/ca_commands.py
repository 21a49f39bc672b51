"""Commands on the lab's certificate authority: ca ls, issue, renew, revoke."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from labctl.certificates import Certificate, Enrolment, RevocationReason, current, enrol, issued, revoke
from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, LabOption, app, existing_lab
from labctl.console import RESULTS, SAYS, table
from labctl.errors import GuestError, InputError
from labctl.guest.agent import Guest
from labctl.lab import Lab

__all__ = ["ca"]

ca = typer.Typer(
    no_args_is_help=True, help="The lab's certificate authority: what it issued, asking for more, taking them back."
)
app.add_typer(ca, name="ca", rich_help_panel="Nodes")

NodeArgument = Annotated[str, typer.Argument(metavar="NODE")]
ReasonOption = Annotated[RevocationReason, typer.Option("--reason", help="What the list of revoked ones says of it.")]


@ca.command("ls")
def ls(lab: LabOption = None, as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """List the certificates that the authority has issued, the oldest first."""
    with existing_lab(lab, connect) as the_lab:
        found = issued(_authority(the_lab))
    if as_json:
        RESULTS.print_json(json.dumps([_json(c) for c in found]))
        return
    shown = table("serial", "names", "issued", "expires", "state")
    for one in found:
        shown.add_row(one.serial, "\n".join(one.names), _when(one.issued_at), _when(one.expires_at), _state(one))
    RESULTS.print(shown if found else "no certificates")


@ca.command()
def issue(node: NodeArgument, lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Give a node another certificate with a new key, and let its services take it."""
    _enrol(node, Enrolment.ISSUE, lab, connect)


@ca.command()
def renew(node: NodeArgument, lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Give a node another certificate for the key that it has, and let its services take it."""
    _enrol(node, Enrolment.RENEW, lab, connect)


@ca.command("revoke")
def revoke_(
    which: Annotated[str, typer.Argument(metavar="NODE|SERIAL", help="A node's newest, or the one of that serial.")],
    reason: ReasonOption = RevocationReason.UNSPECIFIED,
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Take a certificate back: the list of revoked ones names it at once. `ca issue` gives the node another one."""
    with existing_lab(lab, connect) as the_lab:
        authority = _authority(the_lab)
        serial = which if which.isdecimal() else _serial_of(the_lab, which)
        revoke(authority, serial, reason)
    SAYS.print(f"certificate {serial} is revoked")


def _enrol(node: str, how: Enrolment, lab: str | None, connect: str) -> None:
    with existing_lab(lab, connect) as the_lab:
        authority, guest = _authority(the_lab), the_lab.guest(node)
        if "certificate" not in the_lab.spec.node(node).roles:
            raise InputError(f"node {node} has no certificate: none of its roles uses one")
        enrol(guest, how)
        fresh = current(issued(authority), the_lab.spec.node(node).fqdn)
    if fresh is None:
        raise GuestError(f"{authority.name}: the authority knows of no certificate for {node}")
    SAYS.print(f"{node}: certificate {fresh.serial}")


def _authority(lab: Lab) -> Guest:
    node = lab.spec.authority
    if node is None:
        raise InputError(f"lab {lab.name} has no certificate authority: no node has that role")
    return lab.guest(node.name)


def _serial_of(lab: Lab, node: str) -> str:
    lab.guest(node)  # refuses a name that is no node's
    found = current(issued(_authority(lab)), lab.spec.node(node).fqdn)
    if found is None:
        raise InputError(f"node {node} has no certificate that could be revoked", hint="labctl ca ls shows them all")
    return found.serial


def _state(one: Certificate) -> str:
    if one.revoked_at:
        return f"[red]revoked {_when(one.revoked_at)}[/]"
    return "[red]expired[/]" if one.expires_at < datetime.now(UTC) else "[green]good[/]"


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")


def _json(one: Certificate) -> dict[str, Any]:
    return {
        "serial": one.serial,
        "names": list(one.names),
        "issued_at": one.issued_at.isoformat(),
        "expires_at": one.expires_at.isoformat(),
        "revoked_at": one.revoked_at.isoformat() if one.revoked_at else None,
    }
