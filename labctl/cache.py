"""What labctl keeps so that labs need not be made twice: saved states and parent machines, and the bounds on them.

Nothing that a lab stands on is ever removed. Named snapshots are the user's and are left alone unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import VolumeInfo
from labctl.state.kept import Manifest, backing_chain, discard_state, remove_state, state_users, states, sweep

__all__ = ["MOST_AGE_S", "MOST_BYTES", "Entry", "drop_broken", "entries", "prune"]

MOST_BYTES = 20 << 30
MOST_AGE_S = 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is kept.

    Attributes:
        kind: `ready state`, `snapshot`, `layers` (a state of which only disks are left) or `machine`.
        name: of a state its key, of a machine the stem of its volumes' names.
        lab: that it was saved from; empty if nobody knows.
        saved_at: seconds since the epoch; None if nobody knows.
        used_by: labs, and states (`state.KEY`), that stand on it.
    """

    kind: str
    name: str
    lab: str
    size_bytes: int
    saved_at: float | None
    used_by: tuple[str, ...]


def entries(hypervisor: Hypervisor) -> tuple[Entry, ...]:
    """All that is kept: what is left of discarded states, then states, oldest first, then machines."""
    volumes = hypervisor.volumes()
    whole = {m.key: m for m in states(hypervisor)}
    rest = sorted({v.name.split(".")[1] for v in volumes if v.name.startswith("state.")} - whole.keys())
    disks = [v for v in volumes if v.name.startswith("machine.") and v.name.endswith(".qcow2")]
    return (
        *(_state(volumes, key, None) for key in rest),
        *(_state(volumes, key, manifest) for key, manifest in whole.items()),
        *(_machine(volumes, disk) for disk in disks),
    )


def _state(volumes: tuple[VolumeInfo, ...], key: str, manifest: Manifest | None) -> Entry:
    size = sum(v.allocation_bytes for v in volumes if v.name.startswith(f"state.{key}."))
    users = state_users(volumes, key)
    if manifest is None:
        return Entry("layers", key, "", size, None, users)
    kind = "snapshot" if manifest.name else "ready state" if manifest.host else "layers"
    return Entry(kind, key, manifest.lab, size, manifest.saved_at, users)


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
    lab: str = "",
) -> tuple[Entry, ...]:
    """Remove what is left of interrupted saves and what is too old, then the oldest until the rest is small enough.

    Args:
        now_s: seconds since the epoch.
        most_bytes: that all of it may take; machines go after the states that stand on them.
        most_age_s: of a state.
        snapshots: whether named snapshots may go, too.
        lab: whose lock the caller holds.

    Returns:
        What was removed to keep the bounds.
    """
    sweep(hypervisor, now_s=now_s, lab=lab)
    removed: list[Entry] = []
    total = sum(e.size_bytes for e in entries(hypervisor))
    for entry in entries(hypervisor):
        old = entry.saved_at is not None and now_s - entry.saved_at > most_age_s
        kept = entry.saved_at is None or (entry.kind == "snapshot" and not snapshots)
        if kept or state_users(hypervisor.volumes(), entry.name):
            continue
        if old or total > most_bytes:
            remove_state(hypervisor, entry.name)
            removed.append(entry)
            total -= entry.size_bytes
    for entry in entries(hypervisor):
        if entry.kind == "machine" and not entry.used_by and total > most_bytes:
            _remove_machine(hypervisor, entry.name)
            removed.append(entry)
            total -= entry.size_bytes
    return tuple(removed)


def drop_broken(hypervisor: Hypervisor, say: Callable[[str], None]) -> None:
    """Forget states and machines whose parent disk is gone: on one that is built anew they would be garbage."""
    volumes = hypervisor.volumes()
    broken = {v.name for v in volumes if backing_chain(volumes, v)[-1].backing_path}
    for entry in entries(hypervisor):
        if not any(name.startswith((f"state.{entry.name}.", f"{entry.name}.")) for name in broken):
            continue
        say(f"{entry.kind} {entry.name} is thrown away: the disk that it stands on is gone")
        if entry.kind == "machine":
            _remove_machine(hypervisor, entry.name)
        else:
            discard_state(hypervisor, entry.name)


def _remove_machine(hypervisor: Hypervisor, name: str) -> None:
    for part in ("ram", "qcow2"):
        hypervisor.remove_volume(f"{name}.{part}")
