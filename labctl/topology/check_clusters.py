"""Checks of clusters: members, priorities and the heartbeat."""

from __future__ import annotations

from collections.abc import Iterator

from labctl.topology.check_networks import virtual_paths
from labctl.topology.finding import Finding, KeyPath
from labctl.topology.model import Cluster, Member, Topology
from labctl.topology.spec import ClusterMode

__all__ = ["check_heartbeats", "check_member_nics", "check_members", "check_priorities", "check_virtual_addresses"]


def check_virtual_addresses(topology: Topology) -> Iterator[Finding]:
    """A cluster has virtual addresses, one of them IPv4, and its mode can serve all of them."""
    for name, cluster in topology.clusters.items():
        path: KeyPath = ("clusters", name)
        either = ((*path, "address"), (*path, "addresses"))
        if cluster.address and cluster.addresses is not None:
            yield Finding(path, "has `address` and `addresses`; expected one of them")
        elif cluster.address is None and cluster.addresses is None:
            yield Finding((*path, "address"), "is missing: the virtual address", needs=either)
        elif cluster.primary is None:
            says = "holds no IPv4 address; expected one, as the cluster's MAC is made from it and heartbeats are IPv4"
            yield Finding((*path, "addresses"), says, needs=either)
        yield from _served(name, cluster, topology)


def _served(name: str, cluster: Cluster, topology: Topology) -> Iterator[Finding]:
    """IPv6 is not for IGMP, and the members have it too: they ask from an address of their own who is there."""
    ipv6 = [(path, virtual) for path, virtual in virtual_paths(name, cluster) if virtual.version == 6]
    for path, virtual in ipv6:
        if cluster.mode is ClusterMode.IGMP:
            says = f"{virtual} is IPv6, which has no IGMP; expected mode unicast or multicast, or IPv4 addresses alone"
            yield Finding(path, says, needs=(("clusters", name, "mode"),))
    for index, member in enumerate(cluster.members if ipv6 else ()):
        node = topology.nodes.get(member.node)
        nic = node.nics.get(member.nic) if node else None
        if nic and nic.address6 is None:
            at: KeyPath = ("nodes", member.node, "nics", member.nic, "address6")
            says = f"{member.nic} of {member.node} has no address6; expected one, as the cluster has {ipv6[0][1]}"
            yield Finding(("clusters", name, "members", index, "nic"), says, needs=(at,))


def check_members(topology: Topology) -> Iterator[Finding]:
    """A cluster has 1 to 32 members, each a node of the lab, and each once."""
    for name, cluster in topology.clusters.items():
        path = ("clusters", name, "members")
        if not cluster.members:
            yield Finding(path, "is empty; expected at least one member", needs=(path,))
        if len(cluster.members) > 32:
            yield Finding(path, f"has {len(cluster.members)} members; expected 32 at most, as in NLB")
        for index, member in enumerate(cluster.members):
            yield from _node((*path, index, "node"), member.node, cluster.members[:index], topology)


def _node(path: KeyPath, node: str, before: tuple[Member, ...], topology: Topology) -> Iterator[Finding]:
    if node not in topology.nodes:
        says = f"{node} is not a node of this lab; there is {', '.join(topology.nodes) or 'none'}"
        yield Finding(path, says, needs=(("nodes", node),))
    if node in {member.node for member in before}:
        yield Finding(path, f"{node} is a member already; expected each node once")


def check_member_nics(topology: Topology) -> Iterator[Finding]:
    """A member's NIC is there, on the cluster's network, and serves no other cluster."""
    serves: dict[tuple[str, str], str] = {}
    for name, cluster in topology.clusters.items():
        for index, member in enumerate(cluster.members):
            path = ("clusters", name, "members", index, "nic")
            yield from _nic(path, member, cluster, topology)
            other = serves.setdefault((member.node, member.nic), name)
            if other != name:
                yield Finding(
                    path, f"{member.nic} of {member.node} serves the cluster {other}; expected one cluster a NIC"
                )


def _nic(path: KeyPath, member: Member, cluster: Cluster, topology: Topology) -> Iterator[Finding]:
    node = topology.nodes.get(member.node)
    if node is None:
        return
    nic = node.nics.get(member.nic)
    if nic is None:
        says = f"{member.nic} is not a NIC of {member.node}; there is {', '.join(node.nics) or 'none'}"
        yield Finding(path, says, needs=(("nodes", member.node, "nics", member.nic),))
    elif nic.network != cluster.network and {nic.network, cluster.network} <= set(topology.networks):
        yield Finding(
            path,
            f"{member.nic} of {member.node} is on the network {nic.network}; expected the cluster's, {cluster.network}",
        )


def check_priorities(topology: Topology) -> Iterator[Finding]:
    """Each member has a priority of its own."""
    for name, cluster in topology.clusters.items():
        owners: dict[int, str] = {}
        for index, member in enumerate(cluster.members):
            if member.priority in owners:
                path = ("clusters", name, "members", index, "priority")
                says = f"{member.priority} is {owners[member.priority]}'s already; expected one of its own, 1 to 32"
                yield Finding(path, says)
            owners.setdefault(member.priority, member.node)


def check_heartbeats(topology: Topology) -> Iterator[Finding]:
    """A heartbeat is a profile, or a period and a tolerance."""
    for name, cluster in topology.clusters.items():
        path, given = ("clusters", name, "heartbeat"), cluster.heartbeat
        timings = {"period_ms": given.period_ms, "tolerance": given.tolerance}
        missing = [key for key, value in timings.items() if value is None]
        if given.profile and len(missing) < 2:
            yield Finding(path, "has a profile and a timing of its own; expected a profile, or period_ms and tolerance")
        elif len(missing) == 1:
            has = next(key for key in timings if key not in missing)
            yield Finding(path, f"has {has} alone; expected {missing[0]} beside it", needs=((*path, missing[0]),))
