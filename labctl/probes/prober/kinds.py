"""The kinds of request by name; their modules are loaded only for who asks that way."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from .attempt import Attempt, Steps

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        module: of this package, in which `ask_…` does it.
        keeps: a source keeps its connections.
    """

    name: str
    module: str
    keeps: bool = False

    def load(self) -> Callable[[Attempt], Steps]:
        """The generator function that does one request."""
        module = importlib.import_module(f".{self.module}", __package__)
        ask: Callable[[Attempt], Steps] = getattr(module, f"ask_{self.name}")
        return ask


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tcp", "plain"),
        Kind("udp", "plain"),
        Kind("dns", "plain"),
        Kind("lines", "dialogue"),
        Kind("http", "web"),
        Kind("kept", "web", keeps=True),
        Kind("download", "web"),
        Kind("webmail", "webmail"),
        Kind("activesync", "activesync"),
        Kind("idle", "mail", keeps=True),
        Kind("submit", "mail"),
    )
}
