"""Checks of networks, and of the addresses and MACs on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from labctl.topology.finding import Finding, KeyPath, dotted
from labctl.topology.mac import HASHED, cluster_mac, nic_macs
from labctl.topology.model import Cluster, Network, Topology
from labctl.topology.values import AddressRange, IPAddress

__all__ = ["check_addresses", "check_macs", "check_network_names", "check_subnets", "virtual_paths"]

MOST_EXTRA_ADDRESSES = 4096

PRIVATE6 = (IPv6Network("fd00::/8"), IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
"""IPv6 that no one else has: unique local (RFC 4193) and for documentation (RFC 3849 and 9637)."""


def check_subnets(topology: Topology) -> Iterator[Finding]:
    """Subnets: of a sensible size, of a kind that hosts can have, and apart from each other."""
    if not topology.networks:
        yield Finding(("networks",), "is empty; expected at least one network", needs=(("networks",),))
    seen: dict[str, Network] = {}
    for name, network in topology.networks.items():
        subnet, path = network.subnet, ("networks", name, "subnet")
        yield from _size(path, subnet)
        yield from _kind(path, subnet)
        for other, theirs in seen.items():
            if subnet.overlaps(theirs.subnet):
                yield Finding(path, f"{subnet} overlaps {dotted(('networks', other, 'subnet'))} {theirs.subnet}")
        yield from _subnet6(name, network.subnet6, seen)
        seen[name] = network


def _subnet6(name: str, subnet: IPv6Network | None, seen: Mapping[str, Network]) -> Iterator[Finding]:
    path = ("networks", name, "subnet6")
    if subnet is None:
        return
    if not 32 <= subnet.prefixlen <= 120:
        yield Finding(path, f"{subnet} has an unusual size; expected a /64, at any rate a /32 to /120")
    if not any(subnet.subnet_of(private) for private in PRIVATE6):
        says = f"{subnet} could be someone's; expected one from {' or '.join(map(str, PRIVATE6))}, such as fd00:77::/64"
        yield Finding(path, says)
    for other, theirs in seen.items():
        if theirs.subnet6 and subnet.overlaps(theirs.subnet6):
            yield Finding(path, f"{subnet} overlaps {dotted(('networks', other, 'subnet6'))} {theirs.subnet6}")


def _size(path: KeyPath, subnet: IPv4Network) -> Iterator[Finding]:
    if subnet.prefixlen < 16:
        yield Finding(path, f"{subnet} is too large; expected a /16 at most, 65534 addresses")
    if subnet.prefixlen > 29:
        yield Finding(path, f"{subnet} is too small; expected a /29 at least, 6 addresses")


def _kind(path: KeyPath, subnet: IPv4Network) -> Iterator[Finding]:
    kinds = {
        "loopback": subnet.is_loopback,
        "multicast": subnet.is_multicast,
        "link-local": subnet.is_link_local,
        "reserved": subnet.is_reserved or subnet.overlaps(IPv4Network("0.0.0.0/8")),
    }
    for kind, found in kinds.items():
        if found:
            yield Finding(path, f"{subnet} is {kind} space; expected a private network, such as 10.77.0.0/16")


@dataclass(frozen=True, slots=True)
class _Claim:
    """Addresses that something has for itself."""

    path: KeyPath
    addresses: AddressRange
    network: str


def _claims(topology: Topology) -> Iterator[_Claim]:
    for node, settings in topology.nodes.items():
        for name, nic in settings.nics.items():
            path = ("nodes", node, "nics", name)
            yield _Claim((*path, "address"), AddressRange(nic.address, nic.address), nic.network)
            if nic.address6:
                yield _Claim((*path, "address6"), AddressRange(nic.address6, nic.address6), nic.network)
            for index, extra in enumerate(nic.extra_addresses):
                yield _Claim((*path, "extra_addresses", index), extra, nic.network)
    for name, cluster in topology.clusters.items():
        for at, virtual in virtual_paths(name, cluster):
            yield _Claim(at, AddressRange(virtual, virtual), cluster.network)


def virtual_paths(name: str, cluster: Cluster) -> list[tuple[KeyPath, IPAddress]]:
    """A cluster's virtual addresses, each with its path."""
    path: KeyPath = ("clusters", name)
    if cluster.addresses is None:
        return [((*path, "address"), virtual) for virtual in cluster.virtual]
    return [((*path, "addresses", index), virtual) for index, virtual in enumerate(cluster.addresses)]


