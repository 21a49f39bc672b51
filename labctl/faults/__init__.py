"""Faults: what to break, and the breaking."""

from labctl.faults.inject import Ground, confirm, heal, inject, injected
from labctl.faults.model import Fault, LinkDown, Pause, PowerOff

__all__ = ["Fault", "Ground", "LinkDown", "Pause", "PowerOff", "confirm", "heal", "inject", "injected"]
