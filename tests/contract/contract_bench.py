"""A hypervisor under test, and what to build on it with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import Mark
from labctl.render.names import domain_name, network_name, overlay_name
from labctl.render.xml import DomainPlan, NicPlan, base_xml, domain_xml, network_xml, overlay_xml
from labctl.topology.spec import Accelerator, NetworkSpec

LAB = f"contract{os.getpid()}"
DISK_BYTES = 1 << 20
MAC = "52:54:00:c0:ff:01"


@dataclass(frozen=True)
class Bench:
    """A hypervisor to test, and what to build on it with."""

    hypervisor: Hypervisor
    directory: Path
    domain_type: str
    add_file: Callable[[str, bytes], None]

    def mark(self, name: str) -> Mark:
        return Mark(LAB, name, "0123456789abcdef")

    def disk(self, node: str) -> str:
        """The path of a node's overlay, on a parent of its own."""
        self.hypervisor.ensure_pool()
        parent = self.hypervisor.create_volume(base_xml(f"{LAB}-parent-{node}", DISK_BYTES, "qcow2"))
        overlay = overlay_xml(overlay_name(LAB, node), DISK_BYTES, parent.path)
        return self.hypervisor.create_volume(overlay).path

    def network(self, name: str = "lan", *, start: bool = True) -> str:
        """A network, by default started; returns libvirt's name of it."""
        self.hypervisor.define_network(network_xml(LAB, NetworkSpec(name, IPv4Network("192.0.2.0/24")), "0123"))
        if start:
            self.hypervisor.start_network(network_name(LAB, name))
        return network_name(LAB, name)

    def domain_xml(self, node: str, disk: str = "/dev/null", network: str | None = None) -> str:
        """A tiny node that boots into firmware and finds nothing to start."""
        nics = (NicPlan(MAC, network),) if network else ()
        plan = DomainPlan(self.mark(node), 32, 1, Accelerator.TCG, disk, "root", nics)
        return self._as_test(plan) if self.domain_type == "test" else domain_xml(plan)

    def _as_test(self, plan: DomainPlan) -> str:
        nics = "".join(
            f"<interface type='network'><mac address='{n.mac}'/><source network='{n.network}'/></interface>"
            for n in plan.nics
        )
        disk = f"<disk type='file'><source file='{plan.disk_path}'/><target dev='vda' bus='virtio'/></disk>"
        return (
            f"<domain type='test'><name>{domain_name(LAB, plan.mark.name)}</name><metadata>{plan.mark.xml()}</metadata>"
            f"<memory>32768</memory><os><type>hvm</type></os><devices>{disk}{nics}</devices></domain>"
        )

    def foreign_domain_xml(self) -> str:
        return (
            f"<domain type='{self.domain_type}'><name>{LAB}-foreign</name>"
            "<memory>32768</memory><os><type>hvm</type></os></domain>"
        )

    def node(self, node: str = "n1", network: str | None = None) -> str:
        """A defined node with an empty disk; returns its domain's name."""
        self.hypervisor.define_domain(self.domain_xml(node, self.disk(node), network))
        return domain_name(LAB, node)

    def left_over(self) -> set[str]:
        """The names of all that this run has made and not removed."""
        held = (*self.hypervisor.domains(), *self.hypervisor.networks(), *self.hypervisor.volumes())
        return {i.name for i in held if LAB in i.name}

    def tidy(self) -> None:
        """Remove all that this run has made, in any order that works."""
        for domain in self.hypervisor.domains():
            if LAB in domain.name:
                self.hypervisor.remove_domain(domain.name)
        for network in self.hypervisor.networks():
            if LAB in network.name:
                self.hypervisor.remove_network(network.name)
        for volume in self.hypervisor.volumes():
            self.hypervisor.remove_volume(volume.name)
