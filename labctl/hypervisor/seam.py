"""The seam to the hypervisor: everything that labctl asks of libvirt, as values in and values out.

`libvirt_api` is the real one, `fake` the one that tests and `labctl plan` examples use; one contract suite holds both.
Every method may raise `HypervisorError`, naming the object and libvirt's own words. Names are libvirt's names.
Methods are safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

from labctl.inventory import DomainInfo, FaultMark, HostFacts, Mark, NetworkInfo, PoolInfo, VolumeInfo

__all__ = ["Console", "Hypervisor"]


class Console(Protocol):
    """A domain's serial console, open in both directions."""

    def read(self, size: int = 4096) -> bytes:
        """What came, up to `size` bytes; blocks until there is some, empty at the end."""
        ...

    def write(self, data: bytes) -> None:
        """Type `data`."""
        ...

    def close(self) -> None:
        """Let go of the console."""
        ...


class Hypervisor(Protocol):
    """One hypervisor; see the module."""

    uri: str

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        ...

    def host(self) -> HostFacts:
        """Versions, accelerator and size of the host."""
        ...

    # -- domains ---------------------------------------------------------------------------------------------------

    def domains(self) -> tuple[DomainInfo, ...]:
        """All domains, by name, the lab's own or not."""
        ...

    def domain(self, name: str) -> DomainInfo | None:
        """One domain, or None when there is none of that name."""
        ...

    def define_domain(self, xml: str) -> None:
        """Make a persistent domain, not started; refuses a name that is already defined (virDomainDefineXMLFlags,
        VIR_DOMAIN_DEFINE_VALIDATE)."""
        ...

    def start_domain(self, name: str, *, paused: bool = False) -> None:
        """Power on (virDomainCreateWithFlags); refuses a domain that is already on."""
        ...

    def power_off(self, name: str) -> None:
        """Pull the plug, now (virDomainDestroy); a domain that is off already stays so."""
        ...

    def suspend(self, name: str) -> None:
        """Stop the virtual CPUs (virDomainSuspend); suspended already is fine."""
        ...

    def resume(self, name: str) -> None:
        """Let them run again (virDomainResume); running already is fine."""
        ...

    def reset(self, name: str) -> None:
        """Press the reset button (virDomainReset)."""
        ...

    def remove_domain(self, name: str) -> None:
        """Power off if need be, and undefine with all that libvirt keeps (managed save, snapshot metadata, NVRAM).
        A domain that isn't there is fine."""
        ...

    def save_domain(self, name: str, path: str) -> None:
        """Write a running domain's RAM to a file on the hypervisor's host and end it (virDomainSaveParams).

        Sparse where libvirt can (11.2 and later with QEMU 9.1): no larger than what the guest really uses.
        """
        ...

    def restore_domain(self, path: str, *, paused: bool = False) -> None:
        """Go on with what `save_domain` wrote (virDomainRestoreFlags); name and UUID are those in the file's XML."""
        ...

    def attach_nic(self, name: str, xml: str) -> None:
        """Plug a NIC into a running domain, for as long as it runs (virDomainAttachDeviceFlags)."""
        ...

    def detach_nic(self, name: str, mac: str) -> None:
        """Unplug a NIC from a running domain (virDomainDetachDeviceFlags); its persistent definition keeps it.

        The guest lets go of it some time after the call.
        """
        ...

    def mark_domain(self, name: str, mark: Mark) -> None:
        """Replace the mark, in the running and the persistent definition (virDomainSetMetadata)."""
        ...

    def mark_faults(self, name: str, faults: tuple[FaultMark, ...]) -> None:
        """Replace the marks of the faults that the domain has, in the running and the persistent definition."""
        ...

    def set_link(self, name: str, mac: str, *, up: bool) -> None:
        """Plug or pull a NIC's virtual cable (virDomainUpdateDeviceFlags), live and persistent as applies."""
        ...

    def agent(self, name: str, command: Mapping[str, Any], within_s: float) -> Any:
        """One QEMU guest agent command (virDomainQemuAgentCommand); returns the answer's `return` value.

        Raises:
            AgentGone: no answer within `within_s`, agent not connected, or domain not running.
            GuestError: the agent answered with an error.
        """
        ...

    def open_console(self, name: str) -> Console:
        """The first serial console (virDomainOpenConsole, VIR_DOMAIN_CONSOLE_FORCE)."""
        ...

    def open_channel(self, name: str, channel: str) -> Console:
        """A virtio-serial channel by its target name (virDomainOpenChannel), for as long as it stays open.

        It is let go of when the connection ends, so also when its process is killed.

        Raises:
            ChannelTaken: somebody else has it open.
        """
        ...

    # -- networks --------------------------------------------------------------------------------------------------

    def networks(self) -> tuple[NetworkInfo, ...]:
        """All networks, by name, the lab's own or not."""
        ...

    def define_network(self, xml: str) -> None:
        """Make a persistent network, not started; refuses a name that is already defined."""
        ...

    def start_network(self, name: str) -> None:
        """Start it; started already is fine."""
        ...

    def remove_network(self, name: str) -> None:
        """Stop and undefine it; a network that isn't there is fine."""
        ...

    # -- labctl's storage pool -------------------------------------------------------------------------------------

    def ensure_pool(self) -> str:
        """Define, build, start labctl's pool as far as need be; returns the directory it is on."""
        ...

    def pool(self) -> PoolInfo | None:
        """labctl's pool as it is now, or None when there is none yet; changes nothing."""
        ...

    def volumes(self) -> tuple[VolumeInfo, ...]:
        """All volumes in labctl's pool, by name, after a refresh; empty when the pool isn't there."""
        ...

    def volume(self, name: str) -> VolumeInfo | None:
        """One volume, or None."""
        ...

    def create_volume(self, xml: str) -> VolumeInfo:
        """Make a volume (virStorageVolCreateXML); refuses a name that is taken."""
        ...

    def upload_volume(self, name: str, source: BinaryIO, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
        """Fill a volume from a stream (virStorageVolUpload, sparse where the source has holes).

        Args:
            on_bytes: called with the bytes sent since the last call.
        """
        ...

    def download_volume(self, name: str, *, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        """A volume's bytes in chunks (virStorageVolDownload); a length of 0 means to the end."""
        ...

    def write_volume(self, name: str, offset: int, data: bytes) -> None:
        """Overwrite part of a volume in place (virStorageVolUpload)."""
        ...

    def copy_volume(self, source: str, xml: str) -> VolumeInfo:
        """Make a volume with the bytes of another one, on the hypervisor's host (virStorageVolCreateXMLFrom).

        Holes stay holes; both are raw as far as libvirt is concerned.
        """
        ...

    def remove_volume(self, name: str) -> None:
        """Delete a volume; one that isn't there is fine."""
        ...
