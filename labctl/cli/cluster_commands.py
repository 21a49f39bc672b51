"""NLB's controls of a cluster: query, display, params, start, stop, drainstop, suspend, resume, enable, …"""

from __future__ import annotations

import json
import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated

import typer
from rich.markup import escape

from labctl.cli.app import DEFAULT_CONNECT, ConnectOption, JsonOption, LabOption, app, existing_lab
from labctl.cli.cluster_tables import (
    Picture,
    owner_json,
    owner_line,
    params_json,
    picture_json,
    show_knowledge,
    show_params,
    show_picture,
)
from labctl.clock import Deadline
from labctl.cluster.control import Connections, Control, Order, connections, drainstop, give, rules_named
from labctl.cluster.handle import SETTLES_WITHIN_S
from labctl.cluster.membership import wait_settled
from labctl.cluster.ownership import rule_for
from labctl.console import RESULTS, SAYS
from labctl.errors import GuestError, InputError, LabError
from labctl.lab import Lab
from labctl.parallel import for_all
from labctl.topology.mac import cluster_mac, member_mac
from labctl.topology.spec import Affinity, ClusterMode, ClusterSpec, RuleProtocol, bracketed
from labctl.topology.values import IPAddress

__all__ = ["cluster"]

cluster = typer.Typer(
    no_args_is_help=True,
    help="A cluster's members and port rules, as NLB's `nlb` command controls them: out of band, in a moment.",
)
app.add_typer(cluster, name="cluster", rich_help_panel="Clusters")

ClusterOption = Annotated[
    str | None, typer.Option("--cluster", "-C", metavar="NAME", help="Which cluster; the only one by default.")
]
MembersArgument = Annotated[list[str] | None, typer.Argument(metavar="[MEMBER]…", help="All members by default.")]
PortArgument = Annotated[
    str, typer.Argument(metavar="PORT", help="443, 443/tcp, 1000-1999/both, 10.77.0.25:80, or all.")
]


# -- showing -----------------------------------------------------------------------------------------------------------


