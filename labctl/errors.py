"""The exceptions of labctl, and the exit code that the command line makes of each.

    LabError                   3  whatever went wrong, with a hint at the next step
    ├── InputError             2  what the user wrote can't be used; holds every problem at once
    ├── HostError              3  the host lacks something, or a host program failed
    │   └── HypervisorError    3  libvirt refused or failed
    │       └── ChannelTaken   3  somebody else has that channel open
    ├── GuestError             3  a guest did not do what it was asked
    │   ├── AgentGone          3  the guest agent does not answer
    │   └── CommandFailed      3  a command in a guest ended with a code that was not expected
    ├── DeadlineExceeded       4  a bounded wait ran out
    └── VerdictFailed          1  the measurement says FAIL or INCONCLUSIVE

Only the command line turns an error into an exit code; a library caller catches the class it can mend.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AgentGone",
    "ChannelTaken",
    "CommandFailed",
    "DeadlineExceeded",
    "GuestError",
    "HostError",
    "HypervisorError",
    "InputError",
    "LabError",
    "Problem",
    "VerdictFailed",
    "causes",
]


class LabError(Exception):
    """Something went wrong; `str()` says what was found and what was expected.

    Attributes:
        hint: the next step, a sentence or a command that works when typed; empty when there is none.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with an input file.

    Attributes:
        file: the file's name as the user gave it.
        line: 1-based; 0 when the file as a whole is meant.
        column: 1-based; 0 when the file as a whole is meant.
        message: names the object, what was found and what was expected.
    """

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.message}"


class InputError(LabError):
    """What the user gave can't be used. `problems` holds all of them, in the order of the file."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class HostError(LabError):
    """The host lacks something, or one of its programs failed."""


class HypervisorError(HostError):
    """libvirt refused or failed; the message carries the object and libvirt's own words."""


class ChannelTaken(HypervisorError):
    """Somebody else has that channel to a guest open."""


class GuestError(LabError):
    """A guest did not do what it was asked."""


class AgentGone(GuestError):
    """The guest agent does not answer: not started, hung, or its domain is off."""


class CommandFailed(GuestError):
    """A command in a guest ended with an exit code that was not expected."""


class DeadlineExceeded(LabError):
    """A bounded wait ran out; the message says what was awaited, what was last seen and where the evidence lies."""

    exit_code = 4


class VerdictFailed(LabError):
    """A measurement was judged, and the verdict is not PASS."""

    exit_code = 1


def causes(failure: BaseException) -> str:
    """What failed, in one line: a group's own message hides what it is made of."""
    if isinstance(failure, BaseExceptionGroup):
        return "; ".join(causes(part) for part in failure.exceptions)
    return str(failure)
