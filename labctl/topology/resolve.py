"""From a checked topology to the lab that is meant: every default filled in, every MAC settled."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from labctl.errors import InputError
from labctl.topology.catalogue import Catalogue, load_catalogue
from labctl.topology.check_names import check_lab_name
from labctl.topology.mac import nic_macs
from labctl.topology.model import (
    Cluster,
    HeartbeatProfile,
    HeartbeatSettings,
    Nic,
    Node,
    Rule,
    Topology,
    User,
)
from labctl.topology.spec import (
    Accelerator,
    Affinity,
    ClusterSpec,
    Filtering,
    GroupSpec,
    HealthCheck,
    Heartbeat,
    LabSpec,
    MemberSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    PortRule,
    UserSpec,
)
from labctl.topology.values import AddressRange, IPAddress

__all__ = ["resolve"]

PROFILES = {
    HeartbeatProfile.NLB: Heartbeat(period_ms=1000, tolerance=5),
    HeartbeatProfile.FAST: Heartbeat(period_ms=100, tolerance=5),
    HeartbeatProfile.EMULATED: Heartbeat(period_ms=500, tolerance=5),
}


def resolve(
    topology: Topology, *, lab: str | None, accelerator: Accelerator, catalogue: Catalogue | None = None
) -> LabSpec:
    """The lab that `topology` describes; it must have come from `load_topology`, which checks it.

    Args:
        lab: the name of this lab, in place of the topology's own.
        accelerator: decides on the heartbeat's profile where that is `auto`.
        catalogue: as given to `load_topology`: images say how much memory a node has that names none.

    Raises:
        InputError: `lab` can't be a name.
    """
    catalogue = load_catalogue() if catalogue is None else catalogue
    return LabSpec(
        name=topology.lab if lab is None else _lab_name(lab),
        domain=topology.domain,
        time_zone=topology.time_zone,
        accelerator=accelerator,
        networks=tuple(
            NetworkSpec(name, network.subnet, network.subnet6) for name, network in topology.networks.items()
        ),
        nodes=tuple(_node(name, node, topology, catalogue) for name, node in topology.nodes.items()),
        clusters=tuple(_cluster(name, cluster, topology, accelerator) for name, cluster in topology.clusters.items()),
        users=tuple(_user(name, user) for name, user in topology.users.items()),
        groups=tuple(GroupSpec(name, group.members) for name, group in topology.groups.items()),
        session=topology.session,
    )


def _lab_name(lab: str) -> str:
    for finding in check_lab_name(lab):
        raise InputError(str(finding))
    return lab


def _node(name: str, node: Node, topology: Topology, catalogue: Catalogue) -> NodeSpec:
    image = node.image or topology.image
    macs = nic_macs(topology)
    return NodeSpec(
        name=name,
        fqdn=f"{name}.{topology.domain}",
        image=image,
        roles=catalogue.with_companions(node.roles),
        memory_mib=node.memory_mib or catalogue.images[image].memory_mib,
        vcpus=node.vcpus,
        nics=tuple(_nic(nic_name, nic, macs[name, nic_name], topology) for nic_name, nic in node.nics.items()),
    )


def _nic(name: str, nic: Nic, mac: str, topology: Topology) -> NicSpec:
    extra = [address for addresses in nic.extra_addresses for address in _each(addresses)]
    return NicSpec(
        name,
        nic.network,
        mac,
        _interface(nic.address, nic.network, topology),
        tuple(address for address in extra if isinstance(address, IPv4Address)),
        _interface6(nic.address6, nic.network, topology) if nic.address6 else None,
        tuple(address for address in extra if isinstance(address, IPv6Address)),
    )


def _each(addresses: AddressRange) -> list[IPAddress]:
    return [addresses.first + offset for offset in range(addresses.count)]


def _interface(address: IPv4Address, network: str, topology: Topology) -> IPv4Interface:
    return IPv4Interface((address, topology.networks[network].subnet.prefixlen))


def _interface6(address: IPv6Address, network: str, topology: Topology) -> IPv6Interface:
    subnet = topology.networks[network].subnet6
    assert subnet, f"{address} is on {network}, which has no IPv6"
    return IPv6Interface((address, subnet.prefixlen))


def _cluster(name: str, cluster: Cluster, topology: Topology, accelerator: Accelerator) -> ClusterSpec:
    members = sorted(cluster.members, key=lambda member: member.priority)
    primary, *more = _virtual(cluster, topology)
    assert isinstance(primary, IPv4Interface), f"cluster {name} has no IPv4 address"
    by_priority = tuple(member.node for member in members)
    rules = [rule for written in cluster.port_rules for rule in _port_rules(written, by_priority)]
    return ClusterSpec(
        name=name,
        network=cluster.network,
        address=primary,
        fqdn=cluster.fqdn,
        mode=cluster.mode,
        heartbeat=_heartbeat(cluster.heartbeat, accelerator),
        members=tuple(MemberSpec(member.node, member.priority, member.nic) for member in members),
        port_rules=tuple(sorted(rules, key=lambda rule: (rule.first_port, rule.protocol, str(rule.address or "")))),
        more_addresses=tuple(more),
    )


def _virtual(cluster: Cluster, topology: Topology) -> list[IPv4Interface | IPv6Interface]:
    """The virtual addresses, the primary one first."""
    found = sorted(cluster.virtual, key=lambda address: address != cluster.primary)
    return [
        _interface(a, cluster.network, topology)
        if isinstance(a, IPv4Address)
        else _interface6(a, cluster.network, topology)
        for a in found
    ]


def _heartbeat(given: HeartbeatSettings, accelerator: Accelerator) -> Heartbeat:
    if given.period_ms is not None and given.tolerance is not None:
        return Heartbeat(given.period_ms, given.tolerance)
    if given.profile in PROFILES:
        return PROFILES[given.profile]
    return PROFILES[HeartbeatProfile.FAST if accelerator is Accelerator.KVM else HeartbeatProfile.EMULATED]


def _user(name: str, user: User) -> UserSpec:
    *given, surname = user.name.split()
    return UserSpec(name, " ".join(given), surname, user.quota_mib)


def _port_rules(rule: Rule, by_priority: tuple[str, ...]) -> list[PortRule]:
    weights = tuple((member, rule.weights[member]) for member in by_priority) if rule.weights else ()
    handling = (rule.handling or by_priority) if rule.filtering is Filtering.SINGLE_HOST else ()
    affinity = rule.affinity or Affinity.SINGLE
    given = rule.health
    health = HealthCheck(given.command, given.interval_s, given.rise, given.fall) if given else None
    shared = (rule.protocol, rule.filtering, affinity, weights, handling, health, rule.address)
    return [PortRule(ports.first, ports.last, *shared) for ports in rule.ports]
