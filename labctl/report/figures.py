"""What a report shows of a history, as values: what the page draws, and what the JSON holds. Pure."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.checks import Finding, Outage, Result, clients_of, judge_history
from labctl.checks.outage import spanning
from labctl.checks.sampling import sources_of
from labctl.checks.service import around
from labctl.history import (
    ClaimEvent,
    FaultEvent,
    FaultPhase,
    History,
    JournalEvent,
    Note,
    Opened,
    ReadinessEvent,
    Sample,
    SamplerEvent,
    SamplerKind,
    TestEvent,
    Window,
)

__all__ = ["Bin", "FaultSpan", "Gap", "Moment", "ProbeSeries", "Scenario", "scenario_of"]

NEAR_S = 3.0  # of a failure; emulated guests tell of it late
MOST_LINES = 200
BINS = 120  # of a timeline at most: a bar is then a few pixels wide


@dataclass(frozen=True, slots=True)
class Bin:
    """The requests that were started in a piece of the timeline.

    Attributes:
        from_s: seconds from the start of the history.
        members: good answers, by the member that gave them; empty for answers that name none.
        failed: requests that were let down.
    """

    from_s: float
    members: dict[str, int]
    failed: int


@dataclass(frozen=True, slots=True)
class Gap:
    """An outage of the clients that a fault had to hit; its true end lies between the two."""

    fault: str
    target: str
    from_s: float
    shortest_s: float
    longest_s: float | None
    failed: int


@dataclass(frozen=True, slots=True)
class ProbeSeries:
    """A probe over time.

    Attributes:
        error_s: how far its times may be off the host's clock.
    """

    probe: str
    target: str
    clients: int
    interval_s: float
    requests: int
    failed: int
    error_s: float
    bin_s: float
    bins: tuple[Bin, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """A fault from its injection to its heal.

    Attributes:
        until_s: when the heal was seen; None when it never was.
        confirmed: whether it was seen in effect.
    """

    fault: str
    target: str
    from_s: float
    until_s: float | None
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened at a moment, in words."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a report shows of one history.

    Attributes:
        test: the node ID of the test that made it; empty when none did, or it was killed.
        outcome: of that test.
        judged: whether somebody has said what it was to show.
        readiness: when checks of roles began and ceased to pass.
        journal: what the guests wrote down near what failed.
        started: the calendar time at which the history begins, ISO 8601; empty when it does not say.
        length_s: from its first event to its last.
    """

    name: str
    path: str
    test: str
    outcome: str
    judged: bool
    started: str
    length_s: float
    result: Result
    findings: tuple[Finding, ...]
    probes: tuple[ProbeSeries, ...]
    faults: tuple[FaultSpan, ...]
    membership: tuple[Moment, ...]
    notes: tuple[Moment, ...]
    readiness: tuple[Moment, ...] = ()
    journal: tuple[Moment, ...] = ()

    @property
    def stands(self) -> Result:
        """What it counts for: a test that passed has expected what its verdict says, and one that failed has failed."""
        if self.outcome == "failed" and self.result is Result.PASS:
            return Result.FAIL
        return Result.PASS if self.outcome == "passed" and self.judged else self.result

    @property
    def remark(self) -> str:
        """Where the verdict alone would mislead, what there is to say of it."""
        if self.stands is self.result:
            return ""
        said = f"its verdict is {self.result}"
        return f"{said}, as the test expects" if self.stands is Result.PASS else f"the test failed, {said}"

    @property
    def members(self) -> tuple[str, ...]:
        """The members that answered anybody, sorted."""
        return tuple(sorted({m for p in self.probes for b in p.bins for m in b.members if m}))

    @property
    def nameless(self) -> bool:
        """Whether some good answers do not name a member."""
        return any("" in b.members for p in self.probes for b in p.bins)

    @property
    def shown_s(self) -> float:
        """The end of what a timeline shows: what comes later is about the sampling."""
        samples = (p.bins[-1].from_s + p.bin_s for p in self.probes if p.bins)
        faults = (f.until_s for f in self.faults if f.until_s is not None)
        return max([*samples, *faults, *(m.at_s for m in self.membership)], default=self.length_s) or self.length_s


def scenario_of(history: History, name: str = "") -> Scenario:
    """What there is to show of a history; it is judged again for that."""
    verdict = judge_history(history)
    times = [e.at_s for e in history.events]
    begin_s = min(times, default=0.0)
    length_s = max(times, default=0.0) - begin_s
    faults = _faults(history, begin_s)
    probes = (e for e in history.of(SamplerEvent) if e.kind is SamplerKind.STARTED)
    opened = next(iter(history.of(Opened)), None)
    test = next(reversed(history.of(TestEvent)), None)
    return Scenario(
        name=name or (_in_words(test.test) if test else Path(history.path).parent.name) or "history",
        path=history.path,
        test=test.test if test else "",
        outcome=test.outcome if test else "",
        judged=bool(history.of(ClaimEvent)),
        started=opened.utc if opened else "",
        length_s=length_s,
        result=verdict.result,
        findings=verdict.findings,
        probes=tuple(_series(history, plan, begin_s) for plan in probes),
        faults=faults,
        membership=tuple(_membership(history, begin_s)),
        notes=tuple(Moment(n.at_s - begin_s, n.text) for n in history.of(Note)),
        readiness=tuple(_readiness(history, begin_s)),
        journal=tuple(_journal(history, begin_s)),
    )