def check_addresses(topology: Topology) -> Iterator[Finding]:
    """Addresses: inside their network, fit for a host, and nobody else's."""
    earlier: list[_Claim] = []
    for claim in _claims(topology):
        if network := topology.networks.get(claim.network):
            yield from _inside(claim, network)
        yield from _taken(claim, earlier)
        earlier.append(claim)
    yield from _too_many(topology)


def _inside(claim: _Claim, network: Network) -> Iterator[Finding]:
    found = claim.addresses
    subnet = network.subnet if found.first.version == 4 else network.subnet6
    if subnet is None:
        says = f"{found} is IPv6, which the network {claim.network} has not; expected a subnet6 there"
        yield Finding(claim.path, says, needs=(("networks", claim.network, "subnet6"),))
        return
    if found.first not in subnet or found.last not in subnet:
        yield Finding(claim.path, f"{found} is outside its network {claim.network}, {subnet}")
        return
    contains = "is" if found.count == 1 else "contains"
    if found.first == subnet.network_address:
        yield Finding(claim.path, f"{found} {contains} the address of the network {claim.network} itself, {subnet}")
    if found.last == subnet.broadcast_address and subnet.version == 4:
        yield Finding(claim.path, f"{found} {contains} the broadcast address of the network {claim.network}, {subnet}")


def _taken(claim: _Claim, earlier: list[_Claim]) -> Iterator[Finding]:
    for other in earlier:
        if shared := claim.addresses.shared_with(other.addresses):
            yield Finding(claim.path, f"{claim.addresses} {_clash(shared, claim, other)}", other=other.path)
            return


def _clash(shared: AddressRange, claim: _Claim, other: _Claim) -> str:
    if claim.addresses == other.addresses:
        return "is taken by"
    if shared == other.addresses:
        return f"contains {other.addresses}, taken by"
    if shared == claim.addresses:
        return f"lies in {other.addresses}, taken by"
    return f"overlaps {other.addresses}, taken by"


def _too_many(topology: Topology) -> Iterator[Finding]:
    for node, settings in topology.nodes.items():
        for name, nic in settings.nics.items():
            extra = sum(addresses.count for addresses in nic.extra_addresses)
            if extra > MOST_EXTRA_ADDRESSES:
                path = ("nodes", node, "nics", name, "extra_addresses")
                yield Finding(path, f"has {extra} addresses; expected {MOST_EXTRA_ADDRESSES} at most")


def check_network_names(topology: Topology) -> Iterator[Finding]:
    """The networks that NICs and clusters name are there."""
    users: list[tuple[KeyPath, str]] = [
        (("nodes", node, "nics", name, "network"), nic.network)
        for node, settings in topology.nodes.items()
        for name, nic in settings.nics.items()
    ]
    users += [(("clusters", name, "network"), cluster.network) for name, cluster in topology.clusters.items()]
    for path, network in users:
        if network not in topology.networks:
            says = f"{network} is not a network of this lab; there is {', '.join(topology.networks) or 'none'}"
            yield Finding(path, says, needs=(("networks", network),))


def check_macs(topology: Topology) -> Iterator[Finding]:
    """MACs, given and derived: no two NICs have the same, and none has a cluster's."""
    owners: dict[str, tuple[KeyPath, bool]] = {
        cluster_mac(cluster.mode, cluster.primary): (("clusters", name), True)
        for name, cluster in topology.clusters.items()
        if cluster.primary
    }
    for (node, name), mac in nic_macs(topology).items():
        path, given = ("nodes", node, "nics", name), topology.nodes[node].nics[name].mac is not None
        owner, owner_given = owners.setdefault(mac, (path, given))
        # Two members with the same derived MAC have the same priority, which is a problem of its own.
        if owner != path and (given or owner_given or mac.startswith(HASHED)):
            yield _same_mac(path, mac, owner, given=given)


def _same_mac(path: KeyPath, mac: str, owner: KeyPath, *, given: bool) -> Finding:
    if given:
        return Finding((*path, "mac"), f"{mac} is the MAC of", other=owner)
    return Finding(path, f"needs a `mac` of its own; derived, it is {mac}, the MAC of", at_key=True, other=owner)
