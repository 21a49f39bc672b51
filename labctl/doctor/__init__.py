"""Every prerequisite of a lab: whether it serves, what is wrong, and the command that mends it.

The checks are pure: they judge what `Host` and the hypervisor show. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labctl import store
from labctl.accelerator import accelerator
from labctl.doctor import engine, network, place
from labctl.doctor.host import Finding, Host, ThisHost
from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor

__all__ = ["Finding", "Host", "ThisHost", "diagnose", "healthy"]

DIRECTORY = "/var/lib/libvirt/images/labctl"  # where the pool will be when there is none yet


def healthy(findings: tuple[Finding, ...]) -> bool:
    """Whether a lab can come up: warnings don't count."""
    return all(finding.ok is not False for finding in findings)


def diagnose(
    connect: Callable[[], Hypervisor],
    host: Host | None,
    *,
    flags: str | None = None,
    build_directory: Path | None = None,
    memory_mib: int = 5 * 768,
    least_gib: int = 10,
) -> tuple[Finding, ...]:
    """Look at everything that a lab needs.

    Args:
        connect: opens the hypervisor; it is closed again.
        host: the hypervisor's host when it is this one; None when it is elsewhere, and then only libvirt is asked.
        flags: that host's CPU flags (`labctl.accelerator.cpu_flags`); None when it is elsewhere.
        build_directory: where parent disks are built, always on this host.
        memory_mib: of the guests of the default lab together.
        least_gib: free room that parent disks and clones need.
    """
    build = str(build_directory or store.cache_dir())
    # A parent disk is built on the host that labctl runs on, wherever the hypervisor is.
    here = host or ThisHost()
    try:
        hypervisor = connect()
    except HypervisorError as refused:
        return (_unreachable(refused, host), *_of_host(host, DIRECTORY), *_of_build(here, build))
    try:
        facts, pool = hypervisor.host(), hypervisor.pool()
    finally:
        hypervisor.close()
    chosen = accelerator(facts, flags)
    room = engine.check_room(pool, host, DIRECTORY, least_gib)
    return (
        Finding("libvirt daemon", True, f"answers at {hypervisor.uri}"),
        engine.check_accelerator(facts, host, flags),
        engine.check_qemu(facts, chosen),
        engine.check_libvirt(facts, chosen),
        place.check_memory(facts, host, memory_mib),
        engine.check_pool(pool, host),
        *([room] if room else []),
        *_of_host(host, pool.path if pool else DIRECTORY),
        *_of_build(here, build),
    )


def _unreachable(refused: HypervisorError, host: Host | None) -> Finding:
    mend = "sudo ./bootstrap true" if host else "see that the URI is right and that libvirt runs there"
    return Finding("libvirt daemon", False, str(refused), "a daemon that answers", mend)


def _of_host(host: Host | None, directory: str) -> tuple[Finding, ...]:
    if host is None:
        return ()
    return (
        place.check_permissions(host, directory),
        place.check_confinement(host, directory),
        network.check_tun(host),
        network.check_bridged_frames(host),
        network.check_multicast(host),
    )


def _of_build(host: Host, directory: str) -> tuple[Finding, ...]:
    return (place.check_programs(host), place.check_build_room(host, directory))
