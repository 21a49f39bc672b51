"""What libvirt and QEMU have to be: the accelerator, the versions, the pool."""

from __future__ import annotations

from labctl.accelerator import accelerator
from labctl.doctor.host import Finding, Host
from labctl.inventory import HostFacts, PoolInfo
from labctl.topology.spec import Accelerator

__all__ = ["check_accelerator", "check_libvirt", "check_pool", "check_qemu", "check_room"]

Version = tuple[int, int]

_MEND_VERSION = "sudo ./bootstrap true"


def check_accelerator(facts: HostFacts, host: Host | None, flags: str | None) -> Finding:
    """Which accelerator `auto` takes; emulation is a fact, not a fault, unless the CPU could do better."""
    name = "accelerator"
    if accelerator(facts, flags) is Accelerator.KVM:
        return Finding(name, True, "KVM, on hardware virtualization")
    virtualizes = facts.virtualization if flags is None else not {"vmx", "svm"}.isdisjoint(flags.split())
    if virtualizes:
        module = "kvm_amd" if flags and "svm" in flags.split() else "kvm_intel"
        return Finding(
            name,
            None,
            "emulation (TCG): the CPU has hardware virtualization, but libvirt offers no KVM",
            "KVM",
            f"sudo modprobe {module}, then restart libvirtd; if that fails, turn virtualization on in the firmware",
        )
    useless = facts.offers_kvm or (host is not None and host.owned("/dev/kvm") is not None)
    why = "/dev/kvm is there, but without vmx or svm a stock kernel hangs on it" if useless else "no vmx or svm"
    return Finding(name, True, f"emulation (TCG), several times slower than KVM: {why}")


def check_qemu(facts: HostFacts, chosen: Accelerator) -> Finding:
    """QEMU 7.2 emulates wrongly now and then (a boot in twenty dies early); with KVM it serves."""
    least = (7, 2) if chosen is Accelerator.KVM else (10, 0)
    return _check_version("QEMU", facts.hypervisor_version, least, chosen)


def check_libvirt(facts: HostFacts, chosen: Accelerator) -> Finding:
    """libvirt comes with QEMU: the pairs that were tried are 9 with QEMU 7.2, and 11 with QEMU 10."""
    least = (9, 0) if chosen is Accelerator.KVM else (11, 0)
    return _check_version("libvirt", facts.libvirt_version, least, chosen)


def _check_version(name: str, found: tuple[int, int, int], least: Version, chosen: Accelerator) -> Finding:
    way = "with KVM" if chosen is Accelerator.KVM else "when emulating"
    ok = found[:2] >= least
    expected = f"{least[0]}.{least[1]} or later {way}"
    return Finding(name, ok, ".".join(map(str, found)), expected, "" if ok else _MEND_VERSION)


def check_pool(pool: PoolInfo | None, host: Host | None) -> Finding:
    """The pool is there, active and can be written to; when there is none yet, `labctl up` makes it."""
    name, expected = "storage pool", "active and writable"
    if pool is None:
        return Finding(name, True, "none yet, the first labctl up makes it", expected)
    if not pool.active:
        return Finding(name, None, f"{pool.name} is not active", expected, f"virsh pool-start {pool.name}")
    if host and not host.writable(pool.path):
        return Finding(
            name, False, f"{pool.path} can't be written to", expected, "run labctl as root: sudo labctl doctor"
        )
    return Finding(name, True, f"{pool.name} at {pool.path}", expected)


def check_room(pool: PoolInfo | None, host: Host | None, directory: str, least_gib: int) -> Finding | None:
    """Room for parent disks and clones; None when nobody can say, on a host elsewhere without an active pool."""
    path = pool.path if pool else directory
    if host:  # libvirt's figure counts blocks that the file system keeps back
        free_bytes = host.free_bytes(path)
    elif pool and pool.active:
        free_bytes = pool.available_bytes
    else:
        return None
    ok = free_bytes >= least_gib << 30
    mend = "" if ok else f"labctl image prune, labctl destroy for labs not in use, or make room under {path}"
    return Finding(
        "room for disks", ok, f"{free_bytes / (1 << 30):.0f} GiB free under {path}", f"{least_gib} GiB", mend
    )
