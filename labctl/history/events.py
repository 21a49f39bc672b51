"""The events of a history, and the schema of its file.

A history is JSON Lines in UTF-8. Each line is one event: an object whose key `event` names the kind, and whose other
keys are the attributes of the class of that kind below. Every time is in seconds on the host's CLOCK_MONOTONIC; lines
are in the order in which labctl learned of them, which for samples is later than they happened.

    event        class            written by
    opened       Opened           the writer, each time it opens the file; its `utc` ties the clock to the calendar
    sample       Sample           a running probe, per finished request
    fault        FaultEvent       who injects and heals faults
    membership   MembershipEvent  who watches a cluster
    sampler      SamplerEvent     a running probe, about itself
    clock        ClockEvent       who maps a guest's clock to the host's
    lab          LabEvent         who opens the history for a lab
    machine      MachineEvent     who watches the machines
    claim        ClaimEvent       who judges the history, so that it can be judged again
    test         TestEvent        the pytest plugin, at the end of the test that made the history
    mailbox      MailboxEvent     who reads a mailbox at the end
    journal      JournalEvent     who reads the guests' journals at the end
    readiness    ReadinessEvent   who watches whether the roles serve
    note         Note             anyone, for the reader at night
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = [
    "SCHEMA_VERSION",
    "ClaimEvent",
    "ClockEvent",
    "Event",
    "FaultEvent",
    "FaultPhase",
    "JournalEvent",
    "LabEvent",
    "MachineEvent",
    "MailboxEvent",
    "MembershipEvent",
    "Note",
    "Opened",
    "Outcome",
    "ReadinessEvent",
    "Sample",
    "SamplerEvent",
    "SamplerKind",
    "TestEvent",
    "Window",
]

# 2: lab, machine, claim; a sample's connection and answers
# 3: test, mailbox, journal, readiness; a sample's mail, and the outcome lost
SCHEMA_VERSION = 3


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    OK = "ok"
    REFUSED = "refused"  # the connection was refused
    RESET = "reset"  # it was broken off before the answer was complete
    TIMEOUT = "timeout"  # no complete answer within the probe's timeout
    UNREACHABLE = "unreachable"  # no route, or nobody answers ARP
    LOST = "lost"  # the server does not know the session any more that this client had
    WRONG = "wrong"  # an answer that is not what was expected: body, status, certificate
    ERROR = "error"  # the probe itself could not make the request; says nothing about the service


class FaultPhase(StrEnum):
    """Where in its life a fault is."""

    INJECTED = "injected"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    HEALED = "healed"
    HEAL_CONFIRMED = "heal_confirmed"
    HEAL_FAILED = "heal_failed"


class SamplerKind(StrEnum):
    """What a probe says about its own sampling."""

    STARTED = "started"
    LATE = "late"
    STALLED = "stalled"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the history's clock, both ends included; without arguments all of it."""

    from_s: float = -math.inf
    until_s: float = math.inf

    def __contains__(self, at_s: object) -> bool:
        return isinstance(at_s, float | int) and self.from_s <= at_s <= self.until_s


