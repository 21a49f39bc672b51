"""A lab, resolved: every default filled in, every name checked, every address and MAC settled.

`LabSpec` is what the rest of labctl works on; it is pure data and says nothing of what exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TypeVar

__all__ = [
    "AUTHORITY_ROLE",
    "DIRECTORY_ROLE",
    "Accelerator",
    "Affinity",
    "ClusterMode",
    "ClusterSpec",
    "Filtering",
    "GroupSpec",
    "HealthCheck",
    "Heartbeat",
    "LabSpec",
    "MemberSpec",
    "NetworkSpec",
    "NicSpec",
    "NodeSpec",
    "PortRule",
    "RuleProtocol",
    "UserSpec",
    "digest_of",
]

T = TypeVar("T")

DIRECTORY_ROLE, AUTHORITY_ROLE = "domain-controller", "certificate-authority"


class Accelerator(StrEnum):
    """What runs a guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


class ClusterMode(StrEnum):
    """How frames for the virtual address reach every member (NLB's cluster operation mode)."""

    UNICAST = "unicast"
    MULTICAST = "multicast"
    IGMP = "igmp"


class RuleProtocol(StrEnum):
    """The protocols that a port rule covers."""

    TCP = "tcp"
    UDP = "udp"
    BOTH = "both"


class Filtering(StrEnum):
    """Who serves what a port rule matches (NLB's filtering mode)."""

    MULTIPLE = "multiple"
    SINGLE_HOST = "single-host"
    DISABLED = "disabled"


class Affinity(StrEnum):
    """What of a client decides on its member: address and port, address, or its /24 network."""

    NONE = "none"
    SINGLE = "single"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """An isolated layer 2 network."""

    name: str
    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A node's NIC.

    Attributes:
        mac: lower case, colons; the same in labs of every name, since labs are isolated from each other.
        extra_addresses: more addresses of the same network that the node answers for, as a client standing for many.
    """

    name: str
    network: str
    mac: str
    address: IPv4Interface
    extra_addresses: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A machine of the lab.

    Attributes:
        image: name of a folder in `images/`.
        roles: names of folders in labctl's role library, in the order of the topology.
        nics: in the order of the topology; the first one's address is the node's own.
    """

    name: str
    fqdn: str
    image: str
    roles: tuple[str, ...]
    memory_mib: int
    vcpus: int
    nics: tuple[NicSpec, ...]

    @property
    def address(self) -> IPv4Address:
        """The address that the node's name stands for."""
        return self.nics[0].address.ip

    def nic(self, name: str) -> NicSpec:
        """The NIC of that name; KeyError if there is none."""
        return _named(self.nics, name)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a silent member counts as dead: after `period_ms` × `tolerance`."""

    period_ms: int
    tolerance: int

    @property
    def down_after_s(self) -> float:
        """Seconds of silence after which a member is out."""
        return self.period_ms * self.tolerance / 1000


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What shows that a member can serve a port rule: a shell command that ends with 0.

    Attributes:
        interval_s: seconds between the starts of two checks, and how long one may take.
        rise, fall: so many good ones in a row bring the member back, so many bad ones take it out.
    """

    command: str
    interval_s: int
    rise: int
    fall: int


@dataclass(frozen=True, slots=True)
class PortRule:
    """What happens to traffic for the virtual address on a range of ports.

    Attributes:
        first_port, last_port: inclusive, 0 to 65535.
        affinity: of Filtering.MULTIPLE only.
        weights: load weight by member (0 to 100), of Filtering.MULTIPLE only; empty means equal.
        handling: members by handling priority, first serves, of Filtering.SINGLE_HOST only.
        health: None, as with NLB, trusts that a member whose host lives can serve.
    """

    first_port: int
    last_port: int
    protocol: RuleProtocol
    filtering: Filtering
    affinity: Affinity = Affinity.SINGLE
    weights: tuple[tuple[str, int], ...] = ()
    handling: tuple[str, ...] = ()
    health: HealthCheck | None = None

    @property
    def title(self) -> str:
        """As people write it: `443/tcp`, `1000-1999/both`."""
        ports = str(self.first_port) if self.first_port == self.last_port else f"{self.first_port}-{self.last_port}"
        return f"{ports}/{self.protocol}"

    def covers(self, port: int, protocol: RuleProtocol) -> bool:
        """Whether it is about that port of that protocol."""
        return self.protocol in {protocol, RuleProtocol.BOTH} and self.first_port <= port <= self.last_port


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member of a cluster: the node, its unique priority (NLB's host ID, 1 to 32), and its NIC in the cluster."""

    node: str
    priority: int
    nic: str


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One virtual address and one FQDN that stand for all members."""

    name: str
    network: str
    address: IPv4Interface
    fqdn: str
    mode: ClusterMode
    heartbeat: Heartbeat
    members: tuple[MemberSpec, ...]  # by priority
    port_rules: tuple[PortRule, ...]  # by first port


@dataclass(frozen=True, slots=True)
class UserSpec:
    """Somebody with an account in the lab's directory and a mailbox.

    Attributes:
        name: of the account (sAMAccountName, and before the @ of the Kerberos principal and of the mail address).
        given_name, surname: as the address book shows them.
        quota_mib: what the mailbox holds at most.
    """

    name: str
    given_name: str
    surname: str
    quota_mib: int


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A group of the directory; mail to it goes to its members."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A whole lab.

    Attributes:
        name: of this lab on its hypervisor; part of the name of everything it owns.
        domain: DNS domain of the nodes' names.
        time_zone: of all nodes, as in zoneinfo.
    """

    name: str
    domain: str
    time_zone: str
    accelerator: Accelerator
    networks: tuple[NetworkSpec, ...]
    nodes: tuple[NodeSpec, ...]
    clusters: tuple[ClusterSpec, ...]
    users: tuple[UserSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()

    def node(self, name: str) -> NodeSpec:
        """The node of that name; KeyError if there is none."""
        return _named(self.nodes, name)

    def network(self, name: str) -> NetworkSpec:
        """The network of that name; KeyError if there is none."""
        return _named(self.networks, name)

    def provider(self, role: str) -> NodeSpec | None:
        """The node with that role, the first of several; None when the lab has none."""
        return next((n for n in self.nodes if role in n.roles), None)

    @property
    def directory(self) -> NodeSpec | None:
        """The node that all others ask for names and for the time; None in a lab where each knows them itself."""
        return self.provider(DIRECTORY_ROLE)

    @property
    def authority(self) -> NodeSpec | None:
        """The node that signs the others' certificates, whose root all of them trust."""
        return self.provider(AUTHORITY_ROLE)

    def clusters_of(self, node: str) -> tuple[ClusterSpec, ...]:
        """The clusters that `node` is a member of."""
        return tuple(c for c in self.clusters if any(m.node == node for m in c.members))


def _named(items: tuple[T, ...], name: str) -> T:
    for item in items:
        if getattr(item, "name", None) == name:
            return item
    raise KeyError(name)


def digest_of(*values: object) -> str:
    """16 hexadecimal digits that name `values`: equal values give equal digests, on any host and Python version.

    Dataclasses, enums, addresses, tuples, mappings and plain values are taken.
    """
    text = json.dumps([_plain(v) for v in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
