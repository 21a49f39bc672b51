"""Faults as data: what to break; how is in `inject`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fault", "LinkDown", "Pause", "PowerOff"]


@dataclass(frozen=True, slots=True)
class PowerOff:
    """The node's plug is pulled; healed by powering it on."""

    node: str

    @property
    def kind(self) -> str:
        """As the history names it."""
        return "power-off"


@dataclass(frozen=True, slots=True)
class Pause:
    """The node's virtual CPUs stop, as when it hangs; healed by letting them run on."""

    node: str

    @property
    def kind(self) -> str:
        """As the history names it."""
        return "pause"


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A NIC's cable is pulled: the guest sees the carrier go; healed by plugging it in."""

    node: str
    nic: str

    @property
    def kind(self) -> str:
        """As the history names it."""
        return f"link-down {self.nic}"


Fault = PowerOff | Pause | LinkDown
