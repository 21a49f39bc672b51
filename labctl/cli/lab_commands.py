"""Commands on whole labs: up, destroy, status, ls, plan, validate, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from labctl.cli.app import DEFAULT_CONNECT, Accel, AccelOption, ConnectOption, JsonOption, LabOption, app, existing_lab
from labctl.cli.progress import reporting
from labctl.cluster.membership import ClusterView, MemberState
from labctl.console import RESULTS, SAYS
from labctl.console import table as make_table
from labctl.errors import InputError
from labctl.lab import DEFAULT_TOPOLOGY, Lab, NodeStatus, default_lab, destroy_lab, inventory, open_hypervisor
from labctl.topology.load import find_topology, load_topology
from labctl.topology.schema import schema_json
from labctl.topology.spec import Accelerator

__all__ = ["destroy", "ls", "plan", "schema", "status", "up", "validate"]

TopologyArgument = Annotated[
    str, typer.Argument(metavar="[TOPOLOGY]", help="A file, or the name of a shipped topology.")
]
_LABS = "Labs"


def _accelerator(accel: Accel) -> Accelerator | None:
    return None if accel is Accel.AUTO else Accelerator(accel.value)


@app.command(rich_help_panel=_LABS)
def up(
    topology: TopologyArgument = DEFAULT_TOPOLOGY,
    lab: LabOption = None,
    accel: AccelOption = Accel.AUTO,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make it anew rather than restore its saved state.")] = False,
    no_save: Annotated[
        bool, typer.Option("--no-save", help="Don't save the state that the next `up` restores.")
    ] = False,
    boot: Annotated[
        bool, typer.Option("--boot", help="Boot new nodes rather than fork them from a running one.")
    ] = False,
    replace: Annotated[
        list[str] | None, typer.Option("--replace", metavar="NODE", help="Make this node anew while the others run on.")
    ] = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Bring a lab up.

    From whatever state it is in: what is missing is made, what is stopped is started, what its topology changed is made
    anew, and a lab that is up is left alone. The first time, the parent disk is built.
    """
    with open_hypervisor(connect) as hypervisor:
        the_lab = Lab.from_topology(topology, hypervisor=hypervisor, name=lab, accelerator=_accelerator(accel))
        with reporting() as reporter:
            done = the_lab.up(reporter, boot=boot, fresh=fresh, keep=not no_save, replace=replace or ())
        if not done:
            SAYS.print(f"lab {the_lab.name} is up; there is nothing to do")
        _show(the_lab, the_lab.status(), reporter.seconds)
        if done:
            _next_steps(the_lab)


