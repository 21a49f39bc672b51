"""The MAC addresses of a lab: those that the topology gives, and those that follow from names and priorities.

They don't depend on the lab's name: labs are isolated from each other, and a saved state fits a lab of another name.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address

from labctl.topology.model import Topology
from labctl.topology.spec import ClusterMode

__all__ = ["HASHED", "cluster_mac", "member_mac", "nic_macs"]


HASHED = "52:54:00:"
"""QEMU's own prefix; a hash of the NIC's name follows."""


def nic_macs(topology: Topology) -> dict[tuple[str, str], str]:
    """The MAC of every NIC, by (node, NIC).

    A member of a unicast cluster has NLB's masked source MAC, 02:<priority>:<virtual address>, on its cluster NIC;
    others have `HASHED` and three bytes of a hash of their names.
    """
    members = _unicast_members(topology)
    return {
        (node, name): nic.mac or members.get((node, name)) or _hashed(node, name)
        for node, settings in topology.nodes.items()
        for name, nic in settings.nics.items()
    }


def cluster_mac(mode: ClusterMode, address: IPv4Address) -> str:
    """The MAC that stands for all members: NLB's 02-bf-<ip>, 03-bf-<ip> or 01-00-5e-7f-<last two octets>."""
    octets = address.packed
    match mode:
        case ClusterMode.UNICAST:
            return _colons(bytes([0x02, 0xBF]) + octets)
        case ClusterMode.MULTICAST:
            return _colons(bytes([0x03, 0xBF]) + octets)
        case ClusterMode.IGMP:
            return _colons(bytes([0x01, 0x00, 0x5E, 0x7F]) + octets[2:])


def member_mac(host: int, address: IPv4Address) -> str:
    """The MAC that a member of a unicast cluster sends from: NLB's 02-<host ID>-<ip>."""
    return _colons(bytes([0x02, host]) + address.packed)


def _unicast_members(topology: Topology) -> dict[tuple[str, str], str]:
    return {
        (member.node, member.nic): member_mac(member.priority, cluster.primary)
        for cluster in topology.clusters.values()
        if cluster.mode is ClusterMode.UNICAST and cluster.primary
        for member in cluster.members
    }


def _hashed(node: str, nic: str) -> str:
    return HASHED + _colons(hashlib.sha256(f"{node}/{nic}".encode()).digest()[:3])


def _colons(octets: bytes) -> str:
    return octets.hex(":")
