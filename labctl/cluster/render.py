"""The files that make a node a member: keepalived's configuration, one packet filter per cluster, a boot step."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from labctl.cluster.ownership import Preference, preferences_of_rule
from labctl.render.templates import render_text
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

__all__ = ["cluster_digest", "cluster_mac", "member_files"]

_FILES = Path(__file__).parent / "files"
SEED = 0x4C414243  # of the hash that spreads clients; the same on all members, and in `labctl cluster owner`
FIRST_TABLE = 100  # of the routing tables for answers, one per cluster


@dataclass(frozen=True, slots=True)
class _RuleChain:
    chain: str
    title: str
    match: str
    lines: tuple[str, ...]


def cluster_digest(lab: LabSpec, node: NodeSpec) -> str:
    """Names all that makes `node` a member; empty for a node that is in no cluster."""
    files = member_files(lab, node)
    return digest_of(files) if files else ""


def cluster_mac(cluster: ClusterSpec) -> str:
    """The MAC that clients see: NLB's 02-bf-IP, 03-bf-IP or, with IGMP, 01-00-5e-7f and the last two octets."""
    a, b, c, d = cluster.address.ip.packed
    match cluster.mode:
        case ClusterMode.UNICAST:
            return f"02:bf:{a:02x}:{b:02x}:{c:02x}:{d:02x}"
        case ClusterMode.MULTICAST:
            return f"03:bf:{a:02x}:{b:02x}:{c:02x}:{d:02x}"
        case ClusterMode.IGMP:
            return f"01:00:5e:7f:{c:02x}:{d:02x}"


def member_files(lab: LabSpec, node: NodeSpec) -> dict[str, tuple[str, int]]:
    """Path in the guest → (text, permissions); empty for a node that is in no cluster."""
    memberships = [(c, _member(c, node)) for c in lab.clusters_of(node.name)]
    if not memberships:
        return {}
    files = {
        "/etc/keepalived/keepalived.conf": (_render("keepalived.conf.j2", node=node, memberships=memberships), 0o644)
    }
    for number, (cluster, me) in enumerate(memberships):
        context = _context(lab, cluster, me, number)
        files[f"/etc/labctl/cluster/{cluster.name}.nft"] = (_render("filter.nft.j2", **context), 0o644)
        files[f"/etc/labctl/boot.d/20-cluster-{cluster.name}"] = (_render("boot.sh.j2", **context), 0o755)
    return files


def _member(cluster: ClusterSpec, node: NodeSpec) -> MemberSpec:
    return next(m for m in cluster.members if m.node == node.name)


def _context(lab: LabSpec, cluster: ClusterSpec, me: MemberSpec, number: int) -> dict[str, Any]:
    octets = cluster.address.ip.packed
    return {
        "cluster": cluster,
        "me": me,
        "my_address": _address(lab, me),
        "cluster_mac": cluster_mac(cluster),
        "igmp_group": IPv4Address(bytes((239, 255, octets[2], octets[3]))),
        "down_ms": cluster.heartbeat.period_ms * cluster.heartbeat.tolerance,
        "heartbeat_map": ", ".join(f"{_address(lab, m)} : {m.priority}" for m in cluster.members),
        "rules": [*(_chain(cluster, n, r) for n, r in enumerate(cluster.port_rules, 1)), _default_host(cluster)],
        "table": FIRST_TABLE + number,
    }


def _address(lab: LabSpec, member: MemberSpec) -> IPv4Address:
    return next(nic.address.ip for nic in lab.node(member.node).nics if nic.name == member.nic)


def _chain(cluster: ClusterSpec, number: int, rule: PortRule) -> _RuleChain:
    lists = preferences_of_rule(cluster, rule)
    ports = str(rule.first_port) if rule.first_port == rule.last_port else f"{rule.first_port}-{rule.last_port}"
    title = f"{ports}/{rule.protocol}: {rule.filtering}"
    if rule.filtering is Filtering.DISABLED:
        lines: tuple[str, ...] = ("counter drop",)
    elif rule.filtering is Filtering.SINGLE_HOST:
        lines = _constant(lists[0])
    else:
        title += f", affinity {rule.affinity}"
        lines = _hashed(lists, rule.affinity)
    return _RuleChain(f"rule_{number}", title, _match(rule.protocol, ports), lines)


def _match(protocol: RuleProtocol, ports: str) -> str:
    if protocol is RuleProtocol.BOTH:
        return f"meta l4proto {{ tcp, udp }} th dport {ports}"
    return f"{protocol} dport {ports}"


def _default_host(cluster: ClusterSpec) -> _RuleChain:
    by_priority = tuple(sorted(m.priority for m in cluster.members))
    return _RuleChain(
        "default_host", "all that no rule matches: the living member of the lowest host ID", "", _constant(by_priority)
    )


def _constant(preference: Preference) -> tuple[str, ...]:
    steps = [line for host in preference for line in (f"meta mark set {host}", "meta mark @alive goto decide")]
    return (*steps, "counter drop")


def _hashed(lists: tuple[Preference, ...], affinity: Affinity) -> tuple[str, ...]:
    of = {
        Affinity.NONE: "ip saddr . th sport",
        Affinity.SINGLE: "ip saddr",
        Affinity.NETWORK: "ip saddr & 255.255.255.0",
    }[affinity]
    steps: list[str] = []
    for rank in range(max(len(p) for p in lists)):
        owners = ", ".join(f"{bucket} : {p[rank]}" for bucket, p in enumerate(lists) if rank < len(p))
        # jhash … map {…} @set in one expression crashes nft 1.0.6, hence by way of the mark.
        steps += [
            f"meta mark set jhash {of} mod {len(lists)} seed {SEED:#x} map {{ {owners} }}",
            "meta mark @alive goto decide",
        ]
    return (*steps, "counter drop")


def _render(file: str, **context: Any) -> str:
    return render_text((_FILES / file).read_text(), file, context)
