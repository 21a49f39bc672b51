"""KVM or emulation: what really runs a guest's instructions on this host.

A `/dev/kvm` without vmx or svm in the CPU's flags is a paravirtual KVM: libvirt offers it, and a stock kernel hangs on
it right after the firmware. So the CPU decides, not the offer.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from labctl.inventory import HostFacts
from labctl.topology.spec import Accelerator

__all__ = ["accelerator", "cpu_flags", "is_local"]


def accelerator(facts: HostFacts, flags: str | None) -> Accelerator:
    """The accelerator that `auto` stands for.

    Args:
        facts: of the hypervisor's host.
        flags: that host's CPU flags as the kernel shows them; None when the host is elsewhere, and libvirt's own
            description of the CPU has to do.
    """
    virtualizes = facts.virtualization if flags is None else not {"vmx", "svm"}.isdisjoint(flags.split())
    return Accelerator.KVM if facts.offers_kvm and virtualizes else Accelerator.TCG


def is_local(uri: str) -> bool:
    """Whether a hypervisor's URI means this host (libvirt's URI format: no host name in it)."""
    return not urlsplit(uri).netloc


def cpu_flags(uri: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The CPU flags of the host behind `uri`, or None when it isn't this host."""
    if not is_local(uri):
        return None
    lines = cpuinfo.read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")
