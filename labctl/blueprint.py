"""What a lab is made from on its hypervisor: the digests of its parts, the way to it, and what that takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from labctl import images
from labctl.clock import Clock
from labctl.cluster.membership import join
from labctl.cluster.render import cluster_digest
from labctl.destroy import Silent, inventory
from labctl.errors import LabError
from labctl.faults import Ground, heal_node
from labctl.guest.agent import Guest
from labctl.guest.specialise import identity_digest
from labctl.hypervisor.seam import Hypervisor
from labctl.images import Recipe
from labctl.machines import MOST_NICS, Layer, Machine, Model, make_machine
from labctl.plan import Digests, Plan, plan_restore, plan_up
from labctl.ready import find_layers, find_ready
from labctl.render.xml import network_xml
from labctl.roles.role import digest_of_roles, providers
from labctl.topology.spec import LabSpec, NodeSpec, digest_of
from labctl.vault import load_secrets
from labctl.workshop import Bounds, Progress, Workshop, hardware_digest

__all__ = ["Blueprint"]


@dataclass(frozen=True)
class Blueprint:
    """How one lab is made on one hypervisor.

    Attributes:
        recipes: of the images that its nodes are clones of, by name.
        guest: makes the `Guest` of a node.
    """

    spec: LabSpec
    hypervisor: Hypervisor
    recipes: Mapping[str, Recipe]
    guest: Callable[[str], Guest]
    clock: Clock

    # -- what it is made from --------------------------------------------------------------------------------------

    def digests(self) -> dict[str, Digests]:
        """What each node must have been made from."""
        return {n.name: self._digests(n) for n in self.spec.nodes}

    def _digests(self, node: NodeSpec) -> Digests:
        recipe = self.recipes[node.image]
        hardware = hardware_digest(node, self.spec.accelerator, recipe.command_line)
        machine = digest_of(recipe.digest, hardware, node, digest_of_roles(self.spec, node))
        return Digests(machine, identity_digest(self.spec, node), cluster_digest(self.spec, node))

    def _network_digests(self) -> dict[str, str]:
        return {n.name: digest_of(network_xml("lab", n, "")) for n in self.spec.networks}

    def layers(self) -> dict[str, Layer]:
        """What new nodes can begin with, as far as it was saved."""
        secrets = load_secrets(self.hypervisor, self.spec.name)
        return find_layers(self.hypervisor, self.spec.name, self.digests(), secrets)

    # -- the way to it ---------------------------------------------------------------------------------------------

    def restoring(self) -> Plan | None:
        """The way from at most networks to the saved ready state; None where nodes are there, or no such state is."""
        there, pool = inventory(self.hypervisor).of(self.spec.name), self.hypervisor.pool()
        if there.domains or pool is None or find_ready(self.workshop(pool.path, Silent())) is None:
            return None
        return plan_restore(self.spec, there, networks=self._network_digests(), ready="from the saved ready state")

    def making(self, layers: Mapping[str, Layer], replace: Collection[str] = ()) -> Plan:
        """The way from whatever is there to the lab, without restoring it.

        Args:
            layers: what new nodes begin with; the others are clones of their parent.
            replace: nodes to make anew.
        """
        parents = {i: images.find(self.hypervisor, r) for i, r in self.recipes.items()}
        disks = {r.disk_name: i for i, r in self.recipes.items() if parents[i] is None}
        return plan_up(
            self.spec,
            inventory(self.hypervisor).of(self.spec.name),
            nodes=self.digests(),
            networks=self._network_digests(),
            missing_images=tuple(sorted(disks.values())),
            replace=replace,
            layers={node: layer.mark for node, layer in layers.items()},
            providers=providers(self.spec),
        )

    def workshop(
        self, directory: str, progress: Progress, *, forking: bool = False, layers: Mapping[str, Layer] | None = None
    ) -> Workshop:
        """All that carrying a plan out takes.

        Args:
            directory: of labctl's pool.
            forking: fork new nodes from a parent machine rather than boot them.
            layers: those that the plan was made with.
        """
        found = {i: images.find(self.hypervisor, r) for i, r in self.recipes.items()}
        bounds = Bounds.of(self.spec.accelerator)
        ground = Ground(self.spec, self.hypervisor, self.guest, self.clock, bounds.boot_s)
        return Workshop(
            lab=self.spec,
            hypervisor=self.hypervisor,
            directory=directory,
            recipes=self.recipes,
            parents={i: p for i, p in found.items() if p},
            digests=self.digests(),
            network_digests=self._network_digests(),
            guest=self.guest,
            build_image=lambda image: images.build(self.hypervisor, self.recipes[image], progress.note),
            machine=lambda node: self._machine(node, directory, progress) if forking else None,
            join=join,
            heal=lambda node: heal_node(node, ground),
            bounds=bounds,
            progress=progress,
            layers=layers or {},
            secrets=load_secrets(self.hypervisor, self.spec.name),
        )

    def _machine(self, node: NodeSpec, directory: str, progress: Progress) -> Machine | None:
        """What a new node is a fork of; None, with a word why, when it has to be booted."""
        recipe = self.recipes[node.image]
        parent = images.find(self.hypervisor, recipe)
        if parent is None or len(node.nics) > MOST_NICS:
            return None
        model = Model(parent, recipe, node.memory_mib, node.vcpus, self.spec.accelerator, directory)
        try:
            return make_machine(self.hypervisor, model, self.clock, progress.note)
        except LabError as failure:
            progress.note(f"{node.name}: no machine to be forked from, so it is booted: {failure}")
            return None
