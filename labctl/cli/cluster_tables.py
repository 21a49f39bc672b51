"""How clusters are shown: tables for people, JSON for scripts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from labctl.cluster.advert import key_of, rules_digest
from labctl.cluster.control import Connections
from labctl.cluster.membership import ClusterView, MemberState, MemberView
from labctl.cluster.ownership import bucket_of, default_host, preference_for, preferences_of_rule
from labctl.cluster.render import cluster_mac
from labctl.console import RESULTS, table
from labctl.topology.spec import ClusterSpec, Filtering, LabSpec, NicSpec, PortRule
from labctl.topology.values import IPAddress

__all__ = [
    "Picture",
    "owner_json",
    "owner_line",
    "params_json",
    "picture_json",
    "show_knowledge",
    "show_params",
    "show_picture",
]

_COLOURS = {MemberState.CONVERGED: "green", MemberState.REFUSED: "red", MemberState.UNREACHABLE: "red"}

Client = tuple[IPAddress, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """A cluster at one moment.

    Attributes:
        connections: by node, of the members that could be asked.
    """

    view: ClusterView
    connections: Mapping[str, Connections]


# -- query -------------------------------------------------------------------------------------------------------------


def show_picture(picture: Picture) -> None:
    """The members as a table, and what there is to say of each."""
    view = picture.view
    state = "[green]converged[/]" if view.converged else "[red]not converged[/]"
    RESULTS.print(f"cluster {view.cluster.name}: {state}, {_summary(view.cluster)}")
    shown = table("member", "host ID", "state", "since", "sees", "buckets", "connections", "told")
    for member in view.members:
        shown.add_row(*_row(picture, member))
    RESULTS.print(shown)
    for member in view.members:
        if why := view.why(member):
            RESULTS.print(f"{member.node}: {why}", markup=False)
    if not view.same_rules:
        has = ", ".join(f"{node} {digest:08x}" for node, digest in view.digests.items())
        RESULTS.print(f"the members' rules differ: {has}; labctl up gives all of them the topology's", markup=False)


def _summary(cluster: ClusterSpec) -> str:
    beat = cluster.heartbeat
    address = f"{cluster.fqdn} {' '.join(map(str, cluster.addresses))}"
    return f"{address}, {cluster.mode}, heartbeat {beat.period_ms} ms x {beat.tolerance}"


def _row(picture: Picture, member: MemberView) -> tuple[str, ...]:
    view = picture.view
    state = view.state_of(member)
    names = {m.priority: m.node for m in view.cluster.members}
    sees = ", ".join(names.get(h, str(h)) for h in sorted(member.alive or ())) or "nobody"
    owns = ", ".join(f"{rule}: {shares.get(member.node, 0)}" for rule, shares in view.owned.items())
    has = picture.connections.get(member.node)
    return (
        member.node,
        str(member.priority),
        f"[{_COLOURS.get(state, 'yellow')}]{state}[/]",
        _duration(view.since_s(member, now_s=time.time())),
        sees if member.knows else "-",
        owns or "-",
        (", ".join(f"{rule}: {n}" for rule, n in has.by_rule.items()) or "0") if has else "-",
        ", ".join(f"{title} {word}" for title, word in _told(view, member)) or "-",
    )


def _told(view: ClusterView, member: MemberView) -> Iterable[tuple[str, str]]:
    """The rules that a member was told to disable or drain, and those that it can't serve."""
    for rule in view.cluster.port_rules:
        if member.fails(rule):
            yield rule.title, "failing"
        if member.knows and (told := member.knows.told.get(key_of(rule))):
            yield rule.title, told.word


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f"{hours:.0f} h"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def picture_json(picture: Picture, *, knowledge: bool = False) -> dict[str, Any]:
    """`labctl cluster query --json`.

    Args:
        knowledge: with what each member knows of the others.
    """
    view = picture.view
    return {
        **_head(view.cluster),
        "converged": view.converged,
        "same_rules": view.same_rules,
        "members": [_member_json(picture, m, knowledge=knowledge) for m in view.members],
    }


def _head(cluster: ClusterSpec) -> dict[str, Any]:
    return {
        "cluster": cluster.name,
        "address": str(cluster.address.ip),
        "addresses": [str(address) for address in cluster.addresses],
        "fqdn": cluster.fqdn,
        "mode": cluster.mode,
        "heartbeat": {"period_ms": cluster.heartbeat.period_ms, "tolerance": cluster.heartbeat.tolerance},
    }


def _member_json(picture: Picture, member: MemberView, *, knowledge: bool) -> dict[str, Any]:
    view, names = picture.view, {m.priority: m.node for m in picture.view.cluster.members}
    digest, has = view.digests.get(member.node), picture.connections.get(member.node)
    since_s = view.since_s(member, now_s=time.time())
    shown = {
        "node": member.node,
        "host_id": member.priority,
        "state": view.state_of(member),
        "why": view.why(member),
        "since_s": None if since_s is None else round(since_s, 3),
        "sees": None if member.alive is None else [names.get(h, str(h)) for h in sorted(member.alive)],
        "rules": None if digest is None else f"{digest:08x}",
        "buckets_owned": {rule: shares.get(member.node, 0) for rule, shares in view.owned.items()},
        "connections": dict(has.by_rule) if has else None,
        "told": dict(_told(view, member)),
    }
    if knowledge and member.knows:
        shown["serving_s"] = {names[h]: round(s, 3) for h, s in member.knows.serving_s.items() if h in names}
        shown["heard_s"] = {names[h]: round(s, 3) for h, s in member.knows.heard_s.items() if h in names}
    return shown


