"""The real hypervisor: libvirt behind the seam.

Only this module and the two that it is made of, `libvirt_storage` and `libvirt_calls`, import libvirt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from labctl.errors import AgentGone, ChannelTaken, GuestError, HypervisorError
from labctl.hypervisor import parse
from labctl.hypervisor.libvirt_calls import Connection, LibvirtConsole, found, saying, settle, unsupported
from labctl.hypervisor.libvirt_storage import LibvirtStorage
from labctl.inventory import (
    FAULTS_NAMESPACE,
    MARK_NAMESPACE,
    DomainInfo,
    DomainState,
    FaultMark,
    HostFacts,
    Mark,
    NetworkInfo,
)

__all__ = ["POOL_DIRECTORY", "LibvirtHypervisor", "connect"]

POOL_DIRECTORY = "/var/lib/libvirt/images/labctl"

_STATES = {
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}
# Since libvirt 11.2; as numbers, since a binding that was built against an older one lacks the names.
_AGENT_COMMAND_TIMEOUT, _AGENT_COMMAND_FAILED = 112, 113
_AGENT_GONE = {
    _AGENT_COMMAND_TIMEOUT,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,  # the domain has no agent channel
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_OPERATION_INVALID,  # the domain is off
    libvirt.VIR_ERR_OPERATION_TIMEOUT,  # another agent command holds the domain
}
_UNDEFINE_BASIC = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
_UNDEFINE_ALL = _UNDEFINE_BASIC | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA


def connect(uri: str, pool: str = "labctl", directory: str = POOL_DIRECTORY) -> LibvirtHypervisor:
    """Connect to a hypervisor.

    Args:
        uri: as libvirt takes it: `qemu:///system`, `qemu+ssh://host/system`.
        pool: the storage pool to work in.
        directory: where `ensure_pool` puts that pool when there is none of its name.
    """
    # libvirt prints every error to standard error unless told otherwise; here each is raised, once.
    libvirt.registerErrorHandler(lambda *_: None, None)
    with saying(f"connection to {uri}"):
        return LibvirtHypervisor(Connection(uri), pool, directory)


class LibvirtHypervisor(LibvirtStorage):
    """libvirt behind the seam; `connect` makes one."""

    def __init__(self, connection: Connection, pool: str, directory: str) -> None:
        super().__init__(connection, pool, directory)
        self.uri = connection.uri

    def close(self) -> None:
        with saying(f"connection to {self.uri}"):
            self._link.close()

    def host(self) -> HostFacts:
        with saying(f"connection to {self.uri}"):
            capabilities = self._connection.getCapabilities()
            _, memory_mib, cpus, *_ = self._connection.getInfo()
            return HostFacts(
                libvirt_version=_version(self._connection.getLibVersion()),
                hypervisor_version=_version(self._connection.getVersion()),
                offers_kvm=parse.offers_kvm(capabilities),
                virtualization=self._has_virtualization(capabilities),
                memory_mib=memory_mib,
                cpus=cpus,
            )

    def _has_virtualization(self, capabilities: str) -> bool:
        cpu = ElementTree.fromstring(capabilities).find("./host/cpu")
        if cpu is None or cpu.find("model") is None:
            return False
        # AMD's models hold svm unsaid; the baseline of a single CPU is that CPU with all its features said.
        flags = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        expanded = self._connection.baselineCPU([ElementTree.tostring(cpu, encoding="unicode")], flags)
        return parse.has_virtualization(expanded)

    # -- domains ---------------------------------------------------------------------------------------------------

    def domains(self) -> tuple[DomainInfo, ...]:
        with saying("domains"):
            infos = [self._domain_info(d) for d in self._connection.listAllDomains()]
        return tuple(sorted((i for i in infos if i), key=lambda i: i.name))

    def domain(self, name: str) -> DomainInfo | None:
        with saying(f"domain {name}"):
            domain = self._find_domain(name)
            return self._domain_info(domain) if domain else None

    def _domain_info(self, domain: Any) -> DomainInfo | None:
        try:
            return parse.domain_info(domain.XMLDesc(), _state(domain))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # gone since it was listed
                return None
            raise

    def _find_domain(self, name: str) -> Any | None:
        return found(self._connection.lookupByName, name, libvirt.VIR_ERR_NO_DOMAIN)

    def _is_on(self, name: str) -> bool:
        domain = self._find_domain(name)
        return bool(domain and domain.isActive())

    def define_domain(self, xml: str) -> None:
        name = parse.name_of(xml)
        with saying(f"domain {name}"):
            if self._find_domain(name):
                raise HypervisorError(f"domain {name}: already exists")
            self._connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def start_domain(self, name: str, *, paused: bool = False) -> None:
        with saying(f"domain {name}: start"):
            flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
            self._connection.lookupByName(name).createWithFlags(flags)

    def power_off(self, name: str) -> None:
        with saying(f"domain {name}: power off"):
            settle(self._connection.lookupByName(name).destroy, lambda: not self._is_on(name))

    def suspend(self, name: str) -> None:
        with saying(f"domain {name}: suspend"):
            domain = self._connection.lookupByName(name)
            settle(domain.suspend, lambda: _state(domain) is DomainState.PAUSED)

    def resume(self, name: str) -> None:
        with saying(f"domain {name}: resume"):
            domain = self._connection.lookupByName(name)
            settle(domain.resume, lambda: _state(domain) is DomainState.RUNNING)

    def reset(self, name: str) -> None:
        with saying(f"domain {name}: reset"):
            self._connection.lookupByName(name).reset()

    def remove_domain(self, name: str) -> None:
        with saying(f"domain {name}: remove"):
            domain = self._find_domain(name)
            if domain is None:
                return
            settle(domain.destroy, lambda: not self._is_on(name))
            settle(lambda: _undefine(domain), lambda: self._find_domain(name) is None)

    def save_domain(self, name: str, path: str) -> None:
        with saying(f"domain {name}: save"):
            domain = self._connection.lookupByName(name)
            sparse = {
                getattr(libvirt, "VIR_DOMAIN_SAVE_PARAM_FILE", "file"): path,
                getattr(libvirt, "VIR_DOMAIN_SAVE_PARAM_IMAGE_FORMAT", "image_format"): "sparse",
            }
            try:
                domain.saveParams(sparse, 0)
            except libvirt.libvirtError as error:
                if not unsupported(error):
                    raise
                domain.save(path)

    def restore_domain(self, path: str, *, paused: bool = False) -> None:
        with saying(f"save image {path}: restore"):
            flag = libvirt.VIR_DOMAIN_SAVE_PAUSED if paused else libvirt.VIR_DOMAIN_SAVE_RUNNING
            self._connection.restoreFlags(path, None, flag)

    def attach_nic(self, name: str, xml: str) -> None:
        with saying(f"domain {name}: attach a NIC"):
            self._connection.lookupByName(name).attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def detach_nic(self, name: str, mac: str) -> None:
        with saying(f"domain {name}: detach the NIC {mac}"):
            domain = self._connection.lookupByName(name)
            interface = parse.interface_xml(domain.XMLDesc(), mac)
            if interface is None:
                raise HypervisorError(f"domain {name}: has no NIC with the MAC {mac}")
            domain.detachDeviceFlags(interface, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def mark_domain(self, name: str, mark: Mark) -> None:
        with saying(f"domain {name}: mark"):
            domain = self._connection.lookupByName(name)
            kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
            _update(domain, lambda flags: domain.setMetadata(kind, mark.xml(), "labctl", MARK_NAMESPACE, flags))

    def mark_faults(self, name: str, faults: tuple[FaultMark, ...]) -> None:
        with saying(f"domain {name}: mark its faults"):
            domain = self._connection.lookupByName(name)
            kind, xml = libvirt.VIR_DOMAIN_METADATA_ELEMENT, FaultMark.xml(faults) if faults else None
            # Each definition for itself: the running one has no such element when its domain was restored meanwhile.
            _update(domain, lambda flags: _set_faults(domain, kind, xml, flags))

    def set_link(self, name: str, mac: str, *, up: bool) -> None:
        with saying(f"domain {name}: link of {mac}"):
            domain = self._connection.lookupByName(name)

            def replug(flags: int) -> None:
                inactive = flags == libvirt.VIR_DOMAIN_AFFECT_CONFIG
                description = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0)
                interface = parse.interface_with_link(description, mac, up=up)
                if interface is None:
                    raise HypervisorError(f"domain {name}: has no NIC with the MAC {mac}")
                domain.updateDeviceFlags(interface, flags)

            _update(domain, replug)

    def agent(self, name: str, command: Mapping[str, Any], within_s: float) -> Any:
        with saying(f"domain {name}"):
            domain = self._connection.lookupByName(name)
        text = json.dumps(dict(command))
        what = f"domain {name}: agent: {command.get('execute')}"
        try:
            answer = json.loads(libvirt_qemu.qemuAgentCommand(domain, text, max(1, math.ceil(within_s)), 0))
        except libvirt.libvirtError as error:
            raise _agent_error(error, what) from error
        return answer["return"]

    def open_console(self, name: str) -> LibvirtConsole:
        return self._open(name, "console", lambda d, s: d.openConsole(None, s, libvirt.VIR_DOMAIN_CONSOLE_FORCE))

    def open_channel(self, name: str, channel: str) -> LibvirtConsole:
        try:
            return self._open(name, f"channel {channel}", lambda d, s: d.openChannel(channel, s, 0))
        except HypervisorError as failure:
            if _code_of(failure) == libvirt.VIR_ERR_OPERATION_FAILED:  # "Active channel stream exists for this domain"
                raise ChannelTaken(str(failure)) from failure
            raise

    def _open(self, name: str, kind: str, attach: Callable[[Any, Any], object]) -> LibvirtConsole:
        what = f"domain {name}: {kind}"
        return LibvirtConsole.open(self.uri, what, lambda c, s: attach(c.lookupByName(name), s))

    # -- networks --------------------------------------------------------------------------------------------------

    def networks(self) -> tuple[NetworkInfo, ...]:
        with saying("networks"):
            infos = [self._network_info(n) for n in self._connection.listAllNetworks()]
        return tuple(sorted((i for i in infos if i), key=lambda i: i.name))

    def _network_info(self, network: Any) -> NetworkInfo | None:
        try:
            return parse.network_info(network.XMLDesc(), active=bool(network.isActive()))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:  # gone since it was listed
                return None
            raise

    def _find_network(self, name: str) -> Any | None:
        return found(self._connection.networkLookupByName, name, libvirt.VIR_ERR_NO_NETWORK)

    def define_network(self, xml: str) -> None:
        name = parse.name_of(xml)
        with saying(f"network {name}"):
            if self._find_network(name):
                raise HypervisorError(f"network {name}: already exists")
            self._connection.networkDefineXMLFlags(xml, libvirt.VIR_NETWORK_DEFINE_VALIDATE)

    def start_network(self, name: str) -> None:
        with saying(f"network {name}: start"):
            network = self._connection.networkLookupByName(name)
            if not network.isActive():
                settle(network.create, lambda: bool(network.isActive()))

    def remove_network(self, name: str) -> None:
        with saying(f"network {name}: remove"):
            network = self._find_network(name)
            if network is None:
                return
            if network.isActive():
                settle(network.destroy, lambda: self._find_network(name) is None or not network.isActive())
            settle(network.undefine, lambda: self._find_network(name) is None)


def _state(domain: Any) -> DomainState:
    state, _reason = domain.state()
    return _STATES.get(state, DomainState.RUNNING)


def _code_of(failure: HypervisorError) -> int:
    """libvirt's code of what `saying` has put into words."""
    return failure.__cause__.get_error_code() if isinstance(failure.__cause__, libvirt.libvirtError) else -1


