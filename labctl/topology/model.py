"""The topology file as people write it: what may stand where, and what is meant when it is left out.

Only what one value can say of itself is checked here; what needs two of them is in `check`. Descriptions go into the
JSON Schema, where editors show them, and into the message about a key that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from labctl.topology.spec import Affinity, ClusterMode, Filtering, RuleProtocol, Session
from labctl.topology.values import (
    LABEL,
    Address,
    Address6,
    Addresses,
    AnyAddress,
    IPAddress,
    Mac,
    PortsList,
    Subnet,
    Subnet6,
    TimeZone,
    keys_are_accounts,
    keys_are_names,
    one_of,
)

__all__ = [
    "Cluster",
    "Group",
    "Health",
    "HeartbeatProfile",
    "HeartbeatSettings",
    "Member",
    "Network",
    "Nic",
    "Node",
    "Rule",
    "Topology",
    "User",
]


class HeartbeatProfile(StrEnum):
    """A named pair of heartbeat period and tolerance."""

    AUTO = "auto"
    NLB = "nlb"
    FAST = "fast"
    EMULATED = "emulated"


class _Strict(BaseModel):
    # Strict, since "443" for a number is a typing error; lists become tuples all the same (see the fields).
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Network(_Strict):
    """An isolated layer 2 network; the host has no address on it."""

    subnet: Subnet = Field(description="its IPv4 subnet, such as 10.77.0.0/16; /16 to /29")
    subnet6: Subnet6 | None = Field(
        default=None,
        description="its IPv6 prefix beside that, such as fd00:77::/64; from fd00::/8 or 2001:db8::/32, /32 to /120. "
        "Left out, its NICs have no IPv6",
    )


class Nic(_Strict):
    """A NIC of a node."""

    network: str = Field(description="name of the network that it is plugged into")
    address: Address = Field(description="its IPv4 address, of the network's subnet")
    address6: Address6 | None = Field(
        default=None, description="its IPv6 address beside that, of the network's subnet6"
    )
    mac: Mac | None = Field(
        default=None,
        description="its MAC address; left out, it is derived from node and NIC, or in a unicast cluster from priority "
        "and virtual address",
    )
    extra_addresses: tuple[Addresses, ...] = Field(
        default=(),
        strict=False,
        description="more addresses of the same network, single ones or ranges like 10.77.1.1-10.77.1.254, IPv4 or "
        "IPv6, so that one client can stand for many; 4096 at most",
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
        json_schema_extra=keys_are_names(15),
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

    profile: Annotated[HeartbeatProfile, BeforeValidator(one_of(HeartbeatProfile))] | None = Field(
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
    address: AnyAddress | None = Field(
        default=None,
        description="the one virtual address that it is about, and comes before rules about all of them; left out, all",
    )
    protocol: Annotated[RuleProtocol, BeforeValidator(one_of(RuleProtocol))] = Field(
        default=RuleProtocol.BOTH, description="the protocols that it covers"
    )
    filtering: Annotated[Filtering, BeforeValidator(one_of(Filtering))] = Field(
        default=Filtering.MULTIPLE,
        description="multiple = all members share the load, single-host = the first living member of `handling` serves "
        "alone, disabled = dropped by all",
    )
    affinity: Annotated[Affinity, BeforeValidator(one_of(Affinity))] | None = Field(
        default=None,
        description="what of a client decides on its member: none = address and port, single = address (when left "
        "out), network = its /24, of IPv6 its /64; only with filtering multiple",
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
    """Members behind virtual addresses, mostly one, and one FQDN."""

    model_config = ConfigDict(
        json_schema_extra={
            "required": ["network", "fqdn", "members"],
            "oneOf": [{"required": ["address"]}, {"required": ["addresses"]}],
        }
    )

    network: str = Field(description="name of the network that the virtual address is on")
    address: Address | None = Field(
        description="the virtual address, of the network's subnet; or `addresses` in its place"
    )
    addresses: tuple[AnyAddress, ...] | None = Field(
        default=None,
        strict=False,
        description="several virtual addresses, IPv4 and IPv6; the cluster's MAC is made from the first IPv4 address",
        json_schema_extra={"minItems": 1},
    )
    fqdn: str = Field(description="the one name that stands for all members, inside the lab's domain")
    mode: Annotated[ClusterMode, BeforeValidator(one_of(ClusterMode))] = Field(
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

    @model_validator(mode="before")
    @classmethod
    def _either(cls, given: Any) -> Any:
        """With `addresses`, `address` is not missing."""
        return {"address": None, **given} if isinstance(given, dict) and "addresses" in given else given

    @property
    def virtual(self) -> tuple[IPAddress, ...]:
        """Its virtual addresses, as the file has them."""
        return self.addresses or (() if self.address is None else (self.address,))

    @property
    def primary(self) -> IPv4Address | None:
        """The one that its MAC is made from; None in a topology that a check will refuse."""
        return next((a for a in self.virtual if isinstance(a, IPv4Address)), None)


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
    session: Annotated[Session, BeforeValidator(one_of(Session))] = Field(
        default=Session.LOCAL,
        description="where webmail sessions are: local = in the memory of the server that began one, and gone with it, "
        "as in 2007; shared = in the servers' common database, so that it goes on at another one",
    )
    networks: Mapping[str, Network] = Field(
        json_schema_extra={**keys_are_names(32), "minProperties": 1}, description="the isolated networks by name"
    )
    nodes: Mapping[str, Node] = Field(
        json_schema_extra={**keys_are_names(15), "minProperties": 1}, description="the machines by name"
    )
    clusters: Mapping[str, Cluster] = Field(
        default={}, json_schema_extra=keys_are_names(32), description="the load-balanced clusters by name"
    )
    users: Mapping[str, User] = Field(
        default={},
        json_schema_extra=keys_are_accounts(),
        description="the directory's users by account name; mail goes to NAME@DOMAIN. Passwords are random: "
        "labctl secrets shows them",
    )
    groups: Mapping[str, Group] = Field(
        default={}, json_schema_extra=keys_are_accounts(), description="the directory's groups by account name"
    )
