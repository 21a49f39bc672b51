"""What is kept in the pool: manifests of states, the machines that nodes go on from, and what may be removed."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import HostFacts, VolumeInfo
from labctl.machines import Machine, load_machine
from labctl.plan import Digests
from labctl.render.xml import base_xml
from labctl.secrets import Secrets

__all__ = [
    "MOST_LAYERS",
    "Manifest",
    "State",
    "backing_chain",
    "discard_state",
    "free_key",
    "host_of",
    "load_state",
    "remove_state",
    "same_nodes",
    "spoil_ram",
    "state_users",
    "states",
    "sweep",
    "volume_names",
    "why_not_whole",
    "write_manifest",
]

_MANIFEST_BYTES = 1 << 18  # secrets included
_UNFINISHED_S = 3600.0  # nobody is still at a save that began so long ago

MOST_LAYERS = 8  # of disks on top of each other, parent disk included; each costs a little at every read


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a state is of.

    Attributes:
        key: what its volumes are named by.
        name: of a snapshot; empty for a ready state.
        lab: the name of the lab that was saved.
        digest: names all that the lab was made from; only a lab of the same can be restored from it.
        host: the versions under which the RAM was saved; under others it can't be used. Empty once it was thrown away.
        nodes: what each node was made from, in the order of the topology.
        saved_at: seconds since the epoch.
        whole: that it was saved to its end.
        secrets: of the lab that was saved, which are in its nodes: whoever goes on from them takes those over.
    """

    key: str
    name: str
    lab: str
    digest: str
    host: str
    nodes: dict[str, Digests]
    saved_at: float
    whole: bool = False
    secrets: Secrets = field(default_factory=Secrets)


@dataclass(frozen=True)
class State:
    """A complete state, with the machine that each node goes on from."""

    manifest: Manifest
    machines: dict[str, Machine]

    @property
    def size_bytes(self) -> int:
        """What it takes on the host."""
        return sum(m.disk.allocation_bytes + m.ram.allocation_bytes for m in self.machines.values())


def host_of(facts: HostFacts) -> str:
    """The versions that a save image depends on: "QEMU 10.0.2, libvirt 11.3.0"."""
    qemu, libvirt = (".".join(map(str, v)) for v in (facts.hypervisor_version, facts.libvirt_version))
    return f"QEMU {qemu}, libvirt {libvirt}"


def volume_names(key: str, node: str) -> tuple[str, str]:
    """The volumes of a node's disk and RAM."""
    return f"state.{key}.{node}.qcow2", f"state.{key}.{node}.ram"


def _manifest_name(key: str) -> str:
    return f"state.{key}.lab.manifest"


def _key_of(volume: str) -> str:
    return volume.split(".")[1]


def free_key(hypervisor: Hypervisor, stem: str) -> str:
    """A key that begins with `stem` and that no volume has; the disks of an older state may still be stood on."""
    taken = {_key_of(v.name) for v in hypervisor.volumes() if v.name.startswith("state.")}
    return next(key for n in itertools.count(1) if (key := f"{stem}-{n}") not in taken)


def write_manifest(hypervisor: Hypervisor, manifest: Manifest) -> None:
    """Write it, in place of the one that is there."""
    name = _manifest_name(manifest.key)
    data = json.dumps(asdict(manifest)).encode().ljust(_MANIFEST_BYTES)
    if hypervisor.volume(name) is None:
        hypervisor.create_volume(base_xml(name, _MANIFEST_BYTES, "raw"))
    hypervisor.upload_volume(name, io.BytesIO(data), _MANIFEST_BYTES, lambda _sent: None)


def states(hypervisor: Hypervisor) -> tuple[Manifest, ...]:
    """All states that were saved to their end, oldest first."""
    return tuple(m for m in _manifests(hypervisor, hypervisor.volumes()).values() if m.whole)


def _manifests(hypervisor: Hypervisor, volumes: Iterable[VolumeInfo]) -> dict[str, Manifest]:
    """Those that can be read, by key, oldest first."""
    names = [v.name for v in volumes if v.name.startswith("state.") and v.name.endswith(".lab.manifest")]
    found = [m for name in names if (m := _read_manifest(hypervisor, name))]
    return {m.key: m for m in sorted(found, key=lambda m: m.saved_at)}


