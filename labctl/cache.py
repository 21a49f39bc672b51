"""What labctl keeps so that labs need not be made twice: saved states and parent machines, and the bounds on them.

Nothing that a lab stands on is ever removed. Named snapshots are the user's and are left alone unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import VolumeInfo
from labctl.state import Manifest, remove_state, state_users, states

__all__ = ["MOST_AGE_S", "MOST_BYTES", "Entry", "entries", "prune"]

MOST_BYTES = 20 << 30
MOST_AGE_S = 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is kept.

    Attributes:
        kind: `ready state`, `snapshot` or `machine`.
        name: of a state its key, of a machine the stem of its volumes' names.
        lab: that it was saved from; empty for a machine.
        saved_at: seconds since the epoch; None for a machine.
        used_by: labs, and for a machine also states (`state.KEY`), that stand on it.
    """

    kind: str
    name: str
    lab: str
    size_bytes: int
    saved_at: float | None
    used_by: tuple[str, ...]


def entries(hypervisor: Hypervisor) -> tuple[Entry, ...]:
    """All that is kept: states, oldest first, then machines."""
    volumes = hypervisor.volumes()
    found = [_state(hypervisor, volumes, m) for m in sorted(states(hypervisor), key=lambda m: m.saved_at)]
    disks = [v for v in volumes if v.name.startswith("machine.") and v.name.endswith(".qcow2")]
    return (*found, *(_machine(volumes, disk) for disk in disks))


def _state(hypervisor: Hypervisor, volumes: tuple[VolumeInfo, ...], manifest: Manifest) -> Entry:
    size = sum(v.allocation_bytes for v in volumes if v.name.startswith(f"state.{manifest.key}."))
    kind = "ready state" if manifest.key.startswith("ready-") else "snapshot"
    users = state_users(hypervisor, manifest.key)
    return Entry(kind, manifest.key, manifest.lab, size, manifest.saved_at, users)


def _machine(volumes: tuple[VolumeInfo, ...], disk: VolumeInfo) -> Entry:
    stem = disk.name.removesuffix(".qcow2")
    size = sum(v.allocation_bytes for v in volumes if v.name in {disk.name, f"{stem}.ram"})
    # A state's volumes are `state.KEY.…`: the state is named once, not each of its disks.
    users = {v.lab or ".".join(v.name.split(".")[:2]) for v in volumes if v.backing_path == disk.path}
    return Entry("machine", stem, "", size, None, tuple(sorted(users)))


def prune(
    hypervisor: Hypervisor,
    *,
    now_s: float,
    most_bytes: int = MOST_BYTES,
    most_age_s: float = MOST_AGE_S,
    snapshots: bool = False,
) -> tuple[Entry, ...]:
    """Remove what is too old, then the oldest until the rest is small enough; returns what was removed.

    Args:
        now_s: seconds since the epoch.
        most_bytes: that all of it may take; machines go after the states that stand on them.
        most_age_s: of a state.
        snapshots: whether named snapshots may go, too.
    """
    removed: list[Entry] = []
    total = sum(e.size_bytes for e in entries(hypervisor))
    for entry in entries(hypervisor):
        old = entry.saved_at is not None and now_s - entry.saved_at > most_age_s
        if entry.kind == "machine" or entry.used_by or (entry.kind == "snapshot" and not snapshots):
            continue
        if old or total > most_bytes:
            remove_state(hypervisor, entry.name)
            removed.append(entry)
            total -= entry.size_bytes
    for entry in entries(hypervisor):
        if entry.kind == "machine" and not entry.used_by and total > most_bytes:
            for part in ("ram", "qcow2"):
                hypervisor.remove_volume(f"{entry.name}.{part}")
            removed.append(entry)
            total -= entry.size_bytes
    return tuple(removed)
