"""libvirt's XML: pure functions from values to definitions, in the order of libvirt's own schemas."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.errors import InputError
from labctl.inventory import Mark
from labctl.render.names import SSH_CHANNELS, bridge_name, domain_name, network_name
from labctl.render.templates import render_packaged
from labctl.topology.spec import Accelerator, NetworkSpec

__all__ = [
    "DirectBoot",
    "DomainPlan",
    "NicPlan",
    "base_xml",
    "domain_xml",
    "network_xml",
    "nic_xml",
    "overlay_xml",
    "pool_xml",
]


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that QEMU loads itself, without firmware or boot loader.

    Attributes:
        kernel: path of its volume.
        initrd: path of the initial ramdisk's volume, or empty.
        command_line: what the kernel is told.
    """

    kernel: str
    initrd: str
    command_line: str


@dataclass(frozen=True, slots=True)
class NicPlan:
    """A NIC to be made.

    Attributes:
        mac: lower case, colons.
        network: libvirt's name of the network it is on.
    """

    mac: str
    network: str


@dataclass(frozen=True, slots=True)
class DomainPlan:
    """A domain to be made.

    Attributes:
        mark: whose it is; the domain's name follows from it.
        disk_path: path of the overlay.
        disk_serial: what the guest finds the disk by (`/dev/disk/by-id/virtio-SERIAL`), 20 characters at most.
        boot: the kernel to start; None boots the disk's own boot loader.
        console_log: path of the file that keeps all that the serial console says, or None.
        uuid: that the domain is to have; libvirt chooses one when it is empty.
    """

    mark: Mark
    memory_mib: int
    vcpus: int
    accelerator: Accelerator
    disk_path: str
    disk_serial: str
    nics: tuple[NicPlan, ...] = ()
    boot: DirectBoot | None = None
    console_log: str | None = None
    uuid: str = ""


def domain_xml(plan: DomainPlan) -> str:
    """The definition of a node."""
    name = domain_name(plan.mark.lab, plan.mark.name)
    context = {"plan": plan, "name": name, "mark": plan.mark, "ssh_channels": SSH_CHANNELS}
    return render_packaged("domain.xml.j2", context)


def nic_xml(nic: NicPlan) -> str:
    """A NIC to be plugged into a running domain, into whichever port is free."""
    return render_packaged("nic.xml.j2", {"nic": nic})


def network_xml(lab: str, network: NetworkSpec, digest: str) -> str:
    """The definition of an isolated layer 2 network: a bridge without address, DHCP, DNS or way out."""
    return render_packaged(
        "network.xml.j2",
        {
            "name": network_name(lab, network.name),
            "mark": Mark(lab, network.name, digest),
            "bridge": bridge_name(lab, network.name),
            # Without a word for it, libvirt leaves IPv6 between guests to the host's own rules.
            "ipv6": network.subnet6 is not None,
        },
    )


def overlay_xml(name: str, capacity_bytes: int, backing_path: str) -> str:
    """A linked clone of the qcow2 volume at `backing_path`."""
    context = {"name": _plain(name), "capacity_bytes": capacity_bytes, "backing_path": backing_path}
    return render_packaged("overlay.xml.j2", context)


def base_xml(name: str, capacity_bytes: int, format: str) -> str:  # noqa: A002 -- libvirt's word
    """A volume that is uploaded into; `format` is `qcow2` or `raw`."""
    return render_packaged("base.xml.j2", {"name": _plain(name), "capacity_bytes": capacity_bytes, "format": format})


def pool_xml(name: str, directory: str) -> str:
    """A storage pool on a directory of the hypervisor's host."""
    return render_packaged("pool.xml.j2", {"name": _plain(name), "directory": directory})


def _plain(name: str) -> str:
    # A slash would lead out of the pool's directory; libvirt refuses it for some kinds of pool only.
    if not name or "/" in name:
        raise InputError(f"{name!r} can't name a pool or a volume: it is empty or holds a slash")
    return name
