"""The saved states of a lab: the ready state, saved by the first `up` and restored by the next, and named snapshots.

The ready state goes by the digest of all that the lab was made from but its name: labs of other names stand on the same
one, and a lab that differs in some nodes takes the others from its layers. A snapshot belongs to one lab, and can be
restored as long as that is made from the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from labctl.cache import prune
from labctl.clock import Deadline
from labctl.errors import InputError
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import Mark, Stage, VolumeInfo
from labctl.machines import Layer, load_machine
from labctl.parallel import for_all
from labctl.plan import Digests
from labctl.render.names import domain_name
from labctl.secrets import Secrets
from labctl.state.kept import (
    MOST_LAYERS,
    Manifest,
    State,
    backing_chain,
    discard_state,
    free_key,
    host_of,
    load_state,
    same_nodes,
    state_users,
    states,
    sweep,
    volume_names,
    why_not_whole,
)
from labctl.state.restore import restore_nodes, resume_together
from labctl.state.save import Inside, save_state
from labctl.topology.spec import digest_of
from labctl.vault import load_secrets, save_secrets
from labctl.workshop import SYNC_WITHIN_S, Workshop, domain_plan

__all__ = ["find_layers", "find_ready", "find_snapshot", "keep_ready", "keep_snapshot", "put_into"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def _digest(shop: Workshop) -> str:
    return digest_of(shop.digests, shop.network_digests, host_of(shop.hypervisor.host()), shop.directory)


def find_ready(shop: Workshop) -> State | None:
    """The ready state of this very lab: its own, or the newest that was saved under another name."""
    digest = _digest(shop)
    same = [m for m in states(shop.hypervisor) if not m.name and m.digest == digest]
    best_first = sorted(same, key=lambda m: (m.lab == shop.lab.name, m.saved_at), reverse=True)
    return next((s for m in best_first if (s := load_state(shop.hypervisor, m))), None)


def find_layers(hypervisor: Hypervisor, lab: str, wanted: Mapping[str, Digests], secrets: Secrets) -> dict[str, Layer]:
    """By node, what a new node can begin with instead of a parent; all from one state, so that they fit each other.

    Args:
        lab: the name of the lab that is to be made.
        wanted: what its nodes are made from.
        secrets: that it has already; a state with others would not fit the nodes that are there.
    """
    volumes, host = hypervisor.volumes(), host_of(hypervisor.host())
    ready = [m for m in states(hypervisor) if not m.name and same_nodes(m, wanted) and m.secrets.fit(secrets)]
    if not ready:
        return {}
    best = max(ready, key=lambda m: (len(same_nodes(m, wanted)), m.saved_at))
    return dict(_layers(hypervisor, best, lab, same_nodes(best, wanted), volumes, host))


def _layers(
    hypervisor: Hypervisor,
    manifest: Manifest,
    lab: str,
    nodes: tuple[str, ...],
    volumes: tuple[VolumeInfo, ...],
    host: str,
) -> Iterator[tuple[str, Layer]]:
    there = {v.name: v for v in volumes}
    why_boot = "" if manifest.host == host else f"its RAM was saved under {manifest.host or 'conditions that are gone'}"
    for node in nodes:
        names = volume_names(manifest.key, node)
        disk, made = there.get(names[0]), manifest.nodes[node]
        chain = backing_chain(volumes, disk) if disk else []
        if disk is None or chain[-1].backing_path or len(chain) > MOST_LAYERS:
            continue
        identity = made.identity if manifest.lab == lab else ""
        mark = Mark(lab, node, made.machine, Stage.READY, identity, made.cluster)
        machine = None if why_boot else load_machine(hypervisor, *names)
        why = "" if machine else why_boot or "its saved RAM can't be read"
        yield node, Layer(mark, disk, machine, why, manifest.secrets)


def keep_ready(shop: Workshop) -> None:
    """Save the lab, which must be ready, and forget the ready states that its name had before.

    Raises:
        LabError, ExceptionGroup: it could not be saved whole; the lab runs on.
    """
    _forget_older(shop, _keep(shop, f"ready-{_digest(shop)[:12]}", "", "the ready state"))
    for entry in prune(shop.hypervisor, now_s=time.time(), lab=shop.lab.name):
        shop.progress.note(f"removed {entry.kind} {entry.name}, for room: labctl cache ls shows what is kept")


def find_snapshot(shop: Workshop, name: str) -> State:
    """A snapshot of this lab, made from what the lab is made from now.

    Raises:
        InputError: there is none, or it can't be restored, with the reason.
    """
    lab = shop.lab.name
    named = [m for m in states(shop.hypervisor) if m.lab == lab and m.name == name]
    if not named:
        raise InputError(f"lab {lab} has no snapshot {name}", hint="labctl snapshot ls shows what there is")
    manifest, state = named[-1], load_state(shop.hypervisor, named[-1])
    here = host_of(shop.hypervisor.host())
    if manifest.host != here:
        raise InputError(f"snapshot {name} was saved under {manifest.host}, and here runs {here}")
    if manifest.digest != _digest(shop):
        raise InputError(
            f"snapshot {name} was made from another topology, image or role than lab {lab} is made from now"
        )
    if state is None:
        why = why_not_whole(shop.hypervisor, manifest) or "a save image is of a kind unknown to us"
        raise InputError(f"snapshot {name} can't be restored: {why}", hint=f"labctl snapshot rm {name}")
    return state


def keep_snapshot(shop: Workshop, name: str) -> None:
    """Save the lab, which must be ready, under a name; an older snapshot of that name goes once the new one is whole.

    Raises:
        InputError: `name` can't be a name.
        LabError, ExceptionGroup: it could not be saved whole; the lab runs on.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"snapshot name {name!r}: expected up to 32 lower-case letters, digits and hyphens")
    _keep(shop, f"snap_{shop.lab.name}_{name}", name, f"snapshot {name}")
    sweep(shop.hypervisor, now_s=time.time(), lab=shop.lab.name)