@app.command(rich_help_panel=_LABS)
def destroy(lab: LabOption = None, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Remove all of a lab: its machines, disks and networks, whatever state they are in.

    Found by what libvirt holds, so it works after any crash. Parent disks stay; see `labctl image prune`.
    """
    with open_hypervisor(connect) as hypervisor:
        labs = inventory(hypervisor).labs
        name = lab or (default_lab(labs) if labs else DEFAULT_TOPOLOGY)
        with reporting() as reporter:
            done = destroy_lab(hypervisor, name, reporter)
    gone = f"lab {name} is gone: {len(done.actions)} objects removed"
    SAYS.print(gone if done else f"there is no lab {name}", markup=False)


@app.command(rich_help_panel=_LABS)
def status(lab: LabOption = None, as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """Show a lab: its nodes, their NICs with link state, its clusters with members and ownership."""
    with existing_lab(lab, connect) as the_lab:
        nodes = the_lab.status()
        if as_json:
            views = [the_lab.look(c) for c in the_lab.spec.clusters]
            RESULTS.print_json(json.dumps(_as_json(the_lab, nodes, views)))
        else:
            _show(the_lab, nodes, {})


@app.command("ls", rich_help_panel=_LABS)
def ls(as_json: JsonOption = False, connect: ConnectOption = DEFAULT_CONNECT) -> None:
    """List the labs on a hypervisor."""
    with open_hypervisor(connect) as hypervisor:
        everything = inventory(hypervisor)
        rows = []
        for name in everything.labs:
            own = everything.of(name)
            running = sum(d.state == "running" for d in own.domains)
            disk_mib = sum(v.allocation_bytes for v in own.volumes) >> 20
            rows.append({"lab": name, "nodes": len(own.domains), "running": running, "disk_mib": disk_mib})
    if as_json:
        RESULTS.print_json(json.dumps(rows))
        return
    table = make_table("lab", "nodes", "running", "disk")
    for row in rows:
        table.add_row(str(row["lab"]), str(row["nodes"]), str(row["running"]), f"{row['disk_mib']} MiB")
    RESULTS.print(table if rows else "no labs")


@app.command(rich_help_panel=_LABS)
def plan(
    topology: TopologyArgument = DEFAULT_TOPOLOGY,
    lab: LabOption = None,
    accel: AccelOption = Accel.AUTO,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Show what `up` would do, without doing it."""
    with open_hypervisor(connect) as hypervisor:
        the_lab = Lab.from_topology(topology, hypervisor=hypervisor, name=lab, accelerator=_accelerator(accel))
        todo = the_lab.plan()
        RESULTS.print(str(todo) or f"lab {the_lab.name} is up; there is nothing to do\n", end="", markup=False)


@app.command(rich_help_panel=_LABS)
def validate(topology: TopologyArgument = DEFAULT_TOPOLOGY) -> None:
    """Check a topology file and show all its problems, with line and column. Touches nothing."""
    found = load_topology(find_topology(topology))
    RESULTS.print(
        f"{topology}: fine: {len(found.nodes)} nodes, {len(found.networks)} networks, {len(found.clusters)} clusters",
        markup=False,
    )


@app.command(rich_help_panel=_LABS)
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to a file instead.")] = None,
) -> None:
    """Print the JSON Schema of topology files, for editors."""
    if output:
        _write(output, schema_json())
    else:
        typer.echo(schema_json(), nl=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error


# -- showing -----------------------------------------------------------------------------------------------------------


_COLOURS = {"ready": "green", "preparing": "yellow", "paused": "yellow"}


def _show(lab: Lab, nodes: tuple[NodeStatus, ...], seconds: dict[str, float]) -> None:
    """The lab as tables: nodes with their NICs, clusters with what their members see."""
    table = make_table("node", "roles", "addresses", "state", *(["seconds"] if seconds else []))
    for status_ in nodes:
        node = status_.node
        cells = [node.name, ", ".join(node.roles) or "-", _addresses(status_), _coloured(status_.state)]
        if seconds:
            cells.append(f"{seconds[node.name]:.1f}" if node.name in seconds else "-")
        table.add_row(*cells)
    RESULTS.print(table)
    for cluster in lab.spec.clusters:
        _show_cluster(lab.look(cluster))


def _coloured(state: str) -> str:
    return f"[{_COLOURS.get(state, 'red')}]{state}[/]"


def _addresses(status_: NodeStatus) -> str:
    links = {nic.mac: nic.link_up for nic in status_.domain.nics} if status_.domain else {}
    cells = []
    for nic in status_.node.nics:
        extra = len(nic.extra_addresses) + len(nic.extra_addresses6)
        more = (f" {nic.address6.ip}" if nic.address6 else "") + (f" +{extra}" if extra else "")
        down = "" if links.get(nic.mac, True) else " [red](link down)[/]"
        cells.append(f"{nic.name} {nic.address.ip}{more}{down}")
    return ", ".join(cells)


def _show_cluster(view: ClusterView) -> None:
    cluster = view.cluster
    state = "[green]converged[/]" if view.converged else "[red]not converged[/]"
    beat = cluster.heartbeat
    RESULTS.print(
        f"\ncluster {cluster.name}: {state}, {cluster.fqdn} {' '.join(map(str, cluster.addresses))}, {cluster.mode}, "
        f"heartbeat {beat.period_ms} ms x {beat.tolerance}"
    )
    names = {m.priority: m.node for m in cluster.members}
    table = make_table("member", "host ID", "sees", "buckets")
    for member in view.members:
        if view.state_of(member) in {MemberState.CONVERGED, MemberState.CONVERGING}:
            sees = ", ".join(names[p] for p in sorted(member.alive or ()) if p in names)
        else:
            sees = f"[red]{escape(view.why(member) or view.state_of(member))}[/]"
        owns = ", ".join(f"{rule}: {shares.get(member.node, 0)}" for rule, shares in view.owned.items())
        table.add_row(member.node, str(member.priority), sees or "nobody", owns or "-")
    RESULTS.print(table)


def _next_steps(lab: Lab) -> None:
    SAYS.print("\ntry next:")
    named = "" if lab.name == DEFAULT_TOPOLOGY else f" --lab {lab.name}"
    client = next((n.name for n in lab.spec.nodes if "client" in n.roles), lab.spec.nodes[0].name)
    for cluster in lab.spec.clusters:
        ports = {p for r in cluster.port_rules for p in (r.first_port, r.last_port)}
        scheme = "https" if 443 in ports else "http"
        SAYS.print(f"  labctl exec{named} {client} -- curl {scheme}://{cluster.fqdn}/", markup=False)
    SAYS.print(f"  labctl status{named}\n  labctl console{named} {client}\n  labctl destroy{named}", markup=False)


def _as_json(lab: Lab, nodes: tuple[NodeStatus, ...], views: list[ClusterView]) -> dict[str, Any]:
    return {
        "lab": lab.name,
        "accelerator": lab.spec.accelerator,
        "nodes": [_node_json(n) for n in nodes],
        "clusters": [_cluster_json(v) for v in views],
    }


def _node_json(status_: NodeStatus) -> dict[str, Any]:
    links = {nic.mac: nic.link_up for nic in status_.domain.nics} if status_.domain else {}
    nics = [
        {
            "name": nic.name,
            "network": nic.network,
            "mac": nic.mac,
            "address": str(nic.address),
            "address6": str(nic.address6) if nic.address6 else None,
            "extra_addresses": [str(a) for a in (*nic.extra_addresses, *nic.extra_addresses6)],
            "link_up": links.get(nic.mac),
        }
        for nic in status_.node.nics
    ]
    node = status_.node
    return {"node": node.name, "fqdn": node.fqdn, "roles": list(node.roles), "state": status_.state, "nics": nics}


def _cluster_json(view: ClusterView) -> dict[str, Any]:
    cluster = view.cluster
    members = [
        {
            "node": m.node,
            "priority": m.priority,
            "sees": sorted(m.alive) if m.alive is not None else None,
            "why": m.why,
        }
        for m in view.members
    ]
    return {
        "cluster": cluster.name,
        "address": str(cluster.address.ip),
        "addresses": [str(address) for address in cluster.addresses],
        "fqdn": cluster.fqdn,
        "mode": cluster.mode,
        "heartbeat": {"period_ms": cluster.heartbeat.period_ms, "tolerance": cluster.heartbeat.tolerance},
        "converged": view.converged,
        "members": members,
        "buckets_owned": view.owned,
    }
