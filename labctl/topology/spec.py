"""A lab, resolved: every default filled in, every name checked, every address and MAC settled.

`LabSpec` is what the rest of labctl works on; it is pure data and says nothing of what exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import Field, dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, TypeVar

from labctl.topology.values import IPAddress

__all__ = [
    "AUTHORITY_ROLE",
    "DIRECTORY_ROLE",
    "WEBMAIL_ROLE",
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
    "Session",
    "UserSpec",
    "bracketed",
    "digest_of",
    "told_fields",
]

T = TypeVar("T")

_LATER = {"later": True}
"""Of fields that came later: while they hold their default they have no part in a digest, so that what was made before
stays what it is."""

DIRECTORY_ROLE, AUTHORITY_ROLE = "domain-controller", "certificate-authority"
WEBMAIL_ROLE = "client-access"


class Accelerator(StrEnum):
    """What runs a guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


class ClusterMode(StrEnum):
    """How frames for the virtual address reach every member (NLB's cluster operation mode)."""

    UNICAST = "unicast"
    MULTICAST = "multicast"
    IGMP = "igmp"


class Session(StrEnum):
    """Where a webmail session is: with the server that began it, or with all of them."""

    LOCAL = "local"
    SHARED = "shared"


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
    subnet6: IPv6Network | None = field(default=None, metadata=_LATER)


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A node's NIC.

    Attributes:
        mac: lower case, colons; the same in labs of every name, since labs are isolated from each other.
        address6: None where the network has no IPv6, or the NIC no address of its own there.
        extra_addresses: more addresses of the same network that the node answers for, as a client standing for many.
        extra_addresses6: the same of IPv6.
    """

    name: str
    network: str
    mac: str
    address: IPv4Interface
    extra_addresses: tuple[IPv4Address, ...] = ()
    address6: IPv6Interface | None = field(default=None, metadata=_LATER)
    extra_addresses6: tuple[IPv6Address, ...] = field(default=(), metadata=_LATER)


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

    @property
    def address6(self) -> IPv6Address | None:
        """The IPv6 address that the node's name stands for, too; None where its first NIC has none."""
        first = self.nics[0].address6
        return first.ip if first else None

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
        address: the one virtual address that it is about; None for all that have no rule of their own for the port.
    """

    first_port: int
    last_port: int
    protocol: RuleProtocol
    filtering: Filtering
    affinity: Affinity = Affinity.SINGLE
    weights: tuple[tuple[str, int], ...] = ()
    handling: tuple[str, ...] = ()
    health: HealthCheck | None = None
    address: IPAddress | None = field(default=None, metadata=_LATER)

    @property
    def ports(self) -> str:
        """`443`, `1000-1999`."""
        return str(self.first_port) if self.first_port == self.last_port else f"{self.first_port}-{self.last_port}"

    @property
    def title(self) -> str:
        """As people write it: `443/tcp`, `1000-1999/both`, `10.77.0.25:80/tcp`, `[fd00:77::20]:80/tcp`."""
        where = f"{bracketed(self.address)}:" if self.address else ""
        return f"{where}{self.ports}/{self.protocol}"

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
    """Virtual addresses, mostly one, and one FQDN that stand for all members.

    Attributes:
        address: the primary virtual address, which the cluster's MAC is made from.
        more_addresses: those beside it, in the order of the topology.
    """

    name: str
    network: str
    address: IPv4Interface
    fqdn: str
    mode: ClusterMode
    heartbeat: Heartbeat
    members: tuple[MemberSpec, ...]  # by priority
    port_rules: tuple[PortRule, ...]  # by first port
    more_addresses: tuple[IPv4Interface | IPv6Interface, ...] = field(default=(), metadata=_LATER)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """All virtual addresses, the primary one first."""
        return (self.address.ip, *(more.ip for more in self.more_addresses))

    @property
    def addresses4(self) -> tuple[IPv4Address, ...]:
        """Those of IPv4, the primary one first."""
        return tuple(a for a in self.addresses if isinstance(a, IPv4Address))

    @property
    def addresses6(self) -> tuple[IPv6Address, ...]:
        """Those of IPv6."""
        return tuple(a for a in self.addresses if isinstance(a, IPv6Address))


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
        session: of webmail; a local one ends with the server that began it.
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
    session: Session = Session.LOCAL

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

    @property
    def has_ipv6(self) -> bool:
        """Whether any of its networks has IPv6."""
        return any(n.subnet6 for n in self.networks)

    def clusters_of(self, node: str) -> tuple[ClusterSpec, ...]:
        """The clusters that `node` is a member of."""
        return tuple(c for c in self.clusters if any(m.node == node for m in c.members))


def bracketed(address: IPAddress) -> str:
    """As it stands before a colon and a port: IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{address}]" if address.version == 6 else str(address)


def _named(items: tuple[T, ...], name: str) -> T:
    for item in items:
        if getattr(item, "name", None) == name:
            return item
    raise KeyError(name)


def told_fields(value: Any) -> Iterator[Field[Any]]:
    """The fields of a dataclass but for those that came later and hold their default."""
    for one in dataclasses.fields(value):
        if not ("later" in one.metadata and getattr(value, one.name) == one.default):
            yield one


def digest_of(*values: object) -> str:
    """16 hexadecimal digits that name `values`: equal values give equal digests, on any host and Python version.

    Dataclasses, enums, addresses, tuples, mappings and plain values are taken.
    """
    text = json.dumps([_plain(v) for v in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in told_fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
