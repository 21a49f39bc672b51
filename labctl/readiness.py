"""Waiting until a role serves: its own checks, run in the guest until each ends with 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labctl.clock import Deadline, wait_until
from labctl.errors import DeadlineExceeded
from labctl.guest.agent import Guest
from labctl.roles.role import ReadyCheck

__all__ = ["failing", "wait_ready"]


def wait_ready(
    guest: Guest, role: str, checks: Sequence[ReadyCheck], deadline: Deadline, tell: Callable[[str], None]
) -> None:
    """Wait until all checks of a role pass, one after the other; a long wait is told about.

    Raises:
        DeadlineExceeded: naming the node, the role, the check, and what it last said.
    """
    for check in checks:

        def probe(check: ReadyCheck = check) -> tuple[bool | None, str]:
            why_not = failing(guest, check)
            return (None if why_not else True), why_not

        wait_until(f"{guest.name}: {role}: {check.what}", probe, deadline, every_s=0.5, tell=tell)


def failing(guest: Guest, check: ReadyCheck, *, within_s: float = 20.0) -> str:
    """Why a check fails at this moment; empty when it passes."""
    try:
        done = guest.run(["/bin/sh", "-c", check.command], within_s=within_s)
    except DeadlineExceeded as late:
        return str(late)
    if done.exit_code == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
    return f"exit code {done.exit_code}: {said}"