@cluster.command()
def query(
    lab: LabOption = None,
    name: ClusterOption = None,
    as_json: JsonOption = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Each member's state and since when, whom it sees, the buckets it owns, its open connections."""
    with existing_lab(lab, connect) as the_lab:
        picture = _picture(the_lab, the_lab.cluster(name))
    if as_json:
        RESULTS.print_json(json.dumps(picture_json(picture)))
    else:
        show_picture(picture)


@cluster.command()
def params(
    lab: LabOption = None,
    name: ClusterOption = None,
    as_json: JsonOption = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """What the topology says: addresses, MACs, heartbeat, members, port rules."""
    with existing_lab(lab, connect) as the_lab:
        spec = the_lab.cluster(name)
    if as_json:
        RESULTS.print_json(json.dumps(params_json(the_lab.spec, spec)))
    else:
        show_params(the_lab.spec, spec)


@cluster.command()
def display(
    lab: LabOption = None,
    name: ClusterOption = None,
    as_json: JsonOption = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """All there is to see: `params`, `query`, and what each member knows of the others."""
    with existing_lab(lab, connect) as the_lab:
        spec = the_lab.cluster(name)
        picture = _picture(the_lab, spec)
    if as_json:
        shown = {"params": params_json(the_lab.spec, spec), "query": picture_json(picture, knowledge=True)}
        RESULTS.print_json(json.dumps(shown))
        return
    show_params(the_lab.spec, spec)
    RESULTS.print()
    show_picture(picture)
    RESULTS.print()
    show_knowledge(picture)


def _picture(lab: Lab, spec: ClusterSpec) -> Picture:
    """What the members see, and their connections; a member that can't be asked for those has none to show."""
    view, found = lab.look(spec), dict[str, Connections]()

    def count(node: str) -> None:
        try:
            found[node] = connections(lab.guest(node), spec)
        except LabError as gone:
            SAYS.print(f"connections of {node} are not known: {str(gone).splitlines()[0]}", markup=False)

    for_all(count, [m.node for m in view.members if m.knows])
    return Picture(view, found)


# -- telling -----------------------------------------------------------------------------------------------------------


@cluster.command()
def start(
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Serve (again). Refused while members' rules differ."""
    _tell(Control.START, members, lab, name, connect)


@cluster.command()
def stop(
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Serve no more, at once; open connections are lost."""
    _tell(Control.STOP, members, lab, name, connect)


@cluster.command("drainstop")
def drainstop_(
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Wait so long for them to end.")
    ] = 60.0,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Take no new connections, wait until the open ones have ended, then stop.

    Those that are left after the timeout are counted, and the member goes on draining: exit code 4.
    """
    with existing_lab(lab, connect) as the_lab:
        spec = the_lab.cluster(name)
        nodes, deadline = _nodes(spec, members), Deadline.within(timeout, the_lab.clock)
        ignored = drainstop(spec, the_lab.members(spec), nodes, deadline, lambda said: SAYS.print(said, markup=False))
        _settle(the_lab, spec, ignored)


@cluster.command()
def suspend(
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Stop, and ignore all but `resume` from now on."""
    _tell(Control.SUSPEND, members, lab, name, connect)


@cluster.command()
def resume(
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Listen to commands again; a `start` makes it serve."""
    _tell(Control.RESUME, members, lab, name, connect)


@cluster.command()
def enable(
    port: PortArgument,
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Serve a port rule (again)."""
    _tell(Control.ENABLE, members, lab, name, connect, port)


@cluster.command()
def disable(
    port: PortArgument,
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Serve a port rule no more, at once; its open connections are lost."""
    _tell(Control.DISABLE, members, lab, name, connect, port)


@cluster.command()
def drain(
    port: PortArgument,
    members: MembersArgument = None,
    lab: LabOption = None,
    name: ClusterOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Take no new connections of a port rule; those that are open go on."""
    _tell(Control.DRAIN, members, lab, name, connect, port)


def _tell(
    control: Control,
    members: list[str] | None,
    lab: str | None,
    name: str | None,
    connect: str,
    port: str | None = None,
) -> None:
    with existing_lab(lab, connect) as the_lab:
        spec = the_lab.cluster(name)
        order = Order(control, _nodes(spec, members), () if port is None else rules_named(spec, port))
        _settle(the_lab, spec, give(spec, the_lab.members(spec), order))


def _nodes(spec: ClusterSpec, members: list[str] | None) -> tuple[str, ...]:
    known = tuple(m.node for m in spec.members)
    strangers = [node for node in members or () if node not in known]
    if strangers:
        raise InputError(
            f"cluster {spec.name} has no member {', '.join(strangers)}", hint=f"its members: {', '.join(known)}"
        )
    return tuple(members) if members else known


def _settle(lab: Lab, spec: ClusterSpec, ignored: dict[str, str]) -> None:
    """Show what has become of it once the members agree.

    Raises:
        GuestError: members that ignored what they were told.
    """
    deadline = Deadline.within(spec.heartbeat.down_after_s + SETTLES_WITHIN_S, lab.clock)
    wait_settled(spec, lab.members(spec), deadline)
    show_picture(_picture(lab, spec))
    if ignored:
        raise GuestError("; ".join(f"{node}: {why}" for node, why in ignored.items()))


# -- looking up --------------------------------------------------------------------------------------------------------


@cluster.command()
def ip2mac(
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    lab: LabOption = None,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """The MACs that a virtual address has, by mode, and those that its members send from in unicast mode.

    They are made from a cluster's first IPv4 address, which stands for an IPv6 address of the lab's clusters.
    """
    ip = _address(address, "10.77.0.20")
    if isinstance(ip, IPv6Address):
        with existing_lab(lab, connect) as the_lab:
            ip = _primary(the_lab, ip)
    for mode in ClusterMode:
        RESULTS.print(f"{mode.value:<10} {cluster_mac(mode, ip)}")
    RESULTS.print(f"{'members':<10} {member_mac(1, ip)} to {member_mac(32, ip)}, by host ID")


def _primary(lab: Lab, address: IPv6Address) -> IPv4Address:
    for spec in lab.spec.clusters:
        if address in spec.addresses:
            return spec.address.ip
    known = ", ".join(str(a) for spec in lab.spec.clusters for a in spec.addresses6) or "none"
    raise InputError(f"{address} is not a virtual address of lab {lab.name}", hint=f"its IPv6 ones: {known}")


@cluster.command()
def owner(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE[:PORT]",
            help="The client; with affinity none also its port: 10.77.1.7:40000, \\[fd00:77::7]:40000.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="[ADDRESS:]PORT",
            help="Of the virtual address, the first of the client's kind when none is named: 443, 53/udp, "
            "10.77.0.25:80, \\[fd00:77::20]:80.",
        ),
    ],
    lab: LabOption = None,
    name: ClusterOption = None,
    as_json: JsonOption = False,
    connect: ConnectOption = DEFAULT_CONNECT,
) -> None:
    """Which member answers a client's new connection now, and who would after it."""
    address, own = _client(source)
    named, port, protocol = _target(to)
    with existing_lab(lab, connect) as the_lab:
        spec = the_lab.cluster(name)
        virtual = _virtual(spec, address, named)
        rule = rule_for(spec, port, protocol, virtual)
        if rule and rule.affinity is Affinity.NONE and own is None:
            raise InputError(
                f"{rule.title} has affinity none: the client's port decides, too",
                hint=f"{bracketed(address)}:40000, for example",
            )
        view = the_lab.look(spec)
    if view.agreed is None:
        raise GuestError(f"cluster {spec.name} has not converged: {view}", hint="labctl cluster query")
    client = (address, own or 0)
    if as_json:
        RESULTS.print_json(json.dumps({**owner_json(view, rule, client), "address": str(virtual)}))
    else:
        RESULTS.print(escape(owner_line(view, rule, client)))


def _client(text: str) -> tuple[IPAddress, int | None]:
    address, port = _split(text)
    return _address(address, "10.77.1.7, 10.77.1.7:40000 or [fd00:77::7]:40000"), _port(port) if port else None


def _split(text: str) -> tuple[str, str]:
    """Address and port of `10.0.0.1`, `10.0.0.1:80`, `fd00::1` or `[fd00::1]:80`; no port is an empty one."""
    if bracket := re.fullmatch(r"\[([^]]*)](?::(.*))?", text):
        return bracket[1], bracket[2] or ""
    if text.count(":") > 1:
        return text, ""
    address, _, port = text.partition(":")
    return address, port


def _address(text: str, like: str) -> IPAddress:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        raise InputError(f"{text} is not an address; expected {like}") from None


def _target(text: str) -> tuple[IPAddress | None, int, RuleProtocol]:
    where, slash, protocol = text.partition("/")
    if slash and protocol not in {"tcp", "udp"}:
        raise InputError(f"--to {text}: {protocol} is not one of tcp, udp")
    address, port = _split(where) if ":" in where else ("", where)
    named = _address(address, "443, 10.77.0.25:443 or [fd00:77::20]:443") if address else None
    return named, _port(port), RuleProtocol(protocol or "tcp")


def _virtual(spec: ClusterSpec, source: IPAddress, named: IPAddress | None) -> IPAddress:
    """The virtual address that a client means: the named one, else the first of its own kind.

    Raises:
        InputError: the cluster has no such address.
    """
    found = [a for a in spec.addresses if a == named or (named is None and a.version == source.version)]
    if not found or found[0].version != source.version:
        what = str(named) if named else f"IPv{source.version} address"
        known = ", ".join(str(a) for a in spec.addresses if a.version == source.version) or "none"
        raise InputError(
            f"cluster {spec.name} has no {what} for {source}", hint=f"its IPv{source.version} ones: {known}"
        )
    return found[0]


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise InputError(f"{text} is not a port; expected 0 to 65535")
    return int(text)
