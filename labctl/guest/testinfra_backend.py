"""testinfra over the guest agent: its hosts need no SSH and no network."""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from labctl.guest.agent import Guest

__all__ = ["host"]

COMMAND_WITHIN_S = 120.0


class _AgentBackend(BaseBackend):  # type: ignore[misc]  # testinfra is not typed
    NAME = "labctl"

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        super().__init__(hostname=guest.name)

    def run(self, command: str, *args: str, **_kwargs: Any) -> CommandResult:
        line = self.get_command(command, *args)
        done = self._guest.run(["/bin/sh", "-c", line], within_s=COMMAND_WITHIN_S)
        return self.result(done.exit_code, self.encode(line), done.stdout, done.stderr)


def host(guest: Guest) -> Host:
    """The guest as a testinfra host: `host(guest).service("nginx").is_running`."""
    return Host(_AgentBackend(guest))
