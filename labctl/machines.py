"""Parent machines: a parent disk booted once, up to its agent, and saved with its RAM; nodes are forks of it.

A machine is two volumes in labctl's pool, `machine.IMAGE.DIGEST.qcow2` (an overlay on the parent disk, frozen) and
`machine.IMAGE.DIGEST.ram` (libvirt's save image). A fork is an overlay on the one and a copy of the other in whose
header name, UUID, disk and generation ID are its own; its NICs are plugged in while it is still paused. So five nodes
need one boot, not five. The digest names all that went into it: disk, hardware, command line, QEMU and libvirt.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree import ElementTree

from labctl import store
from labctl.clock import Clock, Deadline
from labctl.errors import HypervisorError
from labctl.guest.agent import Guest
from labctl.hypervisor.seam import Hypervisor
from labctl.images import Parent, Recipe
from labctl.inventory import PARENT_LAB, Mark, VolumeInfo
from labctl.render.names import domain_name, ram_name
from labctl.render.xml import DirectBoot, DomainPlan, NicPlan, base_xml, domain_xml, nic_xml, overlay_xml
from labctl.saveimage import HEADER_BYTES, SaveHeader, UnknownSaveFormat, read_length
from labctl.secrets import Secrets
from labctl.topology.spec import Accelerator, digest_of

__all__ = [
    "MOST_NICS",
    "Layer",
    "Machine",
    "Model",
    "find_machine",
    "fork",
    "load_machine",
    "make_machine",
    "remove_unused",
]

MOST_NICS = 4  # as many as a machine without any has spare ports for
BOOT_WITHIN_S = 600.0

# Until what starts with the machine has started, and it idles: whatever is left to do, every fork would do again.
# An init without such a notion is there when its agent is.
_SETTLE = """
! [ -d /run/systemd/system ] || systemctl is-system-running --wait
! command -v udevadm || udevadm settle
busy() { awk '/^cpu / {print $2 + $3 + $4 + $7 + $8}' /proc/stat; } # in hundredths of a second
for _ in $(seq 30); do
    before=$(busy); sleep 2
    [ $(($(busy) - before)) -gt 20 ] || break
done
sync
"""


@dataclass(frozen=True)
class Model:
    """What a machine is made from.

    Attributes:
        directory: of labctl's pool.
    """

    parent: Parent
    recipe: Recipe
    memory_mib: int
    vcpus: int
    accelerator: Accelerator
    directory: str

    def plan(self, mark: Mark, disk_path: str) -> DomainPlan:
        """The machine as a domain, without NICs."""
        return DomainPlan(
            mark=mark,
            memory_mib=self.memory_mib,
            vcpus=self.vcpus,
            accelerator=self.accelerator,
            disk_path=disk_path,
            disk_serial="root",
            boot=DirectBoot(self.parent.kernel.path, self.parent.initrd.path, self.recipe.command_line),
        )

    def digest(self, hypervisor: Hypervisor) -> str:
        """Names the machine that this makes on that hypervisor."""
        host = hypervisor.host()
        xml = domain_xml(self.plan(Mark(PARENT_LAB, "machine", ""), self.parent.disk.path))
        return digest_of(xml, host.hypervisor_version, host.libvirt_version, _SETTLE)[:12]


@dataclass(frozen=True)
class Machine:
    """A saved machine: the frozen disk under its forks, and the RAM that they go on with."""

    disk: VolumeInfo
    ram: VolumeInfo
    header: SaveHeader

    @property
    def domain(self) -> tuple[str, str]:
        """Name and UUID of the domain that was saved; that one can go on from the RAM as it is, without a copy."""
        root = ElementTree.fromstring(self.header.xml)
        return root.findtext("name", ""), root.findtext("uuid", "")


@dataclass(frozen=True)
class Layer:
    """The frozen disk of a node whose roles had been applied, for a new node of the same to begin with.

    Attributes:
        mark: how far the new node is with it.
        machine: its RAM as well, to be forked from; None when it has to be booted.
        why_boot: why it has to be, for people; empty otherwise.
        secrets: of the lab that it was saved from, which are on the disk.
    """

    mark: Mark
    disk: VolumeInfo
    machine: Machine | None
    why_boot: str = ""
    secrets: Secrets = field(default_factory=Secrets)


def find_machine(hypervisor: Hypervisor, model: Model) -> Machine | None:
    """The machine of this model, or None when it isn't there, or was not saved to its end."""
    return load_machine(hypervisor, *_names(model, model.digest(hypervisor)))


