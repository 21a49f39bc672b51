"""The topology file as people write it: what may stand where, and what is meant when it is left out.

Only what one value can say of itself is checked here; what needs two of them is in `check`. Descriptions go into the
JSON Schema, where editors show them, and into the message about a key that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from labctl.topology.spec import Affinity, ClusterMode, Filtering, RuleProtocol

__all__ = [
    "ACCOUNT",
    "LABEL",
    "AddressRange",
    "Cluster",
    "Group",
    "Health",
    "HeartbeatProfile",
    "HeartbeatSettings",
    "Member",
    "Network",
    "Nic",
    "Node",
    "PortRange",
    "Rule",
    "Topology",
    "User",
]

ACCOUNT = r"^(?=.*[a-z])[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"
"""A name of an account: what the directory, Kerberos, a mail address and a folder all take as it is."""

LABEL = r"^(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""A DNS label as in RFC 1123, lower case, and with a letter: a name of digits alone would be taken for an address."""

_BYTE = r"(25[0-5]|2[0-4]\d|1?\d?\d)"
_ADDRESS = rf"{_BYTE}(\.{_BYTE}){{3}}"

E = TypeVar("E", bound=StrEnum)


class HeartbeatProfile(StrEnum):
    """A named pair of heartbeat period and tolerance."""

    AUTO = "auto"
    NLB = "nlb"
    FAST = "fast"
    EMULATED = "emulated"


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Consecutive addresses, both ends included; first and last are the same for one address."""

    first: IPv4Address
    last: IPv4Address

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Consecutive ports, both ends included; first and last are the same for one port."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def _wrong(says: str) -> PydanticCustomError:
    return PydanticCustomError("labctl", "{says}", {"says": says})


def _address(value: object) -> IPv4Address:
    try:
        return IPv4Address(value if isinstance(value, str) else "")
    except AddressValueError:
        advice = "; the prefix length is the network's" if "/" in str(value) else ""
        raise _wrong(f"is not an IPv4 address{advice}") from None


def _subnet(value: object) -> IPv4Network:
    text = value if isinstance(value, str) else ""
    try:
        network = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise _wrong("is not an IPv4 network; expected one like 10.77.0.0/16") from None
    if "/" not in text:
        raise _wrong(f"lacks the prefix length; expected one like {text}/24")
    if str(network.network_address) != text.partition("/")[0]:
        raise _wrong(f"is an address inside a network; the network is {network}")
    return network


def _address_range(value: object) -> AddressRange:
    first, dash, last = (value if isinstance(value, str) else "").partition("-")
    try:
        found = AddressRange(IPv4Address(first.strip()), IPv4Address(last.strip() if dash else first.strip()))
    except AddressValueError:
        raise _wrong("is neither an IPv4 address nor a range like 10.77.1.1-10.77.1.254") from None
    if found.first > found.last:
        raise _wrong(f"runs backwards; expected {found.last}-{found.first}")
    return found


def _port_range(value: object) -> PortRange:
    if not isinstance(value, int | str) or not re.fullmatch(r"\d{1,9}(\s*-\s*\d{1,9})?", str(value), re.ASCII):
        raise _wrong("is neither a port nor a range of ports like 1000-2000")
    first, dash, last = str(value).partition("-")
    found = PortRange(int(first), int(last if dash else first))
    if found.first > found.last:
        raise _wrong(f"runs backwards; expected {found.last}-{found.first}")
    if found.last > 65535:
        raise _wrong(f"goes beyond the last port, {65535}")
    return found


def _mac(value: object) -> str:
    text = value.lower() if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        raise _wrong("is not a MAC address; expected one like 52:54:00:12:34:56")
    first = int(text[:2], 16)
    if first & 1:
        raise _wrong("is a multicast MAC; a NIC's own has an even first octet")
    if first == 0xFE:
        raise _wrong("begins with fe, which libvirt keeps for the host's side of the cable")
    if text == "00:00:00:00:00:00":
        raise _wrong("is nobody's MAC; expected one like 52:54:00:12:34:56")
    return text


def _time_zone(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("is not a time zone; expected one like Europe/Berlin")
    try:
        return value if value == "UTC" else ZoneInfo(value).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # OSError: the name of a directory of zones ("Europe").
        raise _wrong("is not a time zone that this host knows; expected one like Europe/Berlin") from None


def _one_of(kind: type[E]) -> Callable[[object], E]:
    def parse(value: object) -> E:
        if isinstance(value, str) and value in tuple(kind):
            return kind(value)
        raise _wrong(f"is not one of {', '.join(kind)}")

    return parse


def _as_list(value: object) -> object:
    if value in ([], ()):
        raise _wrong("is empty; expected at least one port")
    return value if isinstance(value, list | tuple) else [value]


def _named(longest: int) -> dict[str, Any]:
    """The JSON Schema of a mapping whose keys are names."""
    return {"propertyNames": {"pattern": LABEL, "maxLength": longest}}


def _accounts() -> dict[str, Any]:
    """The JSON Schema of a mapping whose keys are names of accounts."""
    return {"propertyNames": {"pattern": ACCOUNT, "maxLength": 20}}


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


Address = Annotated[IPv4Address, BeforeValidator(_address), WithJsonSchema({"type": "string", "format": "ipv4"})]
Subnet = Annotated[IPv4Network, BeforeValidator(_subnet), _text(rf"^{_ADDRESS}/\d{{1,2}}$")]
Addresses = Annotated[AddressRange, BeforeValidator(_address_range), _text(rf"^{_ADDRESS}(\s*-\s*{_ADDRESS})?$")]
Mac = Annotated[str, BeforeValidator(_mac), _text(r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
TimeZone = Annotated[str, BeforeValidator(_time_zone)]

_PORTS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 65535},
        {"type": "string", "pattern": r"^\d{1,5}(\s*-\s*\d{1,5})?$"},
    ]
}
Ports = Annotated[PortRange, BeforeValidator(_port_range), WithJsonSchema(_PORTS_SCHEMA)]
PortsList = Annotated[
    tuple[Ports, ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [*_PORTS_SCHEMA["anyOf"], {"type": "array", "items": _PORTS_SCHEMA, "minItems": 1}]}),
]


class _Strict(BaseModel):
    # Strict, since "443" for a number is a typing error; lists become tuples all the same (see the fields).
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Network(_Strict):
    """An isolated layer 2 network; the host has no address on it."""

    subnet: Subnet = Field(description="its IPv4 subnet, such as 10.77.0.0/16; /16 to /29")


class Nic(_Strict):
    """A NIC of a node."""

    network: str = Field(description="name of the network that it is plugged into")
    address: Address = Field(description="its IPv4 address, of the network's subnet")
    mac: Mac | None = Field(
        default=None,
        description="its MAC address; left out, it is derived from node and NIC, or in a unicast cluster from priority "
        "and virtual address",
    )
    extra_addresses: tuple[Addresses, ...] = Field(
        default=(),
        strict=False,
        description="more addresses of the same network, single ones or ranges like 10.77.1.1-10.77.1.254, so that "
        "one client can stand for many; 4096 at most",
    )


class Node(_Strict):
    """A machine."""

    image: str | None = Field(
        default=None, description="the parent disk that it is cloned from: a folder of images/; left out, the lab's"
    )
    roles: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="what it does in the lab, applied in this order: folders of the role library",
    )
    memory_mib: int | None = Field(
        default=None, ge=128, description="its memory in MiB, 128 at least; left out, what its image asks for"
    )
    vcpus: int = Field(default=1, ge=1, le=64, description="its virtual CPUs")
    nics: Mapping[str, Nic] = Field(
        json_schema_extra=_named(15),
        description="its NICs by name; the first one's address is the node's own",
    )


class HeartbeatSettings(_Strict):
    """When a silent member counts as dead: a profile, or a period and a tolerance."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {"period_ms": ["tolerance"], "tolerance": ["period_ms"]},
            "not": {"required": ["profile", "period_ms"]},
        }
    )

    profile: Annotated[HeartbeatProfile, BeforeValidator(_one_of(HeartbeatProfile))] | None = Field(
        default=None,
        description="nlb = 1000 ms x 5 (NLB's default), fast = 100 ms x 5, emulated = 500 ms x 5 (guests without "
        "hardware virtualization), auto = fast or emulated by the accelerator; auto when nothing is given",
    )
    period_ms: int | None = Field(
        default=None, ge=10, le=10000, description="milliseconds between two heartbeats; NLB itself takes 100 to 10000"
    )
    tolerance: int | None = Field(
        default=None, ge=3, le=100, description="heartbeats missed until a member is out; NLB itself takes 5 to 100"
    )