def _undefine(domain: Any) -> None:
    try:
        domain.undefineFlags(_UNDEFINE_ALL)
    except libvirt.libvirtError as error:
        if not unsupported(error):
            raise
        domain.undefineFlags(_UNDEFINE_BASIC)


def _set_faults(domain: Any, kind: int, xml: str | None, flags: int) -> None:
    try:
        domain.setMetadata(kind, xml, "labctlfaults", FAULTS_NAMESPACE, flags)
    except libvirt.libvirtError as error:
        if xml is not None or error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            raise


def _update(domain: Any, act: Callable[[int], object]) -> None:
    """Act on the persistent definition, then on the running one if there is one."""
    act(libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if domain.isActive():
        settle(lambda: act(libvirt.VIR_DOMAIN_AFFECT_LIVE), lambda: not domain.isActive())


def _agent_error(error: libvirt.libvirtError, what: str) -> Exception:
    code, words = error.get_error_code(), error.get_error_message()
    if code in _AGENT_GONE:
        return AgentGone(f"{what}: {words}")
    # Older libvirt has no code of its own for what the agent itself refuses.
    refused = code in {_AGENT_COMMAND_FAILED, libvirt.VIR_ERR_INTERNAL_ERROR}
    return (GuestError if refused else HypervisorError)(f"{what}: {words}")


def _version(number: int) -> tuple[int, int, int]:
    """libvirt's 1000000 * major + 1000 * minor + release."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000
