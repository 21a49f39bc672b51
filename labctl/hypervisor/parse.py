"""libvirt's XML, read: pure functions that turn descriptions into values. `libvirt_api` and `fake` share them."""

from __future__ import annotations

from xml.etree import ElementTree

from labctl.errors import HypervisorError
from labctl.inventory import DomainInfo, DomainState, FaultMark, Mark, NetworkInfo, NicInfo, VolumeInfo

__all__ = [
    "domain_info",
    "has_virtualization",
    "interface_with_link",
    "interface_xml",
    "name_of",
    "network_info",
    "nic_info",
    "offers_kvm",
    "pool_path",
    "volume_info",
    "written_bytes",
]


def name_of(xml: str) -> str:
    """The name in a definition of any kind.

    Raises:
        HypervisorError: it isn't XML, or has no name, or a name that holds a slash.
    """
    try:
        name = ElementTree.fromstring(xml).findtext("name", "")
    except ElementTree.ParseError as error:
        raise HypervisorError(f"a definition is not XML: {error}") from error
    if not name or "/" in name:
        raise HypervisorError(f"a definition names its object {name!r}: a name without a slash is needed")
    return name


def domain_info(xml: str, state: DomainState) -> DomainInfo:
    """A domain's description, as virDomainGetXMLDesc gives it."""
    root = ElementTree.fromstring(xml)
    return DomainInfo(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        state=state,
        mark=Mark.find(xml),
        nics=tuple(nic_info(i, state) for i in root.iterfind("./devices/interface")),
        disks=_paths(root),
        faults=FaultMark.find(xml),
    )


def nic_info(interface: ElementTree.Element, state: DomainState) -> NicInfo:
    """A NIC from its XML; `state` is its domain's."""
    return NicInfo(
        mac=_attribute(interface, "mac", "address").lower(),
        network=_attribute(interface, "source", "network"),
        # The test driver names a host device also for a domain that is off.
        tap="" if state is DomainState.SHUT_OFF else _attribute(interface, "target", "dev"),
        link_up=_attribute(interface, "link", "state") != "down",
    )


def _paths(domain: ElementTree.Element) -> tuple[str, ...]:
    sources = [s.get("file") or s.get("dev") for s in domain.iterfind("./devices/disk/source")]
    return tuple(p for p in (*sources, domain.findtext("./os/kernel"), domain.findtext("./os/initrd")) if p)


def _attribute(element: ElementTree.Element, child: str, name: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(name, "")


def interface_with_link(xml: str, mac: str, *, up: bool) -> str | None:
    """A domain's interface with that MAC as virDomainUpdateDeviceFlags wants it: all as it is but the link's state.

    None when the domain has no such interface.
    """
    interface = _interface(xml, mac)
    if interface is None:
        return None
    link = interface.find("link")
    link = ElementTree.SubElement(interface, "link") if link is None else link
    link.set("state", "up" if up else "down")
    return ElementTree.tostring(interface, encoding="unicode")


def interface_xml(xml: str, mac: str) -> str | None:
    """A domain's interface with that MAC, as virDomainDetachDeviceFlags wants it; None when it has none such."""
    interface = _interface(xml, mac)
    return None if interface is None else ElementTree.tostring(interface, encoding="unicode")


def _interface(xml: str, mac: str) -> ElementTree.Element | None:
    interfaces = ElementTree.fromstring(xml).iterfind("./devices/interface")
    return next((i for i in interfaces if _attribute(i, "mac", "address").lower() == mac.lower()), None)


def network_info(xml: str, *, active: bool) -> NetworkInfo:
    """A network's description, as virNetworkGetXMLDesc gives it."""
    root = ElementTree.fromstring(xml)
    return NetworkInfo(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        active=active,
        bridge=_attribute(root, "bridge", "name"),
        mark=Mark.find(xml),
    )


def volume_info(xml: str) -> VolumeInfo:
    """A volume's description, as virStorageVolGetXMLDesc gives it: all sizes in bytes."""
    root = ElementTree.fromstring(xml)
    return VolumeInfo(
        name=root.findtext("name", ""),
        path=root.findtext("./target/path", ""),
        capacity_bytes=int(root.findtext("capacity", "0")),
        allocation_bytes=int(root.findtext("allocation", "0")),
        backing_path=root.findtext("./backingStore/path", ""),
    )


def written_bytes(xml: str) -> int:
    """How far a volume's file may hold data already: its length, or 0 when it takes no room at all."""
    root = ElementTree.fromstring(xml)
    taken = int(root.findtext("allocation", "0"))
    return int(root.findtext("physical", str(taken))) if taken else 0


def pool_path(xml: str) -> str:
    """The directory in a pool's description."""
    return ElementTree.fromstring(xml).findtext("./target/path", "")


def offers_kvm(capabilities: str) -> bool:
    """Whether virConnectGetCapabilities offers domains of type `kvm`."""
    return ElementTree.fromstring(capabilities).find("./guest/arch/domain[@type='kvm']") is not None


def has_virtualization(cpu: str) -> bool:
    """Whether a `<cpu>` has Intel's or AMD's extension; its model's features must be spelled out."""
    features = ElementTree.fromstring(cpu).iterfind("./feature")
    return any(f.get("name") in {"vmx", "svm"} and f.get("policy") != "disable" for f in features)