def _in_words(test: str) -> str:
    """A test's name, which is a claim, as one reads it."""
    name, bracket, parameters = test.rpartition("::")[2].partition("[")
    return name.removeprefix("test_").replace("_", " ") + (f": {parameters[:-1]}" if bracket else "")


def _series(history: History, plan: SamplerEvent, begin_s: float) -> ProbeSeries:
    samples = history.samples(plan.probe)
    first_s, last_s = (samples[0].at_s, samples[-1].at_s) if samples else (begin_s, begin_s)
    bin_s = max((last_s - first_s) / BINS, 4 * plan.interval_s, 0.1)
    return ProbeSeries(
        probe=plan.probe,
        target=plan.detail,
        clients=max(1, len(plan.sources)),
        interval_s=plan.interval_s,
        requests=len(samples),
        failed=sum(s.failed for s in samples),
        error_s=max((s.error_s for s in samples), default=0.0),
        bin_s=bin_s,
        bins=_bins(samples, first_s, bin_s, begin_s),
        gaps=tuple(_gaps(history, plan.probe, begin_s)),
    )


def _bins(samples: Sequence[Sample], first_s: float, bin_s: float, begin_s: float) -> tuple[Bin, ...]:
    members: dict[int, dict[str, int]] = {}
    failed: dict[int, int] = {}
    for sample in samples:
        number = int((sample.at_s - first_s) / bin_s)
        if sample.good:
            counts = members.setdefault(number, {})
            counts[sample.member or ""] = counts.get(sample.member or "", 0) + 1
        elif sample.failed:
            failed[number] = failed.get(number, 0) + 1
    numbers = sorted(members.keys() | failed.keys())
    return tuple(Bin(first_s - begin_s + n * bin_s, members.get(n, {}), failed.get(n, 0)) for n in numbers)


def _gaps(history: History, probe: str, begin_s: float) -> list[Gap]:
    """The outages that began while a fault lasted, among the clients of what it was done to."""
    gaps = []
    for event in history.faults():
        if event.phase is not FaultPhase.INJECTED:
            continue
        theirs = clients_of(history, probe, event.target, before_s=event.at_s) or sources_of(history, probe, None)
        samples = history.samples(probe, theirs, Window(until_s=_end_s(history, event, FaultPhase.HEALED)))
        from_s = event.at_s - max((s.error_s for s in samples), default=0.0)  # as `recovers_within` reckons
        found = spanning(around(samples, theirs, from_s), from_s)
        if found:
            gaps.append(_gap(event, found, begin_s))
    return gaps


def _gap(event: FaultEvent, found: Outage, begin_s: float) -> Gap:
    longest_s = None if math.isinf(found.longest_s) else found.longest_s
    from_s = found.first_failed_s - begin_s
    return Gap(event.fault, event.target, from_s, found.shortest_s, longest_s, found.failed)


def _end_s(history: History, begun: FaultEvent, phase: FaultPhase) -> float:
    ends = (e.at_s for e in history.faults(begun.fault, begun.target) if e.phase is phase and e.at_s >= begun.at_s)
    return next(ends, math.inf)


def _faults(history: History, begin_s: float) -> tuple[FaultSpan, ...]:
    spans = []
    for event in history.faults():
        if event.phase is FaultPhase.INJECTED:
            end_s = _end_s(history, event, FaultPhase.HEAL_CONFIRMED)
            confirmed = math.isfinite(_end_s(history, event, FaultPhase.CONFIRMED))
            until_s = None if math.isinf(end_s) else end_s - begin_s
            spans.append(FaultSpan(event.fault, event.target, event.at_s - begin_s, until_s, confirmed))
    return tuple(spans)


def _membership(history: History, begin_s: float) -> list[Moment]:
    return [
        Moment(e.at_s - begin_s, f"{e.observer} sees {', '.join(e.alive) or 'nobody'}")
        for e in history.membership_changes()
    ]


def _readiness(history: History, begin_s: float) -> list[Moment]:
    return [Moment(e.at_s - begin_s, _told(e)) for e in history.of(ReadinessEvent)]


def _told(event: ReadinessEvent) -> str:
    what = ": ".join(part for part in (event.node, event.role, event.check) if part)
    if event.ready:
        return f"{what} ({'passes' if event.check else 'answers'})"
    return f"{what} (does not {'pass' if event.check else 'answer'}: {event.detail})"


def _journal(history: History, begin_s: float) -> list[Moment]:
    """The lines near what failed, the worst first where there are more than a reader bears."""
    failed = [s.at_s for s in history.of(Sample) if s.failed]
    begun = [e.at_s for e in history.faults() if e.phase in {FaultPhase.INJECTED, FaultPhase.HEALED}]
    times = sorted([*failed, *begun])
    near = [e for e in history.of(JournalEvent) if _near(times, e.at_s)]
    kept = sorted(near, key=lambda e: (e.priority, e.at_s))[:MOST_LINES]
    return [Moment(e.at_s - begin_s, f"{e.node} {e.source}: {e.text}") for e in sorted(kept, key=lambda e: e.at_s)]


def _near(times: Sequence[float], at_s: float) -> bool:
    """Whether one of the sorted times is at most `NEAR_S` away."""
    after = bisect.bisect_left(times, at_s - NEAR_S)
    return after < len(times) and times[after] <= at_s + NEAR_S
