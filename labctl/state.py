"""The state of a whole lab, RAM and disks of all its nodes together: saved once, then restored in seconds.

A state is, for each node, `state.KEY.NODE.qcow2` (a copy of the node's overlay, frozen) and `state.KEY.NODE.ram`
(libvirt's save image), and `state.KEY.lab.manifest`, which is written last. All nodes are paused before the first is
saved, and all go on together, so that what was under way between them lives on. A restored node is a fork of the saved
one, so a lab of another name can stand on the same state, with the same addresses inside.
"""

from __future__ import annotations

import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.machines import Machine, fork, load_machine
from labctl.parallel import for_all
from labctl.render.names import domain_name, overlay_name
from labctl.render.xml import DomainPlan, base_xml, domain_xml, overlay_xml

__all__ = [
    "Manifest",
    "State",
    "find_state",
    "remove_state",
    "restore_nodes",
    "resume_together",
    "save_state",
    "state_users",
    "states",
]

_MANIFEST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a state is of.

    Attributes:
        lab: the name of the lab that was saved.
        digest: names all that the lab was made from; only a lab of the same can be restored from it.
        nodes: in the order of the topology.
        saved_at: seconds since the epoch.
    """

    key: str
    lab: str
    digest: str
    nodes: tuple[str, ...]
    saved_at: float


@dataclass(frozen=True)
class State:
    """A complete state, with the machine that each node goes on from."""

    manifest: Manifest
    machines: dict[str, Machine]

    @property
    def size_bytes(self) -> int:
        """What it takes on the host."""
        return sum(m.disk.allocation_bytes + m.ram.allocation_bytes for m in self.machines.values())


def _volumes(key: str, node: str) -> tuple[str, str]:
    return f"state.{key}.{node}.qcow2", f"state.{key}.{node}.ram"


def _manifest_name(key: str) -> str:
    return f"state.{key}.lab.manifest"


def states(hypervisor: Hypervisor) -> tuple[Manifest, ...]:
    """All states whose manifest can be read, by key."""
    names = [v.name for v in hypervisor.volumes() if v.name.startswith("state.") and v.name.endswith(".lab.manifest")]
    found = (_read_manifest(hypervisor, name) for name in sorted(names))
    return tuple(m for m in found if m)


def _read_manifest(hypervisor: Hypervisor, name: str) -> Manifest | None:
    try:
        raw = json.loads(b"".join(hypervisor.download_volume(name)))
        return Manifest(**{**raw, "nodes": tuple(raw["nodes"])})
    except (ValueError, TypeError, KeyError):
        return None


def find_state(hypervisor: Hypervisor, key: str, digest: str) -> State | None:
    """The state of that key; None when it isn't there, is of another lab, or is not whole."""
    if hypervisor.volume(_manifest_name(key)) is None:
        return None
    manifest = _read_manifest(hypervisor, _manifest_name(key))
    if manifest is None or manifest.digest != digest:
        return None
    machines = {node: load_machine(hypervisor, *_volumes(key, node)) for node in manifest.nodes}
    complete = {node: machine for node, machine in machines.items() if machine}
    return State(manifest, complete) if len(complete) == len(machines) else None


def state_users(hypervisor: Hypervisor, key: str) -> tuple[str, ...]:
    """The labs that stand on a state, sorted."""
    volumes = hypervisor.volumes()
    paths = {v.path for v in volumes if v.name.startswith(f"state.{key}.")}
    return tuple(sorted({v.lab or v.name for v in volumes if v.backing_path in paths}))


def remove_state(hypervisor: Hypervisor, key: str) -> None:
    """Remove a state, the manifest first, so that no half of it looks whole.

    Raises:
        HypervisorError: a lab stands on it.
    """
    users = state_users(hypervisor, key)
    if users:
        raise HypervisorError(f"state {key} is in use by {', '.join(users)}", hint="labctl destroy those labs first")
    mine = [v for v in hypervisor.volumes() if v.name.startswith(f"state.{key}.")]
    for volume in sorted(mine, key=lambda v: not v.name.endswith(".manifest")):
        hypervisor.remove_volume(volume.name)


