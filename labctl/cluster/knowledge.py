"""What a member's packet filter knows: read from `nft list sets`, whose JSON rounds times and leaves out comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from labctl.cluster.advert import WHOLE, rule_name
from labctl.topology.spec import PortRule

__all__ = ["REMEMBERED_S", "Knowledge", "Told", "Word", "read_knowledge"]

REMEMBERED_S = 24 * 86400.0  # how long the filter knows when it heard a member, as its rules say

_SET = re.compile(r"set (\w+) \{(.*?)\n\t\}", re.DOTALL)
_ELEMENTS = re.compile(r"elements = \{(.*)\}", re.DOTALL)
_ELEMENT = re.compile(r'(0x[0-9a-f]{8})(?: timeout (\w+))?(?: expires (\w+))?(?: comment "([^"]*)")?')
_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Word(StrEnum):
    """What a member, or one of its rules, was told."""

    STOPPED = "stopped"
    SUSPENDED = "suspended"
    REFUSED = "refused"
    DISABLED = "disabled"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Told:
    """What a member was told not to serve any more.

    Attributes:
        at_s: when, seconds since the epoch.
        why: more about it, for people.
    """

    word: Word
    at_s: float
    why: str = ""

    def __str__(self) -> str:
        return f"{self.word} {self.at_s:.0f} {self.why}".rstrip()


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What one member knows.

    Attributes:
        alive: the host IDs that serve, its own included.
        serving_s: by host ID, for how long it has served, or had when it left.
        heard_s: by host ID, how long ago it was last heard serving.
        strangers: host IDs of members that serve by other rules than this one; 0 stands for any of them.
        told: by key of a rule, or `WHOLE`, what this member was told.
        held: by name of a rule, the host IDs that don't serve it.
        digest: of its own rules; None when it has none.
    """

    alive: frozenset[int]
    serving_s: Mapping[int, float] = field(default_factory=dict)
    heard_s: Mapping[int, float] = field(default_factory=dict)
    strangers: frozenset[int] = frozenset()
    told: Mapping[int, Told] = field(default_factory=dict)
    held: Mapping[str, frozenset[int]] = field(default_factory=dict)
    digest: int | None = None

    def held_of(self, rule: PortRule) -> frozenset[int]:
        """The host IDs that don't serve that rule."""
        return self.held.get(rule_name(rule), frozenset())

    @property
    def whole(self) -> Told | None:
        """What the member as a whole was told; None when it may serve."""
        return self.told.get(WHOLE)


@dataclass(frozen=True, slots=True)
class _Element:
    mark: int
    left_s: float
    comment: str


def read_knowledge(listed: str) -> Knowledge:
    """From what `nft list sets table …` has said."""
    sets = {name: _elements(body) for name, body in _SET.findall(listed)}

    def marks(name: str) -> frozenset[int]:
        return frozenset(e.mark for e in sets.get(name, []))

    def ages_s(name: str) -> dict[int, float]:
        return {e.mark: max(0.0, REMEMBERED_S - e.left_s) for e in sets.get(name, [])}

    return Knowledge(
        alive=marks("alive"),
        serving_s=ages_s("joined"),
        heard_s=ages_s("heard"),
        strangers=marks("strangers"),
        told={e.mark: _told(e.comment, name) for name in ("draining", "disabled") for e in sets.get(name, [])},
        held={name.removeprefix("held_"): marks(name) for name in sets if name.startswith("held_")},
        digest=next(iter(marks("rules")), None),
    )


def _elements(body: str) -> list[_Element]:
    found = _ELEMENTS.search(body)
    return [
        _Element(int(mark, 16), _seconds(expires), comment)
        for mark, _timeout, expires, comment in (_ELEMENT.findall(found[1]) if found else ())
    ]


def _seconds(duration: str) -> float:
    """nft's durations: `23d4h59m7s120ms`."""
    return sum(int(number) * _UNITS_S[unit] for number, unit in re.findall(r"(\d+)(ms|[dhms])", duration))


def _told(comment: str, where: str) -> Told:
    """An element's comment; one that was added by hand has none."""
    word, _, rest = comment.partition(" ")
    at_s, _, why = rest.partition(" ")
    if word not in tuple(Word) or not at_s.isdigit():
        return Told(Word(where), 0.0, comment)
    return Told(Word(word), float(at_s), why.strip())