def _read_manifest(hypervisor: Hypervisor, name: str) -> Manifest | None:
    try:
        raw = json.loads(b"".join(hypervisor.download_volume(name)))
        nodes = {node: Digests(**digests) for node, digests in raw["nodes"].items()}
        secrets = Secrets.from_json(raw.get("secrets", asdict(Secrets())))
        return Manifest(**{**raw, "nodes": nodes, "secrets": secrets})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def load_state(hypervisor: Hypervisor, manifest: Manifest) -> State | None:
    """A state with its machines; None when it is not whole, see `why_not_whole`."""
    if why_not_whole(hypervisor, manifest):
        return None
    machines = {node: load_machine(hypervisor, *volume_names(manifest.key, node)) for node in manifest.nodes}
    complete = {node: machine for node, machine in machines.items() if machine}
    return State(manifest, complete) if len(complete) == len(machines) else None


def why_not_whole(hypervisor: Hypervisor, manifest: Manifest) -> str:
    """What a state lacks, for people; empty when nothing is missing."""
    volumes = {v.name: v for v in hypervisor.volumes()}
    for node in manifest.nodes:
        disk, ram = volume_names(manifest.key, node)
        if disk not in volumes:
            return f"the disk of {node} is gone"
        if ram not in volumes:
            return f"the RAM of {node} is gone"
        chain = backing_chain(volumes.values(), volumes[disk])
        if chain[-1].backing_path:
            return f"{chain[-1].backing_path}, on which the disk of {node} stands, is gone"
    return "" if manifest.whole else "it was not saved to its end"


def backing_chain(volumes: Iterable[VolumeInfo], disk: VolumeInfo) -> list[VolumeInfo]:
    """The disk and all that it stands on; the last one has a backing path only if that volume is gone."""
    by_path = {v.path: v for v in volumes}
    chain = [disk]
    while (below := by_path.get(chain[-1].backing_path)) and below not in chain:
        chain.append(below)
    return chain


def state_users(volumes: Iterable[VolumeInfo], key: str) -> tuple[str, ...]:
    """Who stands on a state, sorted: labs, and other states as `state.KEY`."""
    volumes = tuple(volumes)
    paths = {v.path for v in volumes if v.name.startswith(f"state.{key}.")}
    above = (v for v in volumes if v.backing_path in paths)
    return tuple(sorted({v.lab or f"state.{_key_of(v.name)}" for v in above}))


def remove_state(hypervisor: Hypervisor, key: str) -> None:
    """Remove a state.

    Raises:
        HypervisorError: something stands on it.
    """
    users = state_users(hypervisor.volumes(), key)
    if users:
        raise HypervisorError(f"state {key} is in use by {', '.join(users)}", hint="labctl destroy those labs first")
    discard_state(hypervisor, key)


def discard_state(hypervisor: Hypervisor, key: str) -> None:
    """Remove of a state what can be removed, the manifest first: all but the disks that something stands on.

    Those go with `sweep`, once nothing does.
    """
    volumes = hypervisor.volumes()
    stood_on = {v.backing_path for v in volumes}
    mine = [v for v in volumes if v.name.startswith(f"state.{key}.") and v.path not in stood_on]
    for volume in sorted(mine, key=lambda v: not v.name.endswith(".manifest")):
        hypervisor.remove_volume(volume.name)


def spoil_ram(hypervisor: Hypervisor, manifest: Manifest) -> None:
    """Throw away the RAM of a state that can't be restored; its disks stay, for nodes to be booted from."""
    write_manifest(hypervisor, replace(manifest, host=""))
    for node in manifest.nodes:
        hypervisor.remove_volume(volume_names(manifest.key, node)[1])


def sweep(hypervisor: Hypervisor, *, now_s: float, lab: str = "") -> None:
    """Remove what interrupted saves and discarded states left, as far as nothing stands on it.

    Args:
        now_s: seconds since the epoch.
        lab: whose lock the caller holds, so that no save of it can be under way.
    """
    volumes = hypervisor.volumes()
    manifests = _manifests(hypervisor, volumes)
    # Of two snapshots of one name, which a save leaves that was killed at its end, the newer one counts.
    latest = {(m.lab, m.name): m.key for m in manifests.values() if m.whole}
    for key in sorted({_key_of(v.name) for v in volumes if v.name.startswith("state.")}):
        manifest = manifests.get(key)
        superseded = bool(manifest and manifest.name and latest.get((manifest.lab, manifest.name), key) != key)
        if _dead(manifest, now_s, lab) or (superseded and manifest and manifest.lab == lab):
            discard_state(hypervisor, key)


def _dead(manifest: Manifest | None, now_s: float, lab: str) -> bool:
    if manifest is None:
        return True
    return not manifest.whole and (manifest.lab == lab or now_s - manifest.saved_at > _UNFINISHED_S)


def same_nodes(manifest: Manifest, wanted: Mapping[str, Digests]) -> tuple[str, ...]:
    """The nodes that were made from what the wanted ones of the same name are made from."""
    return tuple(n for n, made in manifest.nodes.items() if n in wanted and made.machine == wanted[n].machine)
