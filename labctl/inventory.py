"""What libvirt holds: values that say which domains, networks and volumes there are and to which lab each belongs.

libvirt is the only database. A domain and a network carry a `Mark` in their metadata; a volume carries the lab's name
in its own name (`lab.LAB.…`), since libvirt gives volumes no metadata. What has neither is somebody else's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from xml.etree import ElementTree

__all__ = [
    "FAULTS_NAMESPACE",
    "MARK_NAMESPACE",
    "PARENT_LAB",
    "DomainInfo",
    "DomainState",
    "FaultMark",
    "HostFacts",
    "Inventory",
    "Mark",
    "NetworkInfo",
    "NicInfo",
    "PoolInfo",
    "Stage",
    "VolumeInfo",
    "lab_of_volume",
]

MARK_NAMESPACE = "https://labctl.test/xmlns/mark/1"
FAULTS_NAMESPACE = "https://labctl.test/xmlns/faults/1"
PARENT_LAB = "-parent"  # owns parent machines while they boot; no lab can have that name


class Stage(StrEnum):
    """How far a node has come; kept in its domain's metadata, so that a crash is taken up where it happened."""

    DEFINED = "defined"  # disk and domain are there
    SPECIALISED = "specialised"  # it has its own identity and addresses
    READY = "ready"  # its roles are applied and have answered their readiness checks


class DomainState(StrEnum):
    """virDomainState, as far as labctl tells states apart."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut off"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Mark:
    """What makes an object the lab's own.

    Attributes:
        lab: the lab's name.
        name: the node's or network's name in the topology.
        digest: of the spec that the object was made from; another digest means it must be made anew.
        stage: of a node; always DEFINED for a network.
        identity: digest of the identity that a node was specialised with; empty before.
        cluster: digest of the cluster files that a node runs with; empty when it runs none.
    """

    lab: str
    name: str
    digest: str
    stage: Stage = Stage.DEFINED
    identity: str = ""
    cluster: str = ""

    def xml(self) -> str:
        """The metadata element, in `MARK_NAMESPACE`."""
        element = ElementTree.Element(f"{{{MARK_NAMESPACE}}}mark", {k: str(v) for k, v in asdict(self).items()})
        return ElementTree.tostring(element, encoding="unicode")

    @classmethod
    def find(cls, xml: str) -> Mark | None:
        """The mark inside a domain's or network's XML, or None if it is somebody else's."""
        element = ElementTree.fromstring(xml).find(f"./metadata/{{{MARK_NAMESPACE}}}mark")
        if element is None:
            return None
        return cls(**{**element.attrib, "stage": Stage(element.attrib["stage"])})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class FaultMark:
    """A fault that was begun and is not known to be healed; in the metadata of each domain that it was done to.

    It is written before the fault is done and removed when its heal was seen, so it outlives whoever did it.

    Attributes:
        kind, target: as the history names the fault.
        fault: the fault itself, as `faults.model.dump` writes it.
        before: what its heal has to know of the time before, as a JSON object.
        since: the calendar time at which it was begun, ISO 8601.
    """

    kind: str
    target: str
    fault: str
    before: str = "{}"
    since: str = ""

    @staticmethod
    def xml(marks: tuple[FaultMark, ...]) -> str:
        """The metadata element that holds all marks of a domain, in `FAULTS_NAMESPACE`."""
        text = json.dumps([asdict(mark) for mark in marks])
        return ElementTree.tostring(
            ElementTree.Element(f"{{{FAULTS_NAMESPACE}}}faults", marks=text), encoding="unicode"
        )

    @classmethod
    def find(cls, xml: str) -> tuple[FaultMark, ...]:
        """The marks inside a domain's XML."""
        element = ElementTree.fromstring(xml).find(f"./metadata/{{{FAULTS_NAMESPACE}}}faults")
        return tuple(cls(**values) for values in json.loads(element.attrib["marks"])) if element is not None else ()


@dataclass(frozen=True, slots=True)
class NicInfo:
    """A NIC as the hypervisor sees it.

    Attributes:
        mac: lower case, colons.
        network: libvirt's name of the network it is on.
        tap: the host side's device name while the domain runs, else empty.
        link_up: whether the virtual cable is plugged in.
    """

    mac: str
    network: str
    tap: str
    link_up: bool


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """A domain, the lab's own or not (`mark` is None)."""

    name: str
    uuid: str
    state: DomainState
    mark: Mark | None
    nics: tuple[NicInfo, ...] = ()
    disks: tuple[str, ...] = ()  # paths of the volumes it uses, kernel and initial ramdisk included
    faults: tuple[FaultMark, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A virtual network, the lab's own or not (`mark` is None)."""

    name: str
    uuid: str
    active: bool
    bridge: str
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """labctl's storage pool, as it is now.

    Attributes:
        path: the directory it is on, on the hypervisor's host.
        available_bytes: free in the file system under it; 0 when it is not active.
    """

    name: str
    path: str
    active: bool
    available_bytes: int


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume in labctl's pool.

    Attributes:
        capacity_bytes: what a guest sees.
        allocation_bytes: what it takes on the host.
        backing_path: of the volume under it, or empty.
    """

    name: str
    path: str
    capacity_bytes: int
    allocation_bytes: int
    backing_path: str = ""

    @property
    def lab(self) -> str | None:
        """The lab that owns it, or None (a parent disk, or somebody else's)."""
        return lab_of_volume(self.name)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the hypervisor says of its host.

    Attributes:
        libvirt_version: (major, minor, release) of the daemon.
        hypervisor_version: the same of QEMU (or of the test driver).
        offers_kvm: whether libvirt offers KVM domains; that it works is not said.
        virtualization: whether the host's CPU, as libvirt describes it, has vmx or svm.
        memory_mib: of the whole host.
        cpus: active logical CPUs.
    """

    libvirt_version: tuple[int, int, int]
    hypervisor_version: tuple[int, int, int]
    offers_kvm: bool
    virtualization: bool
    memory_mib: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that libvirt holds, at one moment."""

    domains: tuple[DomainInfo, ...] = ()
    networks: tuple[NetworkInfo, ...] = ()
    volumes: tuple[VolumeInfo, ...] = ()

    def of(self, lab: str) -> Inventory:
        """The part that `lab` owns."""
        return Inventory(
            tuple(d for d in self.domains if d.mark and d.mark.lab == lab),
            tuple(n for n in self.networks if n.mark and n.mark.lab == lab),
            tuple(v for v in self.volumes if v.lab == lab),
        )

    @property
    def labs(self) -> tuple[str, ...]:
        """The names of all labs that own anything, sorted."""
        marks = [d.mark for d in self.domains] + [n.mark for n in self.networks]
        return tuple(
            sorted({*(m.lab for m in marks if m and m.lab != PARENT_LAB), *(v.lab for v in self.volumes if v.lab)})
        )

    def domain(self, node: str) -> DomainInfo | None:
        """The domain marked as that node; only meaningful in the part of one lab (`of`)."""
        return next((d for d in self.domains if d.mark and d.mark.name == node), None)

    def network(self, name: str) -> NetworkInfo | None:
        """The network marked with that name; only meaningful in the part of one lab (`of`)."""
        return next((n for n in self.networks if n.mark and n.mark.name == name), None)


def lab_of_volume(name: str) -> str | None:
    """The lab in a volume's name (`lab.LAB.NODE.qcow2`), or None."""
    parts = name.split(".")
    return parts[1] if len(parts) >= 4 and parts[0] == "lab" else None
