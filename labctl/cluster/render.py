"""The files that make a node a member: keepalived's configuration, one packet filter per cluster, a boot step."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from labctl.cluster.advert import (
    ADDRESSES,
    DIGEST_AT,
    PRIORITY,
    PRIORITY_AT,
    RETURNED_AT,
    RULES_AT,
    STATE_AT,
    Says,
    health_bits,
    key_of,
    rule_name,
    rules_digest,
)
from labctl.cluster.ownership import SEED, Preference, default_host, preferences_of_rule
from labctl.render.templates import render_text
from labctl.topology.mac import cluster_mac as mac_of
from labctl.topology.spec import (
    Affinity,
    ClusterMode,
    ClusterSpec,
    Filtering,
    LabSpec,
    MemberSpec,
    NodeSpec,
    PortRule,
    RuleProtocol,
    digest_of,
)
from labctl.topology.values import IPAddress

__all__ = ["cluster_digest", "cluster_mac", "leftovers", "member_files", "table_of"]

_FILES = Path(__file__).parent / "files"
FIRST_TABLE = 100  # of the routing tables for answers, one per cluster
# Of copies of a heartbeat, so that a copy is not copied; no rule's key and no host ID is one of these.
_COPIES = {"hello": "0x4c414201", "query": "0x4c414202"}
_BITS = {"priority": PRIORITY_AT * 8, "digest": DIGEST_AT * 8, "state": STATE_AT * 8}


@dataclass(frozen=True, slots=True)
class _RuleChain:
    """A port rule as the packet filter has it.

    Attributes:
        name: of its chain, and of the set of the members that don't serve it; `443_tcp`.
        match: empty for what no rule covers.
        key: in the sets `disabled` and `draining`.
        at: bit offset of what an advert says of it.
        health: bit offset of its check in an advert; 0 when it has none.
        of_all: whether it is about all virtual addresses; such rules come after those about one.
    """

    name: str
    title: str
    match: str
    lines: tuple[str, ...]
    key: str = ""
    at: int = 0
    health: int = 0
    of_all: bool = True


def table_of(cluster: ClusterSpec) -> str:
    """Family and name of the cluster's table in nft; one of both families where it has IPv6."""
    return f"{'inet' if cluster.addresses6 else 'ip'} labctl_{cluster.name}"


def cluster_digest(lab: LabSpec, node: NodeSpec) -> str:
    """Names all that makes `node` a member; empty for a node that is in no cluster."""
    files = member_files(lab, node)
    return digest_of(files) if files else ""


def cluster_mac(cluster: ClusterSpec) -> str:
    """The MAC that clients see: NLB's 02-bf-IP, 03-bf-IP or, with IGMP, 01-00-5e-7f and the last two octets."""
    return mac_of(cluster.mode, cluster.address.ip)


def member_files(lab: LabSpec, node: NodeSpec) -> dict[str, tuple[str, int]]:
    """Path in the guest → (text, permissions); empty for a node that is in no cluster."""
    memberships = [(c, _member(c, node)) for c in lab.clusters_of(node.name)]
    if not memberships:
        return {}
    checks = {cluster.name: _checks(cluster) for cluster, _me in memberships}
    heartbeat = _render(
        "keepalived.conf.j2", node=node, memberships=memberships, addresses=ADDRESSES, checks=checks, checked=PRIORITY
    )
    files = {"/etc/keepalived/keepalived.conf": (heartbeat, 0o644)}
    for check in (c for of_one in checks.values() for c in of_one):
        files[check.path] = (f"#!/bin/sh\n# Whether this member can serve {check.rule}.\n{check.command}\n", 0o755)
    for number, (cluster, me) in enumerate(memberships):
        context = _context(lab, cluster, me, number)
        files[f"/etc/labctl/cluster/{cluster.name}.nft"] = (_render("filter.nft.j2", **context), 0o644)
        files[f"/etc/labctl/boot.d/20-cluster-{cluster.name}"] = (_render("boot.sh.j2", **context), 0o755)
    return files