def show_knowledge(picture: Picture) -> None:
    """What each member knows of each other one."""
    names = {m.priority: m.node for m in picture.view.cluster.members}
    shown = table("member", "knows of", "that it", "last heard")
    for member in picture.view.members:
        for host, name in names.items():
            if member.knows and host in member.knows.heard_s:
                serves = f"has served for {_duration(member.knows.serving_s.get(host))}"
                heard = f"{member.knows.heard_s[host]:.1f} s ago"
                shown.add_row(member.node, name, serves if host in member.knows.alive else "does not serve", heard)
    RESULTS.print(shown)


# -- params ------------------------------------------------------------------------------------------------------------


def show_params(lab: LabSpec, cluster: ClusterSpec) -> None:
    """What the topology says of a cluster."""
    digest = rules_digest(lab, cluster)
    RESULTS.print(f"cluster {cluster.name}: {_summary(cluster)}, MAC {cluster_mac(cluster)}, rules {digest:08x}")
    shown = table("member", "host ID", "NIC", "address", "MAC")
    for member in cluster.members:
        nic = lab.node(member.node).nic(member.nic)
        shown.add_row(member.node, str(member.priority), nic.name, _addresses(nic), nic.mac)
    RESULTS.print(shown)
    RESULTS.print()
    shown = table("port rule", "filtering", "affinity", "load")
    for rule in cluster.port_rules:
        multiple = rule.filtering is Filtering.MULTIPLE
        shown.add_row(rule.title, rule.filtering, rule.affinity if multiple else "-", _load(rule))
    shown.add_row("all others", Filtering.SINGLE_HOST, "-", ", ".join(_names(cluster, default_host(cluster))))
    RESULTS.print(shown)


def _addresses(nic: NicSpec) -> str:
    return str(nic.address.ip) + (f" {nic.address6.ip}" if nic.address6 else "")


def _load(rule: PortRule) -> str:
    match rule.filtering:
        case Filtering.MULTIPLE:
            return ", ".join(f"{node} {weight}" for node, weight in rule.weights) or "equal"
        case Filtering.SINGLE_HOST:
            return ", ".join(rule.handling)
        case Filtering.DISABLED:
            return "-"


def params_json(lab: LabSpec, cluster: ClusterSpec) -> dict[str, Any]:
    """`labctl cluster params --json`."""
    nics = {m.node: lab.node(m.node).nic(m.nic) for m in cluster.members}
    return {
        **_head(cluster),
        "mac": cluster_mac(cluster),
        "rules": f"{rules_digest(lab, cluster):08x}",
        "members": [
            {
                "node": m.node,
                "host_id": m.priority,
                "nic": m.nic,
                "address": str(nics[m.node].address.ip),
                "address6": str(address6.ip) if (address6 := nics[m.node].address6) else None,
                "mac": nics[m.node].mac,
            }
            for m in cluster.members
        ],
        "port_rules": [_rule_json(rule) for rule in cluster.port_rules],
        "default_host": _names(cluster, default_host(cluster)),
    }


def _rule_json(rule: PortRule) -> dict[str, Any]:
    multiple = rule.filtering is Filtering.MULTIPLE
    return {
        "rule": rule.title,
        "address": str(rule.address) if rule.address else None,
        "first_port": rule.first_port,
        "last_port": rule.last_port,
        "protocol": rule.protocol,
        "filtering": rule.filtering,
        "affinity": rule.affinity if multiple else None,
        "weights": dict(rule.weights),
        "handling": list(rule.handling),
        "health": asdict(rule.health) if rule.health else None,
    }


def _names(cluster: ClusterSpec, hosts: Iterable[int]) -> list[str]:
    names = {m.priority: m.node for m in cluster.members}
    return [names[host] for host in hosts]


# -- owner -------------------------------------------------------------------------------------------------------------


def _in_order(view: ClusterView, rule: PortRule | None, client: Client) -> list[str]:
    serving = view.serves(rule)
    return _names(view.cluster, [h for h in preference_for(view.cluster, rule, *client) if h in serving])


def _bucket(view: ClusterView, rule: PortRule | None, client: Client) -> int | None:
    """None where no hash decides."""
    hashed = rule is not None and len(preferences_of_rule(view.cluster, rule)) > 1
    return bucket_of(rule.affinity, *client) if rule and hashed else None


def owner_json(view: ClusterView, rule: PortRule | None, client: Client) -> dict[str, Any]:
    """`labctl cluster owner --json`; the owner is null when nobody serves."""
    order = _in_order(view, rule, client)
    return {
        "source": str(client[0]),
        "source_port": client[1] or None,
        "rule": rule.title if rule else None,
        "bucket": _bucket(view, rule, client),
        "owner": order[0] if order else None,
        "then": order[1:],
    }


def owner_line(view: ClusterView, rule: PortRule | None, client: Client) -> str:
    """Who it is, why, and who would be next."""
    order, bucket = _in_order(view, rule, client), _bucket(view, rule, client)
    what = f"rule {rule.title}" if rule else "no rule, so the default host"
    why = f"bucket {bucket} of {what}, affinity {rule.affinity}" if rule and bucket is not None else what
    then = f", then {', '.join(order[1:])}" if order[1:] else ""
    return f"{order[0] if order else 'nobody'} ({why}{then})"