@dataclass(frozen=True, slots=True)
class Opened:
    """The file was opened for writing: a new history, or more of an old one.

    Attributes:
        utc: the calendar time at `at_s`, ISO 8601.
        version: of the schema.
    """

    at_s: float
    utc: str
    version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a probe.

    Attributes:
        at_s: when it was started.
        ended_s: when its outcome was known.
        error_s: half the width of the interval in which both times lie; the same error for both, so differences between
            samples of one probe are better than this.
        probe: the probe's name.
        source: the client's address.
        target: address:port that was asked.
        member: who answered, as the answer says; None when it does not say.
        number: of the request in the probe's plan, from 0 without gaps.
        late_s: how long after it was due it was started.
        connection: of a probe that keeps connections or sessions, which of the source's carried it, from 1; else 0.
        answers: how many came; more than one when several members answered.
        mail: of a probe that sends mail, the id of the one that was handed over to its end: accepted if the outcome is
            ok, else nobody knows. Empty when it did not come to that, or the server refused it.
    """

    at_s: float
    ended_s: float
    error_s: float
    probe: str
    source: str
    target: str
    member: str | None
    outcome: Outcome
    detail: str = ""
    number: int = 0
    late_s: float = 0.0
    connection: int = 0
    answers: int = 1
    mail: str = ""

    @property
    def good(self) -> bool:
        """Whether the client got what it expected."""
        return self.outcome is Outcome.OK

    @property
    def failed(self) -> bool:
        """Whether the service let the client down; false also when the probe itself is to blame."""
        return self.outcome not in {Outcome.OK, Outcome.ERROR}


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A fault came into its next phase.

    Attributes:
        fault: the kind with what it needs to be told from others, such as `power-off` or `link-down cluster`.
        target: the node or network that it is done to.
    """

    at_s: float
    fault: str
    target: str
    phase: FaultPhase
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MembershipEvent:
    """What one observer takes for the cluster's living members.

    Attributes:
        observer: the member asked.
        alive: sorted names.
    """

    at_s: float
    cluster: str
    observer: str
    alive: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SamplerEvent:
    """What a probe says about its own sampling.

    Attributes:
        interval_s: of STARTED: from one request to the next, over all sources.
        timeout_s: of STARTED: how long a request may take.
        sources: of STARTED: the clients' addresses in turn; request k goes out from `sources[k % len(sources)]`.
        lasted_s: of LATE: from due to started; of STALLED: without a sign of life so far.
        requests, finished: of ENDED: how many were started, and how many of them have an outcome.
    """

    at_s: float
    probe: str
    kind: SamplerKind
    detail: str = ""
    interval_s: float = 0.0
    timeout_s: float = 0.0
    sources: tuple[str, ...] = ()
    lasted_s: float = 0.0
    requests: int = 0
    finished: int = 0


@dataclass(frozen=True, slots=True)
class ClockEvent:
    """How a guest's CLOCK_MONOTONIC maps to the history's clock from here on.

    Attributes:
        offset_s: the history's clock minus the guest's.
        error_s: half the width of the interval in which the offset lies.
    """

    at_s: float
    node: str
    offset_s: float
    error_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LabEvent:
    """The lab that all of this happened to.

    Attributes:
        lab: its name.
        file: of its topology, as the user named it.
        topology: that file's text.
        accelerator: what runs the guests.
    """

    at_s: float
    lab: str
    file: str
    topology: str
    accelerator: str


@dataclass(frozen=True, slots=True)
class MachineEvent:
    """A node's machine is in another state than before.

    Attributes:
        state: in libvirt's words, such as `running`, `shut off`, `crashed`; `gone` when there is no such domain.
    """

    at_s: float
    node: str
    state: str


@dataclass(frozen=True, slots=True)
class ClaimEvent:
    """Something that the history was judged by.

    Attributes:
        check: the name of a check.
        arguments: of the check, by name.
    """

    at_s: float
    check: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TestEvent:
    """The test that made the history has ended.

    Attributes:
        test: its node ID, as pytest has it.
        outcome: `passed`, `failed` or `skipped`.
    """

    __test__ = False  # for pytest

    at_s: float
    test: str
    outcome: str


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """A line of a guest's journal.

    Attributes:
        source: who wrote it, as journald names it.
        priority: of syslog, from 0 (emergency) to 7 (debug).
        error_s: how far `at_s` may be off.
    """

    at_s: float
    node: str
    source: str
    text: str
    priority: int = 6
    error_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReadinessEvent:
    """A check of a role passes, or does not, other than before.

    Attributes:
        check: what it looks at, in words; empty when it is the whole node that is away.
        detail: why it does not pass.
    """

    at_s: float
    node: str
    role: str
    check: str
    ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MailboxEvent:
    """What a user found in his mailbox, all of it.

    Attributes:
        user: who looked.
        mails: the ids of probes' mails in the order in which they lie there; one that is there twice comes twice.
        others: how many other mails are there.
    """

    at_s: float
    user: str
    mails: tuple[str, ...]
    others: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a reader will want to know."""

    at_s: float
    text: str


Event = (
    Opened
    | Sample
    | FaultEvent
    | MembershipEvent
    | SamplerEvent
    | ClockEvent
    | LabEvent
    | MachineEvent
    | ClaimEvent
    | TestEvent
    | MailboxEvent
    | JournalEvent
    | ReadinessEvent
    | Note
)
