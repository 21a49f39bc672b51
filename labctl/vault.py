"""A lab's secrets, kept with the lab in a volume of their own, which the hypervisor's root alone can read."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.render.names import secrets_name
from labctl.render.xml import base_xml
from labctl.roles.role import wanted_secrets
from labctl.secrets import Secrets
from labctl.topology.spec import LabSpec

__all__ = ["keep_secrets", "load_secrets", "save_secrets"]

ROOM_BYTES = 1 << 17  # a thousand users take some 50 KiB


def keep_secrets(hypervisor: Hypervisor, lab: LabSpec, given: Iterable[Secrets] = ()) -> Secrets:
    """The lab's secrets, all that its roles and users want; what is lacking is made now and kept.

    Args:
        given: what comes with saved nodes that the lab is made with; they fit what it has.

    Raises:
        HypervisorError: they are there and can't be read.
    """
    kept = load_secrets(hypervisor, lab.name)
    known = functools.reduce(Secrets.joined, given, kept)
    complete = known.completed(wanted_secrets(lab), tuple(u.name for u in lab.users), lab.domain)
    if complete != kept:
        save_secrets(hypervisor, lab.name, complete)
    return complete


def save_secrets(hypervisor: Hypervisor, lab: str, secrets: Secrets) -> None:
    """Keep them in place of those that the lab had.

    Raises:
        HypervisorError: they are too many to keep.
    """
    name, data = secrets_name(lab), json.dumps(asdict(secrets)).encode()
    if len(data) > ROOM_BYTES:
        raise HypervisorError(f"volume {name}: {len(data)} bytes of secrets; expected {ROOM_BYTES} at most")
    if hypervisor.volume(name) is None:
        hypervisor.create_volume(base_xml(name, ROOM_BYTES, "raw"))
    # Over the old ones in one go: between removing a volume and making another they could be lost.
    hypervisor.write_volume(name, 0, data.ljust(ROOM_BYTES))


def load_secrets(hypervisor: Hypervisor, lab: str) -> Secrets:
    """The lab's secrets; none when nothing was kept yet.

    Raises:
        HypervisorError: they are there and can't be read.
    """
    name = secrets_name(lab)
    if hypervisor.volume(name) is None:
        return Secrets()
    data = b"".join(hypervisor.download_volume(name)).rstrip(b" \0")
    if not data:
        return Secrets()  # labctl was killed before it wrote the first
    try:
        return Secrets.from_json(json.loads(data))
    except (ValueError, TypeError, AttributeError, KeyError):
        hint = f"labctl destroy --lab {lab}, then bring it up again"
        raise HypervisorError(f"volume {name}: the lab's secrets can't be read", hint=hint) from None