def make_machine(hypervisor: Hypervisor, model: Model, clock: Clock, say: Callable[[str], None]) -> Machine:
    """Boot the parent once and save it, unless that was done before.

    Raises:
        LabError: it does not boot, or can't be saved or read back; nothing of it is left behind.
    """
    digest = model.digest(hypervisor)
    with store.locked(f"machine-{digest}", lambda: say("another labctl boots the parent machine: waiting for it")):
        there = find_machine(hypervisor, model)
        if there:
            return there
        say(f"booting {model.recipe.name} with {model.memory_mib} MiB once; nodes are forks of it")
        mark = Mark(PARENT_LAB, digest, digest)
        _remove(hypervisor, model, mark)
        try:
            _boot_and_save(hypervisor, model, mark, clock)
            machine = find_machine(hypervisor, model)
            if machine is None:
                raise UnknownSaveFormat(
                    f"{model.recipe.name}: the save image of its machine is of a kind unknown to us"
                )
        except BaseException:
            _remove(hypervisor, model, mark)
            raise
        hypervisor.remove_domain(domain_name(mark.lab, mark.name))
        return machine


def load_machine(hypervisor: Hypervisor, disk_name: str, saved_name: str) -> Machine | None:
    """A machine by its two volumes, or None when one isn't there, or was not saved to its end."""
    disk, ram = hypervisor.volume(disk_name), hypervisor.volume(saved_name)
    if disk is None or ram is None:
        return None
    try:
        return Machine(disk, ram, _header(hypervisor, saved_name))
    except UnknownSaveFormat:
        return None


def fork(hypervisor: Hypervisor, machine: Machine, plan: DomainPlan, *, paused: bool = False) -> None:
    """Start a defined domain, whose disk is an overlay on the machine's, as a copy of the running machine.

    Args:
        plan: that the domain was defined with.
        paused: leave it paused, for several to go on together.

    Raises:
        LabError: it could not be started; it is off.
    """
    name = domain_name(plan.mark.lab, plan.mark.name)
    domain = hypervisor.domain(name)
    if domain is None:
        raise HypervisorError(f"domain {name}: it vanished while it was set up")
    copy = ram_name(plan.mark.lab, plan.mark.name)
    try:
        ram = _copy_ram(hypervisor, machine, copy)
        hypervisor.write_volume(copy, 0, machine.header.with_xml(_as_domain(machine.header.xml, plan, domain.uuid)))
        hypervisor.restore_domain(ram.path, paused=True)
        saved_macs = machine.header.xml.lower()
        _plug_in(hypervisor, name, tuple(nic for nic in plan.nics if nic.mac not in saved_macs))
        if not paused:
            hypervisor.resume(name)
    except BaseException:
        hypervisor.power_off(name)
        raise
    finally:
        hypervisor.remove_volume(copy)


def _copy_ram(hypervisor: Hypervisor, machine: Machine, name: str) -> VolumeInfo:
    xml = base_xml(name, machine.ram.capacity_bytes, "raw")
    try:
        return hypervisor.copy_volume(machine.ram.name, xml)
    except HypervisorError:
        # Looking for what a crash may have left takes a refresh, which waits for all copies under way: not in advance.
        if hypervisor.volume(name) is None:
            raise
        hypervisor.remove_volume(name)
        return hypervisor.copy_volume(machine.ram.name, xml)


def remove_unused(hypervisor: Hypervisor, parent: Parent) -> None:
    """Remove the machines on a parent disk that no node stands on."""
    volumes = hypervisor.volumes()
    for disk in volumes:
        mine = disk.backing_path == parent.disk.path and disk.name.startswith("machine.")
        if mine and not any(v.backing_path == disk.path for v in volumes):
            hypervisor.remove_volume(f"{disk.name.removesuffix('.qcow2')}.ram")
            hypervisor.remove_volume(disk.name)


