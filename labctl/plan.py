"""What must be done so that libvirt holds the lab: a pure function from what is wanted and what is there to actions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from labctl.inventory import DomainInfo, DomainState, Inventory, Mark, NicInfo, Stage
from labctl.render.names import network_name, of_the_lab_itself, overlay_name
from labctl.topology.spec import LabSpec, NodeSpec

__all__ = ["Action", "Digests", "Plan", "Verb", "plan_destroy", "plan_restore", "plan_up"]

_NO_LAYERS: Mapping[str, Mark] = MappingProxyType({})
_NO_PROVIDERS: Mapping[str, Collection[str]] = MappingProxyType({})


class Verb(StrEnum):
    """The kinds of action, in the words of the plan that users read."""

    BUILD_IMAGE = "build image"
    CREATE_NETWORK = "create network"
    START_NETWORK = "start network"
    REMOVE_NETWORK = "remove network"
    RESTORE_NODE = "restore node"
    CREATE_NODE = "create node"
    START_NODE = "start node"
    RESTART_NODE = "restart node"
    RESUME_NODE = "resume node"
    CONNECT_NIC = "connect NIC"
    HEAL_FAULTS = "heal"
    SPECIALISE = "specialise"
    APPLY_ROLES = "apply roles"
    JOIN_CLUSTER = "join cluster"
    REMOVE_NODE = "remove node"
    REMOVE_VOLUME = "remove volume"


@dataclass(frozen=True, slots=True)
class Action:
    """One step.

    Attributes:
        target: a node's or network's name in the topology; libvirt's own name for what is removed; an image's name.
        detail: why, or with what: "nothing is there yet", "its spec has changed", "client-access".
        node: the node that it concerns; empty for networks and images.
    """

    verb: Verb
    target: str
    detail: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.target}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they may be done one after the other; nodes may go side by side."""

    actions: tuple[Action, ...]

    def __bool__(self) -> bool:
        return bool(self.actions)

    def of_node(self, node: str) -> tuple[Action, ...]:
        """The actions that concern one node."""
        return tuple(a for a in self.actions if a.node == node)

    def count(self, verb: Verb) -> int:
        """How many of its actions are of a kind."""
        return sum(a.verb is verb for a in self.actions)

    def __str__(self) -> str:
        return "".join(f"{action}\n" for action in self.actions)


@dataclass(frozen=True, slots=True)
class Digests:
    """What a node must have been made from.

    Attributes:
        machine: disk, hardware and roles; another one means a new machine.
        identity: name, addresses, host table; another one means to specialise again.
        cluster: of its cluster files, empty if it is no member; another one means to load them again.
    """

    machine: str
    identity: str
    cluster: str


def plan_up(
    lab: LabSpec,
    there: Inventory,
    *,
    nodes: Mapping[str, Digests],
    networks: Mapping[str, str],
    missing_images: tuple[str, ...] = (),
    replace: Collection[str] = (),
    layers: Mapping[str, Mark] = _NO_LAYERS,
    providers: Mapping[str, Collection[str]] = _NO_PROVIDERS,
) -> Plan:
    """The way from what is there to the lab.

    Args:
        there: the part of the inventory that the lab owns.
        nodes: what each node must have been made from.
        networks: the digest of each network.
        missing_images: those whose parent disk has yet to be built.
        replace: nodes that are to be made anew, from nothing, although nothing is wrong with them.
        layers: how far a new node is that begins with its saved layer, for the nodes that have one.
        providers: the other nodes that a node's roles depend on.
    """
    stale = {n.name for n in lab.networks if _stale_network(there, n.name, networks[n.name])}
    removals = [*_remove_strays(lab, there), *_remove_stale_nodes(lab, there, nodes, stale, replace)]
    gone = {a.node for a in removals if a.verb is Verb.REMOVE_NODE}
    active = {n.name for n in lab.networks if (network := there.network(n.name)) and network.active}
    domains = {n.name: None if n.name in gone else there.domain(n.name) for n in lab.nodes}
    layers = {node: mark for node, mark in layers.items() if not (domains[node] or node in replace)}
    marks = {node: domain.mark if domain else layers.get(node) for node, domain in domains.items()}
    again = _to_apply_again(domains, layers, providers)
    return Plan(
        (
            *(Action(Verb.BUILD_IMAGE, image, "no parent disk of this recipe yet") for image in missing_images),
            *removals,
            *(a for n in lab.networks for a in _network(there, n.name, stale=n.name in stale)),
            *(
                a
                for n in lab.nodes
                for a in _node(lab, n, domains[n.name], marks[n.name], nodes[n.name], active, again=n.name in again)
            ),
        )
    )


