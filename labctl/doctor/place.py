"""What the host itself has to offer: permissions, confinement, memory, programs."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from labctl.doctor.host import Finding, Host
from labctl.inventory import HostFacts

__all__ = ["check_build_room", "check_confinement", "check_memory", "check_permissions", "check_programs"]

IMAGES = "/var/lib/libvirt/images"  # where distributions' security profiles expect disks
BUILD_PROGRAMS = ("mmdebstrap", "mkfs.ext4", "qemu-img", "cpio", "xz")
BUILD_GIB = 4  # unpacked tree, raw and compressed disk of the largest parent together


def check_permissions(host: Host, directory: str) -> Finding:
    """QEMU runs as a user of its own, who must be able to reach the disks: every directory on the way needs x."""
    name = "permissions"
    user = _qemu_user(host)
    ids = _ids(host, user)
    if ids is None:
        mend = "sudo ./bootstrap true, or set `user` in /etc/libvirt/qemu.conf"
        return Finding(name, False, f"no user {user}", "QEMU's user is there", mend)
    path = PurePosixPath(directory)
    closed = [str(p) for p in (*reversed(path.parents), path) if not _may_pass(host, str(p), *ids)]
    expected = f"{user} can reach {directory}"
    if closed:
        mend = f"sudo chmod o+x {' '.join(closed)}"
        return Finding(name, False, f"{user} can't pass {', '.join(closed)}", expected, mend)
    return Finding(name, True, expected, expected)


def _qemu_user(host: Host) -> str:
    """Who QEMU runs as: `user` in qemu.conf, else the distribution's default."""
    set_by_hand = re.search(r'^\s*user\s*=\s*"\+?([^"]+)"', host.text("/etc/libvirt/qemu.conf") or "", re.MULTILINE)
    if set_by_hand:
        return set_by_hand[1]
    return "qemu" if _ids(host, "libvirt-qemu") is None and _ids(host, "qemu") is not None else "libvirt-qemu"


def _ids(host: Host, user: str) -> tuple[int, frozenset[int]] | None:
    """The user's ID and the IDs of all groups that they are in; None when there is no such user."""
    rows = [line.split(":") for line in (host.text("/etc/passwd") or "").splitlines()]
    entry = next((row for row in rows if len(row) > 3 and user in {row[0], row[2]}), None)
    if entry is None:
        return None
    groups = [line.split(":") for line in (host.text("/etc/group") or "").splitlines()]
    more = {int(g[2]) for g in groups if len(g) > 3 and entry[0] in g[3].split(",")}
    return int(entry[2]), frozenset({int(entry[3]), *more})


def _may_pass(host: Host, path: str, uid: int, gids: frozenset[int]) -> bool:
    owned = host.owned(path)
    if owned is None or uid == 0:  # what isn't there yet, libvirt makes; root passes everywhere
        return True
    if owned.uid == uid:
        return bool(owned.mode & 0o100)
    return bool(owned.mode & (0o010 if owned.gid in gids else 0o001))


def check_confinement(host: Host, directory: str) -> Finding:
    """AppArmor or SELinux: libvirt confines each guest to its own disks, where it has the means to."""
    name = "confinement"
    if host.text("/sys/fs/selinux/enforce") == "1":
        if PurePosixPath(directory).is_relative_to(IMAGES):
            return Finding(name, True, "SELinux enforcing")
        label = f"sudo semanage fcontext -a -t virt_image_t '{directory}(/.*)?' && sudo restorecon -R {directory}"
        return Finding(name, None, f"SELinux enforcing, and {directory} is not where it expects disks", IMAGES, label)
    if host.text("/sys/module/apparmor/parameters/enabled") == "Y":
        if host.text("/etc/apparmor.d/libvirt/TEMPLATE.qemu") is None:
            mend = "sudo apt-get install --reinstall libvirt-daemon-driver-qemu libvirt-daemon-system"
            return Finding(name, None, "AppArmor on, but libvirt's profile for guests is missing", "the profile", mend)
        return Finding(name, True, "AppArmor on, libvirt's profile for guests is there")
    return Finding(name, True, "neither AppArmor nor SELinux")


def check_memory(facts: HostFacts, host: Host | None, needed_mib: int) -> Finding:
    """Room for the default lab's guests; what other programs hold may be given back, so too little free is a warning.

    Of this host the kernel is asked: libvirt's figure (virNodeGetInfo) misses memory that was plugged in later.
    """
    name, expected = "memory", f"{needed_mib} MiB for the default lab"
    mend = "labctl up micro takes less; labctl ls shows what other labs run"
    total_mib = _meminfo_mib(host, "MemTotal") or facts.memory_mib
    free_mib = _meminfo_mib(host, "MemAvailable")
    if total_mib < needed_mib:
        return Finding(name, False, f"{total_mib} MiB in all", expected, mend)
    if free_mib is None:
        return Finding(name, True, f"{total_mib} MiB in all", expected)
    found = f"{free_mib} MiB free of {total_mib}"
    return (
        Finding(name, True, found, expected) if free_mib >= needed_mib else Finding(name, None, found, expected, mend)
    )


def _meminfo_mib(host: Host | None, field: str) -> int | None:
    text = host.text("/proc/meminfo") if host else None
    line = re.search(rf"^{field}:\s+(\d+) kB", text or "", re.MULTILINE)
    return int(line[1]) // 1024 if line else None


def check_programs(host: Host) -> Finding:
    """What building a parent disk runs; disks that are built already need none of it."""
    missing = [program for program in BUILD_PROGRAMS if not host.has(program)]
    found = f"missing: {', '.join(missing)}" if missing else "all there"
    mend = "sudo ./bootstrap true" if missing else ""
    return Finding("image build programs", not missing, found, ", ".join(BUILD_PROGRAMS), mend)


def check_build_room(host: Host, directory: str) -> Finding:
    """Room on this host while a parent disk is built."""
    free_bytes = host.free_bytes(directory)
    ok = free_bytes >= BUILD_GIB << 30
    mend = "" if ok else f"make room under {directory}, or set XDG_CACHE_HOME to a directory on a larger disk"
    found = f"{free_bytes / (1 << 30):.0f} GiB free under {directory}"
    return Finding("image build room", ok, found, f"{BUILD_GIB} GiB", mend)
