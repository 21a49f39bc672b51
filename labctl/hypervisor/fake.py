"""A hypervisor in memory: the same behaviour and the same XML, without a machine.

For tests: guest agents are plugged in, methods can be made to fail, consoles can be fed.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, TypeVar
from xml.etree import ElementTree

from labctl.errors import AgentGone, ChannelTaken, HypervisorError
from labctl.hypervisor import parse
from labctl.hypervisor.fake_console import FakeConsole
from labctl.hypervisor.sparse import CHUNK_BYTES, pieces
from labctl.inventory import (
    DomainInfo,
    DomainState,
    FaultMark,
    HostFacts,
    Mark,
    NetworkInfo,
    NicInfo,
    PoolInfo,
    VolumeInfo,
)
from labctl.saveimage import SaveHeader

__all__ = ["Agent", "FakeConsole", "FakeHypervisor"]

Agent = Callable[[Mapping[str, Any]], Any]
T = TypeVar("T")

_FACTS = HostFacts((11, 0, 0), (10, 0, 0), offers_kvm=False, virtualization=False, memory_mib=16384, cpus=4)
_QCOW2_BYTES = 200 * 1024  # what an empty qcow2 file takes
_AVAILABLE_BYTES = 1 << 40
_SAVE_ROOM_BYTES = 1 << 16  # for the XML in a save image


@dataclass
class _Domain:
    info: DomainInfo
    channels: frozenset[str]
    xml: str
    consoles: list[FakeConsole] = field(default_factory=list)
    unplugged: tuple[NicInfo, ...] = ()  # for as long as it runs

    @property
    def on(self) -> bool:
        return self.info.state is not DomainState.SHUT_OFF

    def turn(self, state: DomainState) -> None:
        off = state is DomainState.SHUT_OFF
        nics = tuple(replace(n, tap="" if off else n.tap) for n in (*self.info.nics, *(self.unplugged if off else ())))
        self.unplugged = () if off else self.unplugged
        self.info = replace(self.info, state=state, nics=nics)


@dataclass
class _Volume:
    info: VolumeInfo
    raw: bool
    data: bytes = b""


class FakeHypervisor:
    """See the module.

    Attributes:
        agents: by domain, what answers a guest agent command with its `return` value, or raises.
        fail_on: by method, what the next calls of it raise; nothing has happened then.
        consoles: by domain and channel (empty for the serial console), the one that was opened last.
        facts: what `host` says.
    """

    def __init__(self, uri: str = "fake:///", directory: str = "/fake/labctl") -> None:
        self.uri = uri
        self.agents: dict[str, Agent] = {}
        self.fail_on: dict[str, Exception] = {}
        self.consoles: dict[tuple[str, str], FakeConsole] = {}
        self.facts = _FACTS
        self._directory = directory
        self._pool_is_there = False
        self._taps = 0
        self._domains: dict[str, _Domain] = {}
        self._networks: dict[str, NetworkInfo] = {}
        self._volumes: dict[str, _Volume] = {}
        self._lock = threading.RLock()

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        with self._lock:
            if method in self.fail_on:
                raise self.fail_on[method]
            yield

    def close(self) -> None:
        with self._call("close"):
            pass

    def host(self) -> HostFacts:
        with self._call("host"):
            return self.facts

    # -- domains ---------------------------------------------------------------------------------------------------

    def domains(self) -> tuple[DomainInfo, ...]:
        with self._call("domains"):
            return tuple(self._domains[name].info for name in sorted(self._domains))

    def domain(self, name: str) -> DomainInfo | None:
        with self._call("domain"):
            return self._domains[name].info if name in self._domains else None

    def define_domain(self, xml: str) -> None:
        with self._call("define_domain"):
            name = parse.name_of(xml)
            _refuse(name in self._domains, f"domain {name}: already exists")
            info = parse.domain_info(xml, DomainState.SHUT_OFF)
            targets = ElementTree.fromstring(xml).iterfind("./devices/channel/target")
            channels = frozenset(t.get("name", "") for t in targets)
            self._domains[name] = _Domain(replace(info, uuid=info.uuid or str(uuid.uuid4())), channels, xml)

    def start_domain(self, name: str, *, paused: bool = False) -> None:
        with self._call("start_domain"):
            domain = _need(self._domains, "domain", name)
            _refuse(domain.on, f"domain {name}: start: domain is already running")
            for nic in domain.info.nics:
                network = _need(self._networks, "network", nic.network)
                _refuse(not network.active, f"domain {name}: start: network {nic.network} is not active")
            for path in domain.info.disks:
                _refuse(self._is_missing(path), f"domain {name}: start: no file {path}")
            domain.info = replace(domain.info, nics=tuple(self._with_tap(n) for n in domain.info.nics))
            domain.turn(DomainState.PAUSED if paused else DomainState.RUNNING)

    def _with_tap(self, nic: NicInfo) -> NicInfo:
        self._taps += 1
        return replace(nic, tap=f"vnet{self._taps - 1}")

    def _is_missing(self, path: str) -> bool:
        return path.startswith(f"{self._directory}/") and all(v.info.path != path for v in self._volumes.values())

    def power_off(self, name: str) -> None:
        with self._call("power_off"):
            _turn_off(_need(self._domains, "domain", name))

    def suspend(self, name: str) -> None:
        with self._call("suspend"):
            self._running(name).turn(DomainState.PAUSED)

    def resume(self, name: str) -> None:
        with self._call("resume"):
            self._running(name).turn(DomainState.RUNNING)

    def reset(self, name: str) -> None:
        with self._call("reset"):
            self._running(name)

    def _running(self, name: str) -> _Domain:
        domain = _need(self._domains, "domain", name)
        _refuse(not domain.on, f"domain {name}: domain is not running")
        return domain

    def remove_domain(self, name: str) -> None:
        with self._call("remove_domain"):
            domain = self._domains.pop(name, None)
            if domain:
                _turn_off(domain)

    def save_domain(self, name: str, path: str) -> None:
        with self._call("save_domain"):
            domain = self._running(name)
            header = SaveHeader((2, _SAVE_ROOM_BYTES, 1, 0, 0), _SAVE_ROOM_BYTES, bytes(56), "", b"")
            volume = path.rsplit("/", 1)[1]
            xml = _with_uuid(domain.xml, domain.info.uuid)
            self.add_file(volume, header.with_xml(xml) + b"RAM")
            _turn_off(domain)

    def restore_domain(self, path: str, *, paused: bool = False) -> None:
        with self._call("restore_domain"):
            volume = next((v for v in self._volumes.values() if v.info.path == path), None)
            if volume is None:
                raise HypervisorError(f"save image {path}: restore: no such file")
            saved = parse.domain_info(SaveHeader.parse(volume.data).xml, DomainState.SHUT_OFF)
            domain = _need(self._domains, "domain", saved.name)
            _refuse(domain.info.uuid != saved.uuid, f"save image {path}: restore: another UUID than {saved.name} has")
            _refuse(domain.on, f"domain {saved.name}: restore: domain is already running")
            domain.info = replace(domain.info, nics=tuple(self._with_tap(n) for n in saved.nics))
            domain.turn(DomainState.PAUSED if paused else DomainState.RUNNING)

    def attach_nic(self, name: str, xml: str) -> None:
        with self._call("attach_nic"):
            domain = self._running(name)
            nic = parse.nic_info(ElementTree.fromstring(xml), domain.info.state)
            domain.info = replace(domain.info, nics=(*domain.info.nics, self._with_tap(nic)))
            domain.unplugged = tuple(n for n in domain.unplugged if n.mac != nic.mac)

    def mark_domain(self, name: str, mark: Mark) -> None:
        with self._call("mark_domain"):
            domain = _need(self._domains, "domain", name)
            domain.info = replace(domain.info, mark=mark)

    def detach_nic(self, name: str, mac: str) -> None:
        with self._call("detach_nic"):
            domain = self._running(name)
            left = tuple(n for n in domain.info.nics if n.mac != mac.lower())
            _refuse(len(left) == len(domain.info.nics), f"domain {name}: has no NIC with the MAC {mac}")
            domain.unplugged += tuple(n for n in domain.info.nics if n not in left)
            domain.info = replace(domain.info, nics=left)

    def mark_faults(self, name: str, faults: tuple[FaultMark, ...]) -> None:
        with self._call("mark_faults"):
            domain = _need(self._domains, "domain", name)
            domain.info = replace(domain.info, faults=faults)

    def set_link(self, name: str, mac: str, *, up: bool) -> None:
        with self._call("set_link"):
            domain = _need(self._domains, "domain", name)
            wanted = mac.lower()
            known = any(n.mac == wanted for n in domain.info.nics)
            _refuse(not known, f"domain {name}: has no NIC with the MAC {mac}")
            nics = tuple(replace(n, link_up=up) if n.mac == wanted else n for n in domain.info.nics)
            domain.info = replace(domain.info, nics=nics)

    def agent(self, name: str, command: Mapping[str, Any], within_s: float) -> Any:  # noqa: ARG002 -- no agent hangs here
        with self._call("agent"):
            domain = _need(self._domains, "domain", name)
            agent = self.agents.get(name) if domain.info.state is DomainState.RUNNING else None
        if agent is None:
            raise AgentGone(f"domain {name}: agent: {command.get('execute')}: the guest agent is not connected")
        return agent(command)

    def open_console(self, name: str) -> FakeConsole:
        with self._call("open_console"):
            return self._open(name, "")

    def open_channel(self, name: str, channel: str) -> FakeConsole:
        with self._call("open_channel"):
            known = _need(self._domains, "domain", name).channels
            _refuse(channel not in known, f"domain {name}: channel {channel}: not found")
            if any(c is self.consoles.get((name, channel)) and not c.ended for c in self._running(name).consoles):
                raise ChannelTaken(f"domain {name}: channel {channel}: already open")
            return self._open(name, channel)

    def _open(self, name: str, channel: str) -> FakeConsole:
        console = self.consoles[name, channel] = FakeConsole()
        self._running(name).consoles.append(console)
        return console

    # -- networks --------------------------------------------------------------------------------------------------

    def networks(self) -> tuple[NetworkInfo, ...]:
        with self._call("networks"):
            return tuple(self._networks[name] for name in sorted(self._networks))

    def define_network(self, xml: str) -> None:
        with self._call("define_network"):
            name = parse.name_of(xml)
            _refuse(name in self._networks, f"network {name}: already exists")
            info = parse.network_info(xml, active=False)
            self._networks[name] = replace(info, uuid=info.uuid or str(uuid.uuid4()))

    def start_network(self, name: str) -> None:
        with self._call("start_network"):
            self._networks[name] = replace(_need(self._networks, "network", name), active=True)

    def remove_network(self, name: str) -> None:
        with self._call("remove_network"):
            self._networks.pop(name, None)

    # -- labctl's storage pool -------------------------------------------------------------------------------------

    def ensure_pool(self) -> str:
        with self._call("ensure_pool"):
            self._pool_is_there = True
            return self._directory

    def pool(self) -> PoolInfo | None:
        with self._call("pool"):
            info = PoolInfo("labctl", self._directory, active=True, available_bytes=_AVAILABLE_BYTES)
            return info if self._pool_is_there else None

    def volumes(self) -> tuple[VolumeInfo, ...]:
        with self._call("volumes"):
            return tuple(self._volumes[name].info for name in sorted(self._volumes))

    def volume(self, name: str) -> VolumeInfo | None:
        with self._call("volume"):
            return self._volumes[name].info if name in self._volumes else None

    def create_volume(self, xml: str) -> VolumeInfo:
        with self._call("create_volume"):
            name = parse.name_of(xml)
            _refuse(not self._pool_is_there, "pool labctl: not there")
            _refuse(name in self._volumes, f"volume {name}: create: already exists")
            made = self._made(xml)
            backing = made.info.backing_path
            _refuse(bool(backing) and self._is_missing(backing), f"volume {name}: create: no file {backing}")
            self._volumes[name] = made
            return made.info

    def _made(self, xml: str) -> _Volume:
        info = parse.volume_info(xml)
        kind = ElementTree.fromstring(xml).find("./target/format")
        raw = kind is None or kind.get("type") == "raw"
        path = f"{self._directory}/{info.name}"
        return _Volume(replace(info, path=path, allocation_bytes=0 if raw else _QCOW2_BYTES), raw)

    def crash(self, name: str) -> None:
        """Let a guest's kernel panic: the domain stays on, as `on_crash` wants, and does nothing any more."""
        with self._lock:
            self._running(name).turn(DomainState.CRASHED)

    def add_file(self, name: str, data: bytes) -> None:
        """Let a file appear in the pool's directory behind the hypervisor's back, as a console's log does."""
        with self._lock:
            info = VolumeInfo(name, f"{self._directory}/{name}", len(data), len(data))
            self._volumes[name] = _Volume(info, raw=True, data=data)

    def upload_volume(self, name: str, source: BinaryIO, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
        with self._call("upload_volume"):
            volume = _need(self._volumes, "volume", name)
            data, taken = b"", 0
            for piece in pieces(source, size_bytes):
                data += piece if isinstance(piece, bytes) else bytes(piece)
                taken += len(piece) if isinstance(piece, bytes) else 0
                on_bytes(len(piece) if isinstance(piece, bytes) else piece)
            short = f"volume {name}: upload: the source ended after {len(data)} of {size_bytes} bytes"
            _refuse(len(data) != size_bytes, short)
            volume.data = data
            volume.info = replace(volume.info, allocation_bytes=taken)

    def download_volume(self, name: str, *, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        with self._call("download_volume"):
            volume = _need(self._volumes, "volume", name)
            data, size = volume.data, volume.info.capacity_bytes if volume.raw else len(volume.data)
        end = min(size, offset + length) if length else size
        for start in range(offset, end, CHUNK_BYTES):
            stop = min(start + CHUNK_BYTES, end)
            yield data[start:stop].ljust(stop - start, b"\0")

    def write_volume(self, name: str, offset: int, data: bytes) -> None:
        with self._call("write_volume"):
            volume = _need(self._volumes, "volume", name)
            volume.data = volume.data[:offset].ljust(offset, b"\0") + data + volume.data[offset + len(data) :]

    def copy_volume(self, source: str, xml: str) -> VolumeInfo:
        with self._call("copy_volume"):
            original = _need(self._volumes, "volume", source)
            info = self.create_volume(xml)
            self._volumes[info.name].data = original.data
            return info

    def remove_volume(self, name: str) -> None:
        with self._call("remove_volume"):
            self._volumes.pop(name, None)


def _need(items: dict[str, T], kind: str, name: str) -> T:
    if name not in items:
        raise HypervisorError(f"{kind} {name}: not found")
    return items[name]


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise HypervisorError(message)


def _turn_off(domain: _Domain) -> None:
    domain.turn(DomainState.SHUT_OFF)
    for console in domain.consoles:
        console.close()
    domain.consoles.clear()


def _with_uuid(xml: str, domain_uuid: str) -> str:
    """The definition with what libvirt adds to it when it saves a domain."""
    root = ElementTree.fromstring(xml)
    for tag, text in (("uuid", domain_uuid), ("genid", str(uuid.uuid4()))):
        element = root.find(tag)
        if element is None:
            element = ElementTree.SubElement(root, tag)
        element.text = text
    return ElementTree.tostring(root, encoding="unicode")