def _keep(shop: Workshop, stem: str, name: str, what: str) -> Manifest:
    hypervisor, lab = shop.hypervisor, shop.lab
    nodes = {n.name: shop.digests[n.name] for n in lab.nodes}
    key, host = free_key(hypervisor, stem), host_of(hypervisor.host())
    manifest = Manifest(key, name, lab.name, _digest(shop), host, nodes, time.time(), whole=True, secrets=shop.secrets)
    paused_s = save_state(
        hypervisor, manifest, shop.directory, Inside(lambda n: _flush(shop, n), lambda n: _set_clock(shop, n))
    )
    state = load_state(hypervisor, manifest)
    size_mib = state.size_bytes >> 20 if state else 0
    shop.progress.note(f"saved {what}, {size_mib} MiB; the guests were paused for {paused_s:.1f} s")
    return manifest


def _forget_older(shop: Workshop, kept: Manifest) -> None:
    volumes = shop.hypervisor.volumes()
    for old in states(shop.hypervisor):
        others = [u for u in state_users(volumes, old.key) if u != kept.lab and not u.startswith("state.")]
        if old.lab == kept.lab and old.key != kept.key and not old.name and not others:
            discard_state(shop.hypervisor, old.key)


def put_into(shop: Workshop, state: State) -> None:
    """Put every node into a saved state, all at once; nodes that are there are set back, others are made.

    In a lab of another name than the saved one, nodes still have to be specialised: their marks say so. The lab takes
    over the saved one's secrets.

    Raises:
        LabError, ExceptionGroup: it could not be restored whole.
    """
    if state.manifest.secrets != load_secrets(shop.hypervisor, shop.lab.name):
        save_secrets(shop.hypervisor, shop.lab.name, state.manifest.secrets)
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


def _flush(shop: Workshop, node: str) -> None:
    shop.guest(node).succeed(["/bin/sync"], within_s=SYNC_WITHIN_S)


def _set_clock(shop: Workshop, node: str) -> None:
    guest = shop.guest(node)
    guest.wait_for_agent(Deadline.within(shop.bounds.boot_s))
    guest.set_clock()
