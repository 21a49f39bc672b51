"""The ready state of a lab: saved by the first `up`, restored by the next, so that a lab boots and provisions once.

It is named by the digest of all that the lab was made from but its name: labs of other names stand on the same state.
"""

from __future__ import annotations

import time
from dataclasses import replace

from labctl.apply import Workshop, domain_plan
from labctl.clock import Deadline
from labctl.errors import HypervisorError
from labctl.inventory import Mark, Stage
from labctl.render.names import domain_name
from labctl.state import Manifest, State, find_state, remove_state, restore_nodes, resume_together, save_state, states
from labctl.topology.spec import digest_of

__all__ = ["find_ready", "keep_ready", "restore_ready"]


def _digest(shop: Workshop) -> str:
    host = shop.hypervisor.host()
    return digest_of(shop.digests, shop.network_digests, host.hypervisor_version, host.libvirt_version, shop.directory)


def _key(shop: Workshop) -> str:
    return f"ready-{_digest(shop)[:12]}"


def find_ready(shop: Workshop) -> State | None:
    """The ready state of this very lab, under whatever name it was saved."""
    return find_state(shop.hypervisor, _key(shop), _digest(shop))


def keep_ready(shop: Workshop) -> None:
    """Save the lab, which must be ready, and forget the ready states that its name had before.

    Raises:
        LabError, ExceptionGroup: it could not be saved whole; the lab runs on.
    """
    hypervisor, lab = shop.hypervisor, shop.lab
    nodes = tuple(n.name for n in lab.nodes)
    manifest = Manifest(_key(shop), lab.name, _digest(shop), nodes, time.time())
    paused_s = save_state(hypervisor, manifest, shop.directory, lambda node: _set_clock(shop, node))
    state = find_ready(shop)
    size_mib = state.size_bytes >> 20 if state else 0
    shop.progress.note(f"saved the ready state, {size_mib} MiB: the guests were paused for {paused_s:.1f} s")
    _forget_older(shop, manifest)


def _forget_older(shop: Workshop, kept: Manifest) -> None:
    backing = {v.backing_path for v in shop.hypervisor.volumes()}
    paths = {v.name: v.path for v in shop.hypervisor.volumes()}
    for old in states(shop.hypervisor):
        used = any(paths.get(f"state.{old.key}.{node}.qcow2") in backing for node in old.nodes)
        if old.lab == kept.lab and old.key != kept.key and old.key.startswith("ready-") and not used:
            remove_state(shop.hypervisor, old.key)


def restore_ready(shop: Workshop, state: State) -> None:
    """Put every node into the ready state, all at once; nodes that are there are set back, others are made.

    In a lab of another name than the saved one, nodes still have to be specialised: their marks say so.

    Raises:
        LabError, ExceptionGroup: it could not be restored whole.
    """
    same = state.manifest.lab == shop.lab.name
    plans = {}
    for node in shop.lab.nodes:
        digests = shop.digests[node.name]
        identity = digests.identity if same else ""
        mark = Mark(shop.lab.name, node.name, digests.machine, Stage.READY, identity, digests.cluster)
        plans[node.name] = replace(domain_plan(shop, node), mark=mark)
    restore_nodes(shop.hypervisor, state, plans)
    names = [domain_name(shop.lab.name, n) for n in plans]
    apart_s = resume_together(shop.hypervisor, names)
    for name in plans:
        _set_clock(shop, name)
    shop.progress.note(f"restored the ready state: {len(names)} nodes went on within {apart_s * 1000:.0f} ms")


def _set_clock(shop: Workshop, node: str) -> None:
    guest = shop.guest(node)
    guest.wait_for_agent(Deadline.within(shop.bounds.boot_s))
    if shop.hypervisor.domain(guest.domain) is None:
        raise HypervisorError(f"{node}: its domain vanished while it was restored")
    guest.set_clock(time.time_ns())
