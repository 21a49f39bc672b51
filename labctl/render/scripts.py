"""Shell scripts that lie in a guest and outlive the labctl that started them."""

from __future__ import annotations

__all__ = ["alone"]

# -o: what the script starts does not hold the lock on. util-linux, flock(1).
_WAIT = '[ "${LABCTL_ALONE:-}" ] || exec env LABCTL_ALONE=1 flock -o /run/lock/labctl-script "$0" "$@"\n'


def alone(script: str) -> str:
    """`script`, which begins with a `#!` line, made to wait until no other one made like this runs in the guest.

    When labctl is killed its script runs on, and that of the next labctl must not run beside it.
    """
    first, rest = script.split("\n", 1)
    return f"{first}\n{_WAIT}{rest}"
