"""Commands that give a node to people's own tools: ssh, ssh-config, forward."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from labctl import process
from labctl.access.channel import require_reachable
from labctl.access.client import configuration, keep_files
from labctl.access.files import SshFiles, full_name
from labctl.access.forward import parse_forwards, refuse_taken_ports, ssh_arguments, who_listens
from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, LabOption, app, existing_lab
from labctl.lab import Lab

__all__ = ["forward", "ssh", "ssh_config"]

_NODES = "Nodes"
_LAST_IS_THEIRS = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@app.command(rich_help_panel=_NODES, context_settings=_LAST_IS_THEIRS)
def ssh(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[CMD]…", help="A shell line; a login without.")
    ] = None,
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Log in to a node with OpenSSH, or run a command there, out of band: it needs no network there.

    Up to eight sessions with a node at once. `labctl ssh-config` is for scp, rsync, Ansible and your own ssh.
    """
    with existing_lab(lab, connect) as the_lab:
        files = _ready(the_lab, node)
    terminal = ["-t"] if command and sys.stdin.isatty() and sys.stdout.isatty() else []
    process.become(["ssh", "-F", files.configuration, *terminal, full_name(the_lab.name, node), "--", *(command or ())])


@app.command("ssh-config", rich_help_panel=_NODES)
def ssh_config(lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Print what OpenSSH has to know of the lab, for `ssh -F`: each node as NODE and as NODE.LAB.

    labctl ssh-config > lab.ssh
    scp -F lab.ssh notes.txt client:
    rsync -e 'ssh -F lab.ssh' -r site/ cas1:/var/www/
    ansible all -i cas1,cas2, --ssh-common-args='-F lab.ssh' -m ping
    """
    with existing_lab(lab, connect) as the_lab:
        files = keep_files(the_lab.name)
        typer.echo(_configuration(the_lab, files), nl=False)


@app.command(rich_help_panel=_NODES)
def forward(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    ports: Annotated[list[str], typer.Argument(metavar="[LOCAL:][HOST:]PORT…")],
    local: Annotated[
        int | None, typer.Option("--local", metavar="PORT", help="The local port of a single one.")
    ] = None,
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Make TCP ports of a node ports of this host, out of band, until Ctrl-C; for browsers and mail clients.

    HOST is what the node then connects to in place of itself, so that one node stands for all that it reaches:
    `labctl forward client 8443:mail.contoso.test:443` is the cluster as the lab's client sees it. LOCAL, on 127.0.0.1,
    is the same number as PORT unless it is given.
    """
    wanted = parse_forwards(ports, local)
    refuse_taken_ports(wanted)
    with existing_lab(lab, connect) as the_lab:
        files = _ready(the_lab, node)
        guest, spec = the_lab.guest(node), the_lab.spec.node(node)
        served = [who_listens(guest, spec, one) for one in wanted]
    process.become(["ssh", "-F", files.configuration, *ssh_arguments(node, served), full_name(the_lab.name, node)])


def _ready(lab: Lab, node: str) -> SshFiles:
    """What ssh needs for that node, which is there and answers."""
    require_reachable(lab.hypervisor, lab.guest(node))
    files = keep_files(lab.name)
    files.keep(files.configuration, _configuration(lab, files))
    return files


def _configuration(lab: Lab, files: SshFiles) -> str:
    return configuration(files, lab.hypervisor.uri, lab.name, [n.name for n in lab.spec.nodes])