@dataclass(frozen=True, slots=True)
class _Check:
    """A health check as keepalived runs it; `weight` is what it adds to the priority while it is good."""

    name: str
    path: str
    rule: str
    command: str
    interval_s: int
    rise: int
    fall: int
    weight: int


def _checks(cluster: ClusterSpec) -> list[_Check]:
    found = []
    for rule, weight in health_bits(cluster).items():
        if health := rule.health:
            name = f"{cluster.name}_{rule_name(rule)}"
            path = f"/etc/labctl/cluster/{cluster.name}.{rule_name(rule)}.check"
            given = (health.command, health.interval_s, health.rise, health.fall)
            found.append(_Check(name, path, rule.title, *given, weight))
    return found


def _member(cluster: ClusterSpec, node: NodeSpec) -> MemberSpec:
    return next(m for m in cluster.members if m.node == node.name)


def _context(lab: LabSpec, cluster: ClusterSpec, me: MemberSpec, number: int) -> dict[str, Any]:
    mac = cluster_mac(cluster)
    addresses = {m.priority: _address(lab, m) for m in cluster.members}
    return {
        "cluster": cluster,
        "me": me,
        "my_address": _address(lab, me),
        "my_address6": lab.node(me.node).nic(me.nic).address6,
        "cluster_mac": mac,
        "table_of": table_of(cluster),
        "family": table_of(cluster).split()[0],
        "addresses4": _any_of(cluster.addresses4),
        "addresses6": _any_of(cluster.addresses6),
        "prefix6": lab.network(cluster.network).subnet6,
        "nd": _neighbour_discovery(lab.node(me.node).nic(me.nic).mac, mac),
        "igmp_group": _igmp_group(cluster),
        "down_ms": cluster.heartbeat.period_ms * cluster.heartbeat.tolerance,
        "senders": ", ".join(str(a) for a in addresses.values()),
        "heartbeat_map": ", ".join(f"{address} : {host}" for host, address in addresses.items()),
        "returned": {m.priority: RETURNED_AT * 8 + m.priority - 1 for m in cluster.members},
        "digest": f"{rules_digest(lab, cluster):#010x}",
        "at": _BITS,
        "words": range(RETURNED_AT * 8, (RULES_AT + len(cluster.port_rules)) * 8, 32),
        "says": Says,
        "marks": _COPIES,
        "rules": [*(_chain(cluster, n, r) for n, r in enumerate(cluster.port_rules)), _default_host(cluster)],
        "table": FIRST_TABLE + number,
    }


def _any_of(addresses: tuple[IPAddress, ...]) -> str:
    """One address, or a set of several, for a match."""
    return str(addresses[0]) if len(addresses) == 1 else f"{{ {', '.join(map(str, addresses))} }}"


def _neighbour_discovery(own: str, cluster: str) -> dict[str, str]:
    """The cluster's MAC as a number, and what it lacks to the sum of the own MAC in a checksum (RFC 1071)."""

    def words(mac: str) -> int:
        return sum(struct.unpack(">3H", bytes.fromhex(mac.replace(":", ""))))

    mac = f"0x{cluster.replace(':', '')}"
    return {"mac": mac, "difference": f"{(words(own) - words(cluster)) % 0xFFFF:#06x}"}


def leftovers(lab: LabSpec, node: NodeSpec) -> str:
    """A shell script that takes away what an earlier form of the node's clusters has left."""
    return _render("leftovers.sh.j2", clusters=[_kept(c, _member(c, node)) for c in lab.clusters_of(node.name)])


def _kept(cluster: ClusterSpec, me: MemberSpec) -> dict[str, Any]:
    addresses: list[IPAddress] = [*cluster.addresses]
    if cluster.mode is ClusterMode.IGMP:
        addresses.append(_igmp_group(cluster))
    other = "ip" if cluster.addresses6 else "inet"
    return {
        "nic": me.nic,
        "kept": [f"{address}/{address.max_prefixlen}" for address in addresses],
        "other_table": f"{other} labctl_{cluster.name}",
    }


