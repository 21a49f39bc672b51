"""Waiting until a role serves: its own checks, run in the guest until each ends with 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from labctl.clock import Clock, Deadline, wait_until
from labctl.errors import DeadlineExceeded, LabError
from labctl.guest.agent import Guest
from labctl.history import HistoryWriter, ReadinessEvent
from labctl.parallel import repeated
from labctl.roles.role import ReadyCheck, role_checks
from labctl.topology.spec import LabSpec, NodeSpec

__all__ = ["failing", "wait_ready", "watching_readiness"]


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


@contextmanager
def watching_readiness(
    lab: LabSpec, guest: Callable[[str], Guest], history: HistoryWriter, clock: Clock, *, every_s: float = 2.0
) -> Iterator[None]:
    """Record when a node goes away and comes back, and when what it serves then passes its checks.

    The checks of a node that was there all the time are left alone: they are work, which emulated guests would do in
    place of the clients'.
    """
    away: dict[str, str] = {}
    pending: dict[str, list[tuple[str, ReadyCheck]]] = {}
    told: set[tuple[str, str]] = set()  # the checks that were said to fail

    def record(node: str, role: str, check: str, why_not: str) -> None:
        history.append(ReadinessEvent(clock.now_s(), node, role, check, not why_not, why_not))

    def look(node: NodeSpec) -> None:
        why_not = _why_away(guest(node.name))
        if bool(why_not) != bool(away.get(node.name, "")):
            record(node.name, "", "", why_not)
            back = [] if why_not else [(role, c) for role, checks in role_checks(lab, node).items() for c in checks]
            pending[node.name] = back
        away[node.name] = why_not

    def check(node: str) -> None:
        for role, one in tuple(pending.get(node, ())):
            why_not = _said(guest(node), one)
            if not why_not:
                pending[node].remove((role, one))
            if not why_not or (node, one.what) not in told:
                record(node, role, one.what, why_not)
            (told.add if why_not else told.discard)((node, one.what))

    def once() -> None:
        for node in lab.nodes:
            look(node)
            check(node.name)

    with repeated(once, "readiness", every_s=every_s):
        yield


def _said(guest: Guest, check: ReadyCheck) -> str:
    try:
        return failing(guest, check)
    except LabError as error:
        return str(error)


def _why_away(guest: Guest) -> str:
    try:
        return guest.answers()
    except LabError as error:
        return str(error)
