"""The saved states of a lab: the ready state, saved by the first `up` and restored by the next, and named snapshots.

The ready state is named by the digest of all that the lab was made from but its name: labs of other names stand on the
same one. A snapshot belongs to one lab, and can be restored as long as that is made from the same.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace

from labctl.apply import Workshop, domain_plan
from labctl.cache import prune
from labctl.clock import Deadline
from labctl.errors import InputError
from labctl.inventory import Mark, Stage
from labctl.parallel import for_all
from labctl.render.names import domain_name
from labctl.state import Manifest, State, find_state, remove_state, restore_nodes, resume_together, save_state, states
from labctl.topology.spec import digest_of

__all__ = ["find_ready", "find_snapshot", "keep_ready", "keep_snapshot", "put_into", "snapshot_key"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


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
    _forget_older(shop, _keep(shop, _key(shop), "the ready state"))
    for entry in prune(shop.hypervisor, now_s=time.time()):
        shop.progress.note(f"removed {entry.kind} {entry.name}, for room: labctl cache ls shows what is kept")


def snapshot_key(lab: str, name: str) -> str:
    """What the volumes of a snapshot are named by; neither part holds an underscore.

    Raises:
        InputError: `name` can't be a name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"snapshot name {name!r}: expected up to 32 lower-case letters, digits and hyphens")
    return f"snap_{lab}_{name}"


def find_snapshot(shop: Workshop, name: str) -> State | None:
    """A snapshot of this lab, made from what the lab is made from now."""
    return find_state(shop.hypervisor, snapshot_key(shop.lab.name, name), _digest(shop))


def keep_snapshot(shop: Workshop, name: str) -> None:
    """Save the lab, which must be ready, under a name; an older snapshot of that name is replaced.

    Raises:
        LabError, ExceptionGroup: it could not be saved whole; the lab runs on.
    """
    _keep(shop, snapshot_key(shop.lab.name, name), f"snapshot {name}")


def _keep(shop: Workshop, key: str, what: str) -> Manifest:
    hypervisor, lab = shop.hypervisor, shop.lab
    manifest = Manifest(key, lab.name, _digest(shop), tuple(n.name for n in lab.nodes), time.time())
    paused_s = save_state(hypervisor, manifest, shop.directory, lambda node: _set_clock(shop, node))
    state = find_state(hypervisor, key, manifest.digest)
    size_mib = state.size_bytes >> 20 if state else 0
    shop.progress.note(f"saved {what}, {size_mib} MiB; the guests were paused for {paused_s:.1f} s")
    return manifest


def _forget_older(shop: Workshop, kept: Manifest) -> None:
    backing = {v.backing_path for v in shop.hypervisor.volumes()}
    paths = {v.name: v.path for v in shop.hypervisor.volumes()}
    for old in states(shop.hypervisor):
        used = any(paths.get(f"state.{old.key}.{node}.qcow2") in backing for node in old.nodes)
        if old.lab == kept.lab and old.key != kept.key and old.key.startswith("ready-") and not used:
            remove_state(shop.hypervisor, old.key)


def put_into(shop: Workshop, state: State) -> None:
    """Put every node into a saved state, all at once; nodes that are there are set back, others are made.

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
    for_all(lambda node: _set_clock(shop, node), plans)
    shop.progress.note(f"restored {len(names)} nodes; they went on within {apart_s * 1000:.0f} ms")


def _set_clock(shop: Workshop, node: str) -> None:
    guest = shop.guest(node)
    guest.wait_for_agent(Deadline.within(shop.bounds.boot_s))
    guest.set_clock(time.time_ns())
