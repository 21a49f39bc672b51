"""What happened: one append-only file, one clock, and the mapping of guests' clocks to it."""

from labctl.history.clockfit import AgentReading, ClockFit, ClockPair, ClockStep
from labctl.history.events import (
    ClaimEvent,
    ClockEvent,
    Event,
    FaultEvent,
    FaultPhase,
    LabEvent,
    MachineEvent,
    MembershipEvent,
    Note,
    Opened,
    Outcome,
    Sample,
    SamplerEvent,
    SamplerKind,
    TestEvent,
    Window,
)
from labctl.history.journal import History, HistoryWriter, read_history

__all__ = [
    "AgentReading",
    "ClaimEvent",
    "ClockEvent",
    "ClockFit",
    "ClockPair",
    "ClockStep",
    "Event",
    "FaultEvent",
    "FaultPhase",
    "History",
    "HistoryWriter",
    "LabEvent",
    "MachineEvent",
    "MembershipEvent",
    "Note",
    "Opened",
    "Outcome",
    "Sample",
    "SamplerEvent",
    "SamplerKind",
    "TestEvent",
    "Window",
    "read_history",
]
