"""What it takes to make a lab: the hypervisor, the parts at hand, the deadlines, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from labctl.guest.agent import Guest
from labctl.hypervisor.seam import Hypervisor
from labctl.images import Parent, Recipe
from labctl.inventory import Mark
from labctl.machines import Layer, Machine
from labctl.plan import Action, Digests
from labctl.render.names import console_log_name, network_name, overlay_name
from labctl.render.xml import DirectBoot, DomainPlan, NicPlan, domain_xml
from labctl.secrets import Secrets
from labctl.topology.spec import Accelerator, LabSpec, NodeSpec, digest_of

__all__ = ["SYNC_WITHIN_S", "Bounds", "Progress", "Workshop", "domain_plan", "hardware_digest"]

SYNC_WITHIN_S = 120.0  # several guests on one slow disk


class Progress(Protocol):
    """Who is told what happens; called from several threads."""

    def started(self, action: Action) -> None:
        """The action begins."""
        ...

    def done(self, action: Action) -> None:
        """The action ended well."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Deadlines, in seconds.

    They say when something is broken, not how fast it should be: five emulated guests booting on two cores are slow.
    """

    boot_s: float
    role_s: float

    @classmethod
    def of(cls, accelerator: Accelerator) -> Bounds:
        """What suits the accelerator."""
        return cls(boot_s=120, role_s=300) if accelerator is Accelerator.KVM else cls(boot_s=600, role_s=600)


Join = Callable[[Guest, LabSpec, NodeSpec], None]


@dataclass(frozen=True)
class Workshop:
    """All that the actions need.

    Attributes:
        directory: of labctl's pool, where consoles are logged.
        parents: by image name; filled as images are built.
        guest: makes the `Guest` of a node.
        machine: the parent machine that a node can be a fork of, made when need be; None if it has to be booted.
        join: makes a node a member of its clusters; the cluster layer gives it.
        heal: heals the faults that somebody left on a node; the fault layer gives it.
        secrets: of the lab, for what is rendered.
        ready: by node and role, done once the role serves.
        layers: by node, what a new one begins with rather than with a parent.
        machines: by node, what those that are new in this run are forks of.
    """

    lab: LabSpec
    hypervisor: Hypervisor
    directory: str
    recipes: Mapping[str, Recipe]
    parents: dict[str, Parent]
    digests: Mapping[str, Digests]
    network_digests: Mapping[str, str]
    guest: Callable[[str], Guest]
    build_image: Callable[[str], Parent]
    machine: Callable[[NodeSpec], Machine | None]
    join: Join
    heal: Callable[[str], None]
    bounds: Bounds
    progress: Progress
    layers: Mapping[str, Layer] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)
    ready: dict[tuple[str, str], Future[None]] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)


def domain_plan(shop: Workshop, node: NodeSpec) -> DomainPlan:
    """The domain of a node, as it is defined."""
    parent = shop.parents[node.image]
    boot = DirectBoot(parent.kernel.path, parent.initrd.path, shop.recipes[node.image].command_line)
    mark = Mark(shop.lab.name, node.name, shop.digests[node.name].machine)
    return _domain_plan(mark, node, shop.lab.accelerator, boot, shop.directory)


def hardware_digest(node: NodeSpec, accelerator: Accelerator, command_line: str) -> str:
    """Names a node's domain as labctl defines it, in a lab of any name, on any disk."""
    plan = _domain_plan(Mark("lab", node.name, ""), node, accelerator, DirectBoot("kernel", "initrd", command_line), "")
    return digest_of(domain_xml(plan))


def _domain_plan(mark: Mark, node: NodeSpec, accelerator: Accelerator, boot: DirectBoot, directory: str) -> DomainPlan:
    return DomainPlan(
        mark=mark,
        memory_mib=node.memory_mib,
        vcpus=node.vcpus,
        accelerator=accelerator,
        disk_path=f"{directory}/{overlay_name(mark.lab, node.name)}",
        disk_serial="root",
        nics=tuple(NicPlan(nic.mac, network_name(mark.lab, nic.network)) for nic in node.nics),
        boot=boot,
        console_log=f"{directory}/{console_log_name(mark.lab, node.name)}",
    )
