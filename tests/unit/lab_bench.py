"""A lab on the fake hypervisor: specs without YAML, parent disks that need no build, and a scripted guest per node."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv4Network

from scripted_guest import ScriptedGuest

from labctl.hypervisor.fake import Agent, FakeHypervisor
from labctl.images import MANIFEST_ROOM_BYTES, Manifest, Recipe, load_recipe
from labctl.inventory import (
    PARENT_LAB,
    DomainInfo,
    DomainState,
    Inventory,
    Mark,
    NetworkInfo,
    NicInfo,
    Stage,
    VolumeInfo,
)
from labctl.lab import Lab
from labctl.plan import Action, Digests
from labctl.record import Record
from labctl.render.names import domain_name, network_name, overlay_name
from labctl.render.xml import base_xml
from labctl.topology.spec import (
    Accelerator,
    Affinity,
    ClusterMode,
    ClusterSpec,
    Filtering,
    Heartbeat,
    LabSpec,
    MemberSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    PortRule,
    RuleProtocol,
)

HTTPS = PortRule(443, 443, RuleProtocol.TCP, Filtering.MULTIPLE)


def node_spec(name: str, number: int, *, roles: tuple[str, ...] = (), image: str = "micro") -> NodeSpec:
    """A node with one NIC, `eth0`, on the network `lan`."""
    nic = NicSpec("eth0", "lan", f"52:54:00:00:00:{number:02x}", IPv4Interface(f"10.9.0.{number}/24"))
    return NodeSpec(name, f"{name}.lab.test", image, roles, 256, 1, (nic,))


def cluster_spec(
    *nodes: str, mode: ClusterMode = ClusterMode.UNICAST, rules: tuple[PortRule, ...] = (HTTPS,)
) -> ClusterSpec:
    """A cluster `web` of those nodes, with the host IDs 1, 2, …"""
    members = tuple(MemberSpec(node, number, "eth0") for number, node in enumerate(nodes, 1))
    address = IPv4Interface("10.9.0.200/24")
    return ClusterSpec("web", "lan", address, "web.lab.test", mode, Heartbeat(500, 5), members, rules)


def lab_spec(*nodes: NodeSpec, clusters: tuple[ClusterSpec, ...] = (), name: str = "lab") -> LabSpec:
    """A lab of those nodes on one network."""
    networks = (NetworkSpec("lan", IPv4Network("10.9.0.0/24")),)
    return LabSpec(name, "lab.test", "UTC", Accelerator.TCG, networks, nodes, clusters)


# -- what is there, without a hypervisor -------------------------------------------------------------------------------

MADE = Digests(machine="machine", identity="identity", cluster="cluster")


def digests(lab: LabSpec) -> dict[str, Digests]:
    """Of every node, the same; no cluster digest for nodes in no cluster."""
    return {n.name: MADE if lab.clusters_of(n.name) else replace(MADE, cluster="") for n in lab.nodes}


def all_up(lab: LabSpec) -> Inventory:
    """What libvirt holds when nothing is left to do."""
    return Inventory(
        tuple(_domain(lab, node) for node in lab.nodes),
        tuple(
            NetworkInfo(network_name(lab.name, n.name), "", True, "br", Mark(lab.name, n.name, "network"))
            for n in lab.networks
        ),
        tuple(VolumeInfo(overlay_name(lab.name, n.name), "", 1, 1) for n in lab.nodes),
    )


def _domain(lab: LabSpec, node: NodeSpec) -> DomainInfo:
    made = digests(lab)[node.name]
    mark = Mark(lab.name, node.name, made.machine, Stage.READY, made.identity, made.cluster)
    nics = tuple(NicInfo(n.mac, network_name(lab.name, n.network), "vnet0", True) for n in node.nics)
    return DomainInfo(domain_name(lab.name, node.name), "", DomainState.RUNNING, mark, nics)


# -- a lab on the fake -------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """Progress that is kept, as "started create node m1"."""

    lines: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def started(self, action: Action) -> None:
        self.note(f"started {action.verb} {action.target}")

    def done(self, action: Action) -> None:
        self.note(f"done {action.verb} {action.target}")

    def note(self, text: str) -> None:
        with self._lock:
            self.lines.append(text)


@functools.cache
def micro() -> Recipe:
    """The recipe of the tiny guest, read once."""
    return load_recipe("micro")


class Agents(dict[str, Agent]):
    """Agents by domain; parent machines, whose names nobody knows beforehand, all have the same."""

    def __init__(self) -> None:
        super().__init__()
        self._parent = ScriptedGuest()

    def get(self, domain: str, default: Agent | None = None) -> Agent | None:  # type: ignore[override]
        """The agent of a domain."""
        return super().get(domain, self._parent if domain.startswith(f"{PARENT_LAB}.") else default)


@dataclass
class Bench:
    """A fake hypervisor on which every node of every lab has a guest that answers."""

    hypervisor: FakeHypervisor = field(default_factory=FakeHypervisor)
    guests: dict[str, ScriptedGuest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hypervisor.agents = Agents()

    def parent(self, recipe: Recipe | None = None, *, contents: bytes = b"") -> str:
        """Put a complete parent disk into the pool; returns its volume's name."""
        recipe = recipe or micro()
        self.hypervisor.ensure_pool()
        for part in ("qcow2", "vmlinuz", "initrd"):
            self.hypervisor.create_volume(base_xml(recipe.volume(part), 1 << 20, "qcow2" if part == "qcow2" else "raw"))
        self._fill(recipe.volume("qcow2"), contents)
        sha256 = hashlib.sha256(contents).hexdigest()
        manifest = Manifest(recipe.disk_name, recipe.digest, sha256, 1, 1 << 20, "6.12", 1.0, (("nginx", "1.26"),))
        self.hypervisor.create_volume(base_xml(recipe.volume("manifest"), MANIFEST_ROOM_BYTES, "raw"))
        self._fill(recipe.volume("manifest"), manifest.encode())
        return recipe.volume("qcow2")

    def _fill(self, volume: str, data: bytes) -> None:
        self.hypervisor.upload_volume(volume, io.BytesIO(data), len(data), lambda _sent: None)

    def guests_of(self, spec: LabSpec) -> None:
        """Let the guests of a lab answer, and its members see each other, once they run."""
        for node in spec.nodes:
            guest = self.guests[node.name] = ScriptedGuest()
            self.hypervisor.agents[domain_name(spec.name, node.name)] = guest
            for cluster in spec.clusters_of(node.name):
                guest.sees(*(m.priority for m in cluster.members))

    def lab(self, spec: LabSpec) -> Lab:
        """A lab whose guests answer."""
        self.guests_of(spec)
        return Lab(spec, self.hypervisor, Record("lab.yaml", "lab: lab\n", spec.accelerator))


def pair() -> LabSpec:
    """Two members and a client."""
    nodes = (node_spec("m1", 1, roles=("web-server",)), node_spec("m2", 2, roles=("web-server",)), node_spec("c", 9))
    return lab_spec(*nodes, clusters=(cluster_spec("m1", "m2"),))


__all__ = [
    "HTTPS",
    "MADE",
    "Affinity",
    "Bench",
    "Heard",
    "all_up",
    "cluster_spec",
    "digests",
    "lab_spec",
    "micro",
    "node_spec",
    "pair",
]