def _to_apply_again(
    domains: Mapping[str, DomainInfo | None], layers: Mapping[str, Mark], providers: Mapping[str, Collection[str]]
) -> set[str]:
    """The nodes whose roles were applied against a provider that is another one now.

    What is there fits what is there, and layers, which are all from one state, fit each other. A role's script is
    idempotent, so applying it again brings about what changed and nothing else.
    """
    origin = {node: "there" if domain else "layer" if node in layers else "new" for node, domain in domains.items()}
    changed = {node for node in origin if origin[node] == "new"}
    again: set[str] = set()
    while True:
        more = {
            node
            for node in origin.keys() - changed - again
            if any(p in changed | again or origin[p] != origin[node] for p in providers.get(node, ()))
        }
        if not more:
            return again
        again |= more


def plan_restore(lab: LabSpec, there: Inventory, *, networks: Mapping[str, str], ready: str) -> Plan:
    """The way from a lab of which at most networks are there to one in its ready state.

    Args:
        ready: what is restored, for people.
    """
    stale = {n.name for n in lab.networks if _stale_network(there, n.name, networks[n.name])}
    return Plan(
        (
            *_remove_strays(lab, there),
            *(a for n in lab.networks for a in _network(there, n.name, stale=n.name in stale)),
            *(Action(Verb.RESTORE_NODE, n.name, ready, n.name) for n in lab.nodes),
        )
    )


def plan_destroy(there: Inventory) -> Plan:
    """Everything that the lab owns goes: nodes, then volumes, then networks."""
    return Plan(
        (
            *(Action(Verb.REMOVE_NODE, d.name, "destroy", d.mark.name if d.mark else "") for d in there.domains),
            *(Action(Verb.REMOVE_VOLUME, v.name, "destroy") for v in there.volumes),
            *(Action(Verb.REMOVE_NETWORK, n.name, "destroy") for n in there.networks),
        )
    )


def _stale_network(there: Inventory, name: str, digest: str) -> bool:
    network = there.network(name)
    return bool(network and network.mark and network.mark.digest != digest)


def _remove_strays(lab: LabSpec, there: Inventory) -> Iterator[Action]:
    """What the lab owns and the topology no longer names."""
    wanted = {n.name for n in lab.nodes}
    for domain in there.domains:
        if domain.mark and domain.mark.name not in wanted:
            yield Action(Verb.REMOVE_NODE, domain.name, "not in the topology", domain.mark.name)
    with_domain = {d.mark.name for d in there.domains if d.mark}
    for volume in there.volumes:
        node = volume.name.split(".")[2]
        if node not in with_domain and volume.name not in of_the_lab_itself(lab.name):
            yield Action(Verb.REMOVE_VOLUME, volume.name, "no node uses it", node)
    names = {n.name for n in lab.networks}
    for network in there.networks:
        if network.mark and network.mark.name not in names:
            yield Action(Verb.REMOVE_NETWORK, network.name, "not in the topology")


def _remove_stale_nodes(
    lab: LabSpec,
    there: Inventory,
    digests: Mapping[str, Digests],
    stale_networks: set[str],
    replace: Collection[str],
) -> Iterator[Action]:
    overlays = {v.name for v in there.volumes}
    for node in lab.nodes:
        domain = there.domain(node.name)
        if not (domain and domain.mark):
            continue
        if node.name in replace:
            yield Action(Verb.REMOVE_NODE, domain.name, "to be replaced", node.name)
        elif domain.mark.digest != digests[node.name].machine:
            yield Action(Verb.REMOVE_NODE, domain.name, "its image, hardware or roles have changed", node.name)
        elif overlay_name(lab.name, node.name) not in overlays:
            yield Action(Verb.REMOVE_NODE, domain.name, "its disk is gone", node.name)
        elif domain.mark.stage is Stage.DEFINED and _lacks_nics(domain, node):
            # A fork gets its NICs while it is still paused, and labctl died in between.
            yield Action(Verb.REMOVE_NODE, domain.name, "it was not made to its end", node.name)
        elif any(nic.network in stale_networks for nic in node.nics):
            yield Action(Verb.REMOVE_NODE, domain.name, "its network has changed", node.name)