class Member(_Strict):
    """A member of a cluster."""

    node: str = Field(description="name of the node")
    nic: str = Field(description="its NIC on the cluster's network that serves the virtual address")
    priority: int = Field(
        ge=1, le=32, description="its own priority, 1 (highest, the default host) to 32: NLB's host ID"
    )


class Health(_Strict):
    """A check of the service behind a port rule; NLB has none."""

    command: str = Field(
        min_length=1, description="a shell command, run on each member; it can serve as long as this ends with 0"
    )
    interval_s: int = Field(
        default=2, ge=1, le=3600, description="seconds between two checks, and how long one may take"
    )
    rise: int = Field(default=2, ge=1, le=100, description="so many good checks in a row bring a member back")
    fall: int = Field(default=2, ge=1, le=100, description="so many bad checks in a row take a member out of the rule")


class Rule(_Strict):
    """A port rule: who serves what comes to the virtual address on some ports."""

    ports: PortsList = Field(
        strict=False, description='a port, a range like "1000-2000", or a list of those; 0 to 65535'
    )
    protocol: Annotated[RuleProtocol, BeforeValidator(_one_of(RuleProtocol))] = Field(
        default=RuleProtocol.BOTH, description="the protocols that it covers"
    )
    filtering: Annotated[Filtering, BeforeValidator(_one_of(Filtering))] = Field(
        default=Filtering.MULTIPLE,
        description="multiple = all members share the load, single-host = the first living member of `handling` serves "
        "alone, disabled = dropped by all",
    )
    affinity: Annotated[Affinity, BeforeValidator(_one_of(Affinity))] | None = Field(
        default=None,
        description="what of a client decides on its member: none = address and port, single = address (when left "
        "out), network = its /24; only with filtering multiple",
    )
    weights: Mapping[str, Annotated[int, Field(ge=0, le=100)]] | None = Field(
        default=None, description="load weight of every member, 0 to 100; left out, equal; only with filtering multiple"
    )
    handling: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="every member, the one that serves first in front; left out, by priority; only with filtering "
        "single-host",
    )
    health: Health | None = Field(
        default=None,
        description="takes a member out of this rule while its service is dead though its host lives; left out, as NLB "
        "does it, its clients fail",
    )


