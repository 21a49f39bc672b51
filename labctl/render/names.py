"""The names of everything that a lab owns, all in one place.

A volume's name says which lab it belongs to, since libvirt gives volumes no metadata; see `inventory.lab_of_volume`.
"""

from __future__ import annotations

import hashlib

__all__ = [
    "SSH_CHANNELS",
    "bridge_name",
    "console_log_name",
    "domain_name",
    "handover_name",
    "network_name",
    "of_the_lab_itself",
    "overlay_name",
    "ram_name",
    "record_name",
    "secrets_name",
]

SSH_CHANNELS = tuple(f"labctl.ssh.{number}" for number in range(8))
"""A domain's virtio-serial channels for SSH. One carries one session, so that none can be in another's way."""


def domain_name(lab: str, node: str) -> str:
    """libvirt's name of a node; neither part holds a dot, so no two pairs share a name."""
    return f"{lab}.{node}"


def network_name(lab: str, network: str) -> str:
    """libvirt's name of a lab's network."""
    return f"{lab}.{network}"


def bridge_name(lab: str, network: str) -> str:
    """The host's bridge of a network: 12 characters, since the kernel takes no more than 15 (IFNAMSIZ)."""
    return f"lc{hashlib.sha256(f'{lab}/{network}'.encode()).hexdigest()[:10]}"


def overlay_name(lab: str, node: str) -> str:
    """The volume that a node writes to."""
    return f"lab.{lab}.{node}.qcow2"


def console_log_name(lab: str, node: str) -> str:
    """The volume that a node's serial console is logged to.

    virtlogd turns it over to `….log.0`, `….log.1` and so on at 2 MiB; those names belong to the lab, too.
    """
    return f"lab.{lab}.{node}.console.log"


def ram_name(lab: str, node: str) -> str:
    """The volume that a node's RAM comes from while it is forked; gone once it runs."""
    return f"lab.{lab}.{node}.ram"


def record_name(lab: str) -> str:
    """The volume that keeps what the lab was made from."""
    return f"lab.{lab}.topology.json"


def secrets_name(lab: str) -> str:
    """The volume that keeps the lab's passwords and keys."""
    return f"lab.{lab}.secrets.json"


def handover_name(lab: str) -> str:
    """The volume that keeps what nodes hand over to the machines that take their place."""
    return f"lab.{lab}.handover.json"


def of_the_lab_itself(lab: str) -> frozenset[str]:
    """The lab's volumes that are no node's, whatever its nodes are called."""
    return frozenset({record_name(lab), secrets_name(lab), handover_name(lab)})