def _network(there: Inventory, name: str, *, stale: bool) -> Iterator[Action]:
    network = there.network(name)
    if network and stale:
        yield Action(Verb.REMOVE_NETWORK, network.name, "its spec has changed")
    if not network or stale:
        yield Action(Verb.CREATE_NETWORK, name, "changed" if stale else "not there yet")
    elif not network.active:
        yield Action(Verb.START_NETWORK, name, "it is stopped")


def _node(
    lab: LabSpec,
    node: NodeSpec,
    domain: DomainInfo | None,
    mark: Mark | None,
    digests: Digests,
    active_networks: set[str],
    *,
    again: bool,
) -> Iterator[Action]:
    name = node.name
    stage = mark.stage if mark else Stage.DEFINED
    if not domain:
        detail = "from its layer, with its roles applied" if mark else f"linked clone of {node.image}"
        yield Action(Verb.CREATE_NODE, name, detail, name)
    yield from (_connect(lab, node, nic) for nic in (domain.nics if domain else ()) if not nic.link_up)
    yield from _power(node, domain, active_networks)
    yield from _heal(name, domain)
    if stage is Stage.DEFINED or (mark and mark.identity != digests.identity):
        yield Action(
            Verb.SPECIALISE, name, "new" if stage is Stage.DEFINED else "names or addresses have changed", name
        )
    if stage is not Stage.READY:
        yield Action(Verb.APPLY_ROLES, name, ", ".join(node.roles) or "none", name)
    elif again:
        yield Action(Verb.APPLY_ROLES, name, f"{', '.join(node.roles)}, again: what they depend on is made anew", name)
    if digests.cluster and (mark is None or mark.cluster != digests.cluster):
        yield Action(Verb.JOIN_CLUSTER, name, ", ".join(c.name for c in lab.clusters_of(name)), name)


def _power(node: NodeSpec, domain: DomainInfo | None, active_networks: set[str]) -> Iterator[Action]:
    """What makes it run."""
    name, state = node.name, domain.state if domain else DomainState.SHUT_OFF
    if state is DomainState.SHUT_OFF:
        yield Action(Verb.START_NODE, name, "it is shut off" if domain else "new", name)
    elif state is DomainState.CRASHED:
        yield Action(Verb.RESTART_NODE, name, "it is crashed", name)
    elif not active_networks.issuperset(nic.network for nic in node.nics):
        # Its NICs lost their bridge for good: libvirt plugs them into a network only as the domain starts.
        yield Action(Verb.RESTART_NODE, name, "its network had gone", name)
    elif domain and _lacks_nics(domain, node):
        yield Action(Verb.RESTART_NODE, name, "its NICs are not all there", name)
    elif state is DomainState.PAUSED and not (domain and domain.faults):  # healing begins with letting it run
        yield Action(Verb.RESUME_NODE, name, "it is paused", name)


def _heal(name: str, domain: DomainInfo | None) -> Iterator[Action]:
    if domain and domain.faults:
        yield Action(Verb.HEAL_FAULTS, name, ", ".join(mark.kind for mark in domain.faults), name)


def _lacks_nics(domain: DomainInfo, node: NodeSpec) -> bool:
    return not {nic.mac for nic in node.nics}.issubset(nic.mac for nic in domain.nics)


def _connect(lab: LabSpec, node: NodeSpec, nic: NicInfo) -> Action:
    named = next((n.name for n in node.nics if n.mac == nic.mac), nic.network or network_name(lab.name, "?"))
    return Action(Verb.CONNECT_NIC, f"{node.name}.{named}", "its cable is pulled", node.name)
