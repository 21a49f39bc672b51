"""Where a lab's SSH files lie on this host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SshFiles", "full_name"]


@dataclass(frozen=True, slots=True)
class SshFiles:
    """A lab's SSH files on this host, in a directory that nobody else may enter; they can be made again."""

    directory: Path

    @property
    def key(self) -> Path:
        """The private key; a session lets its public part in, for as long as it lasts."""
        return self.directory / "key"

    @property
    def public_key(self) -> Path:
        """The public part of `key`."""
        return self.directory / "key.pub"

    @property
    def configuration(self) -> Path:
        """The configuration that `labctl ssh` uses."""
        return self.directory / "config"

    def host_key(self, node: str) -> Path:
        """The node's host key, the only one that is accepted; told by the guest agent when a session begins."""
        return self.directory / f"{node}.known_hosts"

    def keep(self, path: Path, text: str) -> None:
        """Write one of the files, whole or not at all, for its owner alone."""
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        fresh.replace(path)


def full_name(lab: str, node: str) -> str:
    """What a node is called in configurations and host keys, whatever other labs there are."""
    return f"{node}.{lab}"
