"""A history's events as lines of its file, and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labctl.history.events import (
    SCHEMA_VERSION,
    ClaimEvent,
    ClockEvent,
    Event,
    FaultEvent,
    JournalEvent,
    LabEvent,
    MachineEvent,
    MailboxEvent,
    MembershipEvent,
    Note,
    Opened,
    ReadinessEvent,
    Sample,
    SamplerEvent,
    TestEvent,
)

__all__ = ["from_line", "to_line"]

_CLASSES: dict[str, type[Event]] = {
    "opened": Opened,
    "sample": Sample,
    "fault": FaultEvent,
    "membership": MembershipEvent,
    "sampler": SamplerEvent,
    "clock": ClockEvent,
    "lab": LabEvent,
    "machine": MachineEvent,
    "claim": ClaimEvent,
    "test": TestEvent,
    "mailbox": MailboxEvent,
    "journal": JournalEvent,
    "readiness": ReadinessEvent,
    "note": Note,
}
_NAMES = {cls: name for name, cls in _CLASSES.items()}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(cls) for name, cls in _CLASSES.items()}


def to_line(event: Event) -> str:
    """The event as one line without its newline; times are rounded to microseconds.

    Raises:
        ValueError: a number is not finite, which JSON can't hold.
    """
    values = {f.name: _rounded(getattr(event, f.name)) for f in dataclasses.fields(event)}
    line = {"event": _NAMES[type(event)], **values}
    return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_line(line: str) -> Event:
    """The event that a line holds.

    Raises:
        ValueError: it is not JSON, or not an event of this schema; the message says what is wrong.
    """
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__} where an object is expected")
    kind = values.pop("event", None)
    if kind not in _CLASSES:
        raise ValueError(f"event {kind!r} is none of {', '.join(_CLASSES)}")
    unknown = values.keys() - {f.name for f in dataclasses.fields(_CLASSES[kind])}
    if unknown:
        raise ValueError(f"{kind} event with unknown key {', '.join(sorted(unknown))}")
    return _validated(kind, values)


def _validated(kind: str, values: dict[str, Any]) -> Event:
    try:
        event: Event = _ADAPTERS[kind].validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind} event: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if isinstance(event, Opened) and event.version > SCHEMA_VERSION:
        raise ValueError(f"written by a newer labctl: schema {event.version}, this one reads up to {SCHEMA_VERSION}")
    return event


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value