def _default_rules() -> tuple[Rule, ...]:
    """The rule that NLB has when none is made: all ports, both protocols, all members, affinity single."""
    return (Rule.model_validate({"ports": "0-65535"}),)


class Cluster(_Strict):
    """Members behind one virtual address and one FQDN."""

    network: str = Field(description="name of the network that the virtual address is on")
    address: Address = Field(description="the virtual address, of the network's subnet")
    fqdn: str = Field(description="the one name that stands for all members, inside the lab's domain")
    mode: Annotated[ClusterMode, BeforeValidator(_one_of(ClusterMode))] = Field(
        default=ClusterMode.UNICAST, description="how frames for the virtual address reach every member"
    )
    heartbeat: HeartbeatSettings = Field(
        default_factory=HeartbeatSettings, description="when a silent member counts as dead"
    )
    members: tuple[Member, ...] = Field(
        strict=False, description="1 to 32 members", json_schema_extra={"minItems": 1, "maxItems": 32}
    )
    port_rules: tuple[Rule, ...] = Field(
        default_factory=_default_rules,
        strict=False,
        description="who serves which ports; what no rule covers goes to the living member with the highest priority. "
        "Left out, NLB's own: 0-65535, both protocols, multiple, affinity single",
    )


class User(_Strict):
    """A user of the directory, with a mailbox where the lab has mail."""

    name: str = Field(description="given name and surname, as the address book shows them")
    quota_mib: int = Field(
        default=64, ge=1, le=65536, description="what the mailbox holds at most, in MiB; 64 when left out"
    )


class Group(_Strict):
    """A group of the directory; mail to it goes to its members."""

    members: tuple[str, ...] = Field(strict=False, description="names of users")


class Topology(_Strict):
    """A lab of virtual machines, as labctl brings it up."""

    lab: str = Field(
        description="the lab's name on its hypervisor", json_schema_extra={"pattern": LABEL, "maxLength": 32}
    )
    domain: str = Field(description="DNS domain of the lab, reserved for such use: one that ends in .test, for example")
    image: str = Field(default="debian-13", description="the parent disk of nodes that name none: a folder of images/")
    time_zone: TimeZone = Field(default="UTC", description="time zone of all nodes, such as Europe/Berlin")
    networks: Mapping[str, Network] = Field(
        json_schema_extra={**_named(32), "minProperties": 1}, description="the isolated networks by name"
    )
    nodes: Mapping[str, Node] = Field(
        json_schema_extra={**_named(15), "minProperties": 1}, description="the machines by name"
    )
    clusters: Mapping[str, Cluster] = Field(
        default={}, json_schema_extra=_named(32), description="the load-balanced clusters by name"
    )
    users: Mapping[str, User] = Field(
        default={},
        json_schema_extra=_accounts(),
        description="the directory's users by account name; mail goes to NAME@DOMAIN. Passwords are random: "
        "labctl secrets shows them",
    )
    groups: Mapping[str, Group] = Field(
        default={}, json_schema_extra=_accounts(), description="the directory's groups by account name"
    )