def _igmp_group(cluster: ClusterSpec) -> IPv4Address:
    octets = cluster.address.ip.packed
    return IPv4Address(bytes((239, 255, octets[2], octets[3])))


def _address(lab: LabSpec, member: MemberSpec) -> IPv4Address:
    return lab.node(member.node).nic(member.nic).address.ip


def _chain(cluster: ClusterSpec, number: int, rule: PortRule) -> _RuleChain:
    lists = preferences_of_rule(cluster, rule)
    name, title = rule_name(rule), f"{rule.title}: {rule.filtering}"
    if rule.filtering is Filtering.DISABLED:
        lines: tuple[str, ...] = ("counter drop",)
    elif rule.filtering is Filtering.SINGLE_HOST:
        lines = _constant(lists[0], name)
    else:
        title += f", affinity {rule.affinity}"
        lines = _hashed(lists, _hash_keys(cluster, rule), name)
    bit = health_bits(cluster).get(rule)
    health = (PRIORITY_AT + 1) * 8 - bit.bit_length() if bit else 0
    at, of_all = (RULES_AT + number) * 8, rule.address is None
    return _RuleChain(name, title, _match(rule), lines, f"{key_of(rule):#x}", at, health, of_all)


def _match(rule: PortRule) -> str:
    where = f"{_FAMILY[rule.address.version]} daddr {rule.address} " if rule.address else ""
    if rule.protocol is RuleProtocol.BOTH:
        return f"{where}meta l4proto {{ tcp, udp }} th dport {rule.ports}"
    return f"{where}{rule.protocol} dport {rule.ports}"


def _default_host(cluster: ClusterSpec) -> _RuleChain:
    title = "all that no rule matches: the living member of the lowest host ID"
    return _RuleChain("default_host", title, "", _constant(default_host(cluster), ""))


def _constant(preference: Preference, name: str) -> tuple[str, ...]:
    return _ranked(((f"meta mark set {host}",) for host in preference), name)


_FAMILY = {4: "ip", 6: "ip6"}
_KEYS = {
    Affinity.NONE: {4: "ip saddr . th sport", 6: "ip6 saddr . th sport"},
    Affinity.SINGLE: {4: "ip saddr", 6: "ip6 saddr"},
    Affinity.NETWORK: {4: "ip saddr & 255.255.255.0", 6: "ip6 saddr & ffff:ffff:ffff:ffff::"},
}


def _hash_keys(cluster: ClusterSpec, rule: PortRule) -> tuple[str, ...]:
    """What of a packet is hashed, by family where packets of both come."""
    found = [rule.address] if rule.address else cluster.addresses
    versions = sorted({address.version for address in found})
    families = {4: "meta nfproto ipv4 ", 6: "meta nfproto ipv6 "} if len(versions) > 1 else dict.fromkeys(versions, "")
    return tuple(f"{families[version]}meta mark set jhash {_KEYS[rule.affinity][version]}" for version in versions)


def _hashed(lists: tuple[Preference, ...], keys: tuple[str, ...], name: str) -> tuple[str, ...]:
    def step(rank: int) -> tuple[str, ...]:
        owners = ", ".join(f"{bucket} : {p[rank]}" for bucket, p in enumerate(lists) if rank < len(p))
        # jhash … map {…} @set in one expression crashes nft 1.0.6, hence by way of the mark.
        return tuple(f"{key} mod {len(lists)} seed {SEED:#x} map {{ {owners} }}" for key in keys)

    return _ranked((step(rank) for rank in range(max(len(p) for p in lists))), name)


def _ranked(steps: Iterable[tuple[str, ...]], name: str) -> tuple[str, ...]:
    """For each rank: who is it, does it serve, and if not: has it been there since we are?"""
    serves = "meta mark @alive" + (f" meta mark != @held_{name}" if name else "")
    asks = (f"{serves} goto decide", "meta mark @heard meta priority set 0:1")
    lines = [line for step in steps for line in (*step, *asks)]
    return (*lines[:-1], "counter drop")


def _render(file: str, **context: Any) -> str:
    return render_text((_FILES / file).read_text(), file, context)