def save_state(hypervisor: Hypervisor, manifest: Manifest, directory: str, set_clock: Callable[[str], None]) -> float:
    """Save all nodes of a running lab, and let it run on.

    Args:
        directory: of labctl's pool.
        set_clock: gives a node the host's time.

    Returns:
        Seconds for which the guests were paused.

    Raises:
        LabError, ExceptionGroup: it could not be saved whole: nothing of it is kept, and the lab runs on as far as
            its nodes could be restored.
    """
    remove_state(hypervisor, manifest.key)
    began_s = time.monotonic()
    names = {node: domain_name(manifest.lab, node) for node in manifest.nodes}
    for_all(hypervisor.suspend, names.values())
    saved: list[str] = []
    try:
        for_all(lambda node: _save_node(hypervisor, manifest, node, names[node], directory, saved), manifest.nodes)
    except BaseException:
        _go_on(hypervisor, manifest, names, saved)
        remove_state(hypervisor, manifest.key)
        raise
    _go_on(hypervisor, manifest, names, saved)
    paused_s = time.monotonic() - began_s
    for_all(set_clock, manifest.nodes)
    data = json.dumps(asdict(manifest)).encode().ljust(_MANIFEST_BYTES)
    hypervisor.create_volume(base_xml(_manifest_name(manifest.key), _MANIFEST_BYTES, "raw"))
    hypervisor.upload_volume(_manifest_name(manifest.key), io.BytesIO(data), _MANIFEST_BYTES, lambda _sent: None)
    return paused_s


def _save_node(
    hypervisor: Hypervisor, manifest: Manifest, node: str, name: str, directory: str, saved: list[str]
) -> None:
    disk, ram = _volumes(manifest.key, node)
    hypervisor.save_domain(name, f"{directory}/{ram}")
    saved.append(node)
    _copy_overlay(hypervisor, overlay_name(manifest.lab, node), disk)


def _copy_overlay(hypervisor: Hypervisor, source: str, target: str) -> None:
    """Copy an overlay as it is, backing store and all; what is under it is not copied."""
    original = hypervisor.volume(source)
    if original is None:
        raise HypervisorError(f"volume {source}: it vanished while the lab was saved")
    hypervisor.create_volume(overlay_xml(target, original.capacity_bytes, original.backing_path))
    with tempfile.TemporaryFile() as spool:
        for chunk in hypervisor.download_volume(source):
            spool.write(chunk)
        size_bytes = spool.tell()
        spool.seek(0)
        hypervisor.upload_volume(target, spool, size_bytes, lambda _sent: None)


def _go_on(hypervisor: Hypervisor, manifest: Manifest, names: dict[str, str], saved: list[str]) -> None:
    """Let all nodes run on together, those that were saved from their save image."""
    volumes = {v.name: v.path for v in hypervisor.volumes()}

    def back(node: str) -> None:
        hypervisor.restore_domain(volumes[_volumes(manifest.key, node)[1]], paused=True)

    for_all(back, [node for node in manifest.nodes if node in saved])
    resume_together(hypervisor, names.values())


def restore_nodes(hypervisor: Hypervisor, state: State, plans: dict[str, DomainPlan]) -> None:
    """Make every node of a lab a fork of its saved one, all paused; see `resume_together`.

    Args:
        plans: by node; a domain that is there already is kept, powered off and given a new disk.

    Raises:
        LabError, ExceptionGroup: what could not be restored; what could be is there, paused.
    """

    def one(node: str) -> None:
        plan, machine = plans[node], state.machines[node]
        name = domain_name(plan.mark.lab, plan.mark.name)
        if hypervisor.domain(name):
            hypervisor.power_off(name)
        else:
            hypervisor.define_domain(domain_xml(plan))
        overlay = overlay_name(plan.mark.lab, plan.mark.name)
        hypervisor.remove_volume(overlay)
        hypervisor.create_volume(overlay_xml(overlay, machine.disk.capacity_bytes, machine.disk.path))
        fork(hypervisor, machine, plan, paused=True)
        hypervisor.mark_domain(name, plan.mark)

    for_all(one, plans)


def resume_together(hypervisor: Hypervisor, domains: Iterable[str]) -> float:
    """Let paused domains run on at the same moment; returns how many seconds lay between the first and the last."""
    names = list(domains)
    barrier = threading.Barrier(len(names))
    at_s: list[float] = []

    def one(name: str) -> None:
        barrier.wait()
        hypervisor.resume(name)
        at_s.append(time.monotonic())

    for_all(one, names)
    return max(at_s) - min(at_s) if at_s else 0.0
