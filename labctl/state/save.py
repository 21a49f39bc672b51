"""Save a running lab, and let it run on.

All nodes are paused before the first is saved, and all go on together: what was under way between them lives on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.parallel import for_all
from labctl.render.names import domain_name, overlay_name
from labctl.render.xml import overlay_xml
from labctl.state.kept import Manifest, discard_state, volume_names, write_manifest
from labctl.state.restore import resume_together

__all__ = ["Inside", "save_state"]


@dataclass(frozen=True, slots=True)
class Inside:
    """What a save asks of the guests, by node.

    Attributes:
        flush: write all files to the disk, so that the disk alone can be booted from.
        set_clock: take the host's time.
    """

    flush: Callable[[str], None]
    set_clock: Callable[[str], None]


def save_state(hypervisor: Hypervisor, manifest: Manifest, directory: str, inside: Inside) -> float:
    """Save all nodes of a running lab.

    Args:
        manifest: with a key that no volume has.
        directory: of labctl's pool.

    Returns:
        Seconds for which the guests were paused.

    Raises:
        LabError, ExceptionGroup: it could not be saved whole: nothing of it is kept, and the lab runs on as far as
            its nodes could be restored.
    """
    write_manifest(hypervisor, replace(manifest, whole=False))
    saving = _Saving(hypervisor, manifest, directory)
    try:
        for_all(inside.flush, manifest.nodes)
        began_s = time.monotonic()
        try:
            for_all(hypervisor.suspend, saving.names.values())
            for_all(saving.save, manifest.nodes)
        finally:
            saving.go_on()
        paused_s = time.monotonic() - began_s
        for_all(inside.set_clock, manifest.nodes)
        write_manifest(hypervisor, replace(manifest, whole=True))
    except BaseException:
        discard_state(hypervisor, manifest.key)
        raise
    return paused_s


@dataclass(frozen=True)
class _Saving:
    """A save under way.

    Attributes:
        saved: the nodes whose domain ended when its RAM was written; added to by several threads.
    """

    hypervisor: Hypervisor
    manifest: Manifest
    directory: str
    saved: list[str] = field(default_factory=list)

    @property
    def names(self) -> dict[str, str]:
        """The domains, by node."""
        return {node: domain_name(self.manifest.lab, node) for node in self.manifest.nodes}

    def save(self, node: str) -> None:
        disk, ram = volume_names(self.manifest.key, node)
        self.hypervisor.save_domain(self.names[node], f"{self.directory}/{ram}")
        self.saved.append(node)
        _copy_overlay(self.hypervisor, overlay_name(self.manifest.lab, node), disk)

    def go_on(self) -> None:
        """Let all nodes run on together, those that were saved from their save image."""
        volumes = {v.name: v.path for v in self.hypervisor.volumes()}

        def back(node: str) -> None:
            self.hypervisor.restore_domain(volumes[volume_names(self.manifest.key, node)[1]], paused=True)

        for_all(back, self.saved)
        resume_together(self.hypervisor, self.names.values())


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
