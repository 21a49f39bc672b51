"""What nodes hand over to the machines that take their place: files that their roles name, kept with the lab meanwhile.

They are in a volume of the lab's own from before the old machine goes until the new one has them, so that a labctl that
was killed in between loses nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.render.names import handover_name
from labctl.render.xml import base_xml

__all__ = ["handed_over", "keep_for_successor", "nothing_more_to_hand_over"]

ROOM_BYTES = 1 << 24  # the list of a few thousand certificates


def keep_for_successor(hypervisor: Hypervisor, lab: str, node: str, files: Mapping[str, bytes]) -> None:
    """Keep files for the next machine of that name, in place of those that were kept for it before.

    Args:
        files: by path in the next machine.

    Raises:
        HypervisorError: they are too many to keep.
    """
    kept = {**_load(hypervisor, lab), node: {path: base64.b64encode(data).decode() for path, data in files.items()}}
    name, data = handover_name(lab), json.dumps(kept).encode()
    if len(data) > ROOM_BYTES:
        raise HypervisorError(f"volume {name}: {len(data)} bytes to hand over; expected {ROOM_BYTES} at most")
    if hypervisor.volume(name) is None:
        hypervisor.create_volume(base_xml(name, ROOM_BYTES, "raw"))
    hypervisor.write_volume(name, 0, data.ljust(ROOM_BYTES))


def handed_over(hypervisor: Hypervisor, lab: str, node: str) -> dict[str, bytes]:
    """What is kept for a node's new machine, by path in it."""
    return {path: base64.b64decode(text) for path, text in _load(hypervisor, lab).get(node, {}).items()}


def nothing_more_to_hand_over(hypervisor: Hypervisor, lab: str) -> None:
    """All of the lab's nodes have what was kept for them."""
    if hypervisor.volume(handover_name(lab)) is not None:
        hypervisor.remove_volume(handover_name(lab))


def _load(hypervisor: Hypervisor, lab: str) -> dict[str, dict[str, str]]:
    name = handover_name(lab)
    if hypervisor.volume(name) is None:
        return {}
    data = b"".join(hypervisor.download_volume(name)).rstrip(b" \0")
    try:
        found: dict[str, dict[str, str]] = json.loads(data or b"{}")
    except ValueError:
        hint = f"labctl destroy --lab {lab}, then bring it up again"
        raise HypervisorError(f"volume {name}: what nodes hand over can't be read", hint=hint) from None
    return found
