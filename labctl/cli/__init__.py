"""The command line: `labctl`."""
# ruff: noqa: I001 -- the order of the command modules is that of `--help`

from __future__ import annotations

import sys

from labctl.cli.app import app
from labctl.console import SAYS
from labctl.errors import InputError, LabError
from labctl.process import end_in_order

# The commands register themselves with `app`, in the order of `--help`.
from labctl.cli import lab_commands, fault_commands, campaign_commands, snapshot_commands  # noqa: F401
from labctl.cli import verdict_commands, node_commands, ssh_commands, cluster_commands  # noqa: F401
from labctl.cli import secrets_commands, ca_commands  # noqa: F401
from labctl.cli import image_commands, cache_commands, host_commands  # noqa: F401

__all__ = ["main"]


def main() -> None:
    """Run the command line; errors become a message, a next step and an exit code.

    0 fine, 1 verdict failed, 2 bad input, 3 environment, 4 deadline, 130 interrupted, 141 nobody reads our output,
    129 and 143 ended by SIGHUP and SIGTERM.
    """
    end_in_order()
    try:
        app(prog_name="labctl", standalone_mode=True)
    except LabError as error:
        _say(error)
        sys.exit(error.exit_code)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if not all(isinstance(leaf, LabError) for leaf in leaves):
            raise
        for leaf in leaves:
            _say(leaf)
        sys.exit(max(leaf.exit_code for leaf in leaves if isinstance(leaf, LabError)))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def _say(error: BaseException) -> None:
    if isinstance(error, InputError) and error.problems:
        for problem in error.problems:
            SAYS.print(str(problem), markup=False)
    SAYS.print(f"labctl: {error}", style="bold red", markup=False)
    if isinstance(error, LabError) and error.hint:
        SAYS.print(f"  next: {error.hint}", markup=False)
