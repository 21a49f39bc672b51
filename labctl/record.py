"""What a lab was made from, kept with the lab: its topology's text, in a volume of its own in labctl's pool.

So every command finds the lab again by its name alone, wherever the hypervisor can be reached, without a state file.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass

from labctl.errors import InputError
from labctl.hypervisor.seam import Hypervisor
from labctl.render.names import record_name
from labctl.render.xml import base_xml
from labctl.topology.spec import Accelerator

__all__ = ["Record", "load_record", "save_record"]

ROOM_BYTES = 1 << 18  # a topology of 32 members takes some 10 KiB


@dataclass(frozen=True, slots=True)
class Record:
    """How a lab was asked for.

    Attributes:
        file: the topology's file as the user named it, for messages.
        text: what was in it.
    """

    file: str
    text: str
    accelerator: Accelerator


def save_record(hypervisor: Hypervisor, lab: str, record: Record) -> None:
    """Keep `record` with the lab; writes nothing when it is there already.

    Raises:
        InputError: the topology is too large to keep.
    """
    if load_record(hypervisor, lab) == record:
        return
    data = json.dumps(asdict(record)).encode()
    if len(data) > ROOM_BYTES:
        raise InputError(f"{record.file}: {len(data)} bytes are more than the {ROOM_BYTES} that a lab can keep")
    hypervisor.remove_volume(record_name(lab))
    hypervisor.create_volume(base_xml(record_name(lab), ROOM_BYTES, "raw"))
    hypervisor.upload_volume(record_name(lab), io.BytesIO(data.ljust(ROOM_BYTES)), ROOM_BYTES, lambda _sent: None)


def load_record(hypervisor: Hypervisor, lab: str) -> Record | None:
    """The lab's record; None when there is none, or it was cut short by a crash."""
    if hypervisor.volume(record_name(lab)) is None:
        return None
    try:
        raw = json.loads(b"".join(hypervisor.download_volume(record_name(lab))).rstrip())
        return Record(raw["file"], raw["text"], Accelerator(raw["accelerator"]))
    except (ValueError, KeyError, TypeError):
        return None
