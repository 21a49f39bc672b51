"""What a check has found, before it is known where in the file that stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Finding", "KeyPath", "dotted", "overlaps"]

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a topology.

    Attributes:
        path: the keys and list indexes that lead to it.
        says: what was found and what was expected; reads on after the path.
        needs: paths whose absence would explain the finding. It is dropped when something at one of them could not
            be read, so that one typing error isn't reported as ten missing nodes.
        at_key: it is the key that is wrong, not its value.
        other: the path of what it clashes with, which ends the sentence.
    """

    path: KeyPath
    says: str
    needs: tuple[KeyPath, ...] = ()
    at_key: bool = False
    other: KeyPath = ()

    def __str__(self) -> str:
        return f"{dotted(self.path)} {self.says}" + (f" {dotted(self.other)}" if self.other else "")


def dotted(path: KeyPath) -> str:
    """A path as people write it: `clusters.mail.members[0].node`; the whole file is `the topology`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the topology"


def overlaps(one: KeyPath, other: KeyPath) -> bool:
    """Whether one path leads to the other, or to something inside it."""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