def _names(model: Model, digest: str) -> tuple[str, str]:
    stem = f"machine.{model.recipe.name}.{digest}"
    return f"{stem}.qcow2", f"{stem}.ram"


def _boot_and_save(hypervisor: Hypervisor, model: Model, mark: Mark, clock: Clock) -> None:
    disk_name, saved_name = _names(model, mark.digest)
    parent = model.parent.disk
    disk = hypervisor.create_volume(overlay_xml(disk_name, parent.capacity_bytes, parent.path))
    hypervisor.define_domain(domain_xml(model.plan(mark, disk.path)))
    name = domain_name(mark.lab, mark.name)
    hypervisor.start_domain(name)
    guest = Guest(hypervisor, f"parent machine {model.recipe.name}", name, clock=clock)
    guest.wait_for_agent(Deadline.within(BOOT_WITHIN_S, clock))
    guest.run(["/bin/sh", "-c", _SETTLE], within_s=BOOT_WITHIN_S)
    hypervisor.save_domain(name, f"{model.directory}/{saved_name}")


def _remove(hypervisor: Hypervisor, model: Model, mark: Mark) -> None:
    """Whatever an interrupted boot left."""
    name = domain_name(mark.lab, mark.name)
    left = hypervisor.domain(name)
    if left and left.mark and left.mark.lab == PARENT_LAB:
        hypervisor.remove_domain(name)
    for volume in _names(model, mark.digest):
        hypervisor.remove_volume(volume)


def _header(hypervisor: Hypervisor, saved_name: str) -> SaveHeader:
    start = b"".join(hypervisor.download_volume(saved_name, length=HEADER_BYTES))
    length = HEADER_BYTES + read_length(start)
    return SaveHeader.parse(b"".join(hypervisor.download_volume(saved_name, length=length)))


def _as_domain(xml: str, plan: DomainPlan, domain_uuid: str) -> str:
    """The saved machine's XML as that of the fork: all that is its own, and nothing that RAM and devices depend on."""
    root = ElementTree.fromstring(xml)
    _set(root, "name", domain_name(plan.mark.lab, plan.mark.name))
    _set(root, "uuid", domain_uuid)
    # Another generation ID than the one in the saved RAM: the kernel reseeds its random numbers when it sees it.
    _set(root, "genid", str(uuid.uuid4()))
    metadata = root.find("metadata")
    if metadata is None:
        raise UnknownSaveFormat("save image: its XML is without metadata")
    metadata.clear()
    metadata.append(ElementTree.fromstring(plan.mark.xml()))
    source = root.find("./devices/disk/source")
    serial = root.find("./devices/serial")
    if source is None or serial is None:
        raise UnknownSaveFormat("save image: its XML is without a disk or a serial console")
    source.set("file", plan.disk_path)
    for log in serial.findall("log"):
        serial.remove(log)
    if plan.console_log:
        serial.insert(0, ElementTree.Element("log", {"file": plan.console_log, "append": "on"}))
    for interface in root.iterfind("./devices/interface"):
        _rewire(interface, {nic.mac: nic.network for nic in plan.nics})
    return ElementTree.tostring(root, encoding="unicode")


def _rewire(interface: ElementTree.Element, networks: dict[str, str]) -> None:
    """Put a saved NIC on the network of its new lab; what it was plugged into there is nobody's any more."""
    mac, source = interface.find("mac"), interface.find("source")
    if mac is None or source is None or mac.get("address", "").lower() not in networks:
        raise UnknownSaveFormat("save image: its XML has a NIC that the node doesn't have")
    source.attrib.clear()
    source.set("network", networks[mac.get("address", "").lower()])
    for target in interface.findall("target"):
        interface.remove(target)


def _set(root: ElementTree.Element, tag: str, text: str) -> None:
    element = root.find(tag)
    if element is None:
        raise UnknownSaveFormat(f"save image: its XML is without {tag}")
    element.text = text


def _plug_in(hypervisor: Hypervisor, name: str, nics: tuple[NicPlan, ...]) -> None:
    for nic in nics:
        hypervisor.attach_nic(name, nic_xml(nic))
