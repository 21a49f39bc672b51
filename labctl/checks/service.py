"""Whether clients were served: always, again within a bound, or, where that has to be so, not at all."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from labctl.checks.faults import fault_confirmed, injection, phase_after
from labctl.checks.outage import Outage, spanning
from labctl.checks.sampling import SamplerLimits, sampler_trouble, sources_of
from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import FaultPhase, History, Sample, SamplerKind, Window

__all__ = ["around", "interrupted_at_most", "no_failures", "nobody_serves", "recovers_within"]


def no_failures(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    window: Window | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether every request of a group of clients was answered as it should.

    A request counts that was begun and over in the window: one still under way at its end may fail by what comes after,
    such as the fault that the window ends with.

    Args:
        sources: the clients; all of the probe's when None. Each of them must have been sampled.
    """
    span, limits = window or Window(), limits or SamplerLimits()
    group = sources_of(history, probe, sources)
    samples = [s for s in history.samples(probe, group, span) if s.ended_s + s.error_s <= span.until_s]
    failed = [s for s in samples if s.failed]
    figures = (
        Figure("clients", len(group), "addresses"),
        Figure("requests", len(samples), "requests"),
        Figure("failed", len(failed), "requests"),
        Figure("resolution", _period_s(history, probe, group), "s"),
    )
    check = f"{probe}: no request of {_clients(group)} fails"
    trouble = sampler_trouble(history, probe, span, limits) or _unheard(samples, group)
    if trouble:
        reason = trouble + (f"; {_said(failed)}" if failed else "")
        return Finding(check, Result.INCONCLUSIVE, reason, figures)
    if failed:
        return Finding(check, Result.FAIL, _said(failed), figures)
    return Finding(check, Result.PASS, f"all {len(samples)} requests were answered as they should", figures)


def recovers_within(
    history: History,
    probe: str,
    sources: Sequence[str],
    *,
    fault: str,
    target: str,
    bound_s: float,
    until_s: float | None = None,
    expect_hit: bool = True,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether a group of clients is served again within a bound after the last injection of a fault.

    The outage reaches from the group's first failed request to its last one, whatever was good in between, so that a
    service that comes and goes, or stays away for one client, is not taken for a recovered one.

    Args:
        sources: the clients that the fault has to hit, such as those of the member that died.
        bound_s: PASS when the outage was at most that long for certain, FAIL when it was longer for certain.
        until_s: end of the time that is looked at; else the first heal of the fault, else the end of the history.
        expect_hit: when nothing failed at all, the fault may have missed these clients: then INCONCLUSIVE.
    """
    check = f"{probe}: {_clients(sources)} are served again within {bound_s:.3f} s of {fault} of {target}"
    confirmed = fault_confirmed(history, fault, target)
    injected = injection(history, fault, target)
    if injected is None or confirmed.result is not Result.PASS:
        return Finding(check, Result.INCONCLUSIVE, confirmed.reason)
    healed = phase_after(history, injected, FaultPhase.HEALED)
    end_s = until_s if until_s is not None else healed.at_s if healed else math.inf
    limits = limits or SamplerLimits()
    samples = history.samples(probe, sources, Window(until_s=end_s))
    from_s = injected.at_s - max((s.error_s for s in samples), default=0.0)
    trouble = (
        sampler_trouble(history, probe, Window(from_s - limits.gap_s, end_s), limits)
        or _unheard(history.samples(probe, sources, Window(from_s, end_s)), sources)
        or _unsteady(history, probe, sources, from_s)
    )
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, _figures(history, probe, sources, None))
    found = spanning(around(samples, sources, from_s), from_s)
    figures = _figures(history, probe, sources, found)
    if found is None:
        return _unhit(check, samples, expect_hit, bound_s, figures)
    return Finding(check, *_compared(found, bound_s, _away(samples, sources)), figures)


def interrupted_at_most(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    bound_s: float,
    window: Window | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether a group of clients is let down for no longer than a bound, from the first failed request to the last one.

    For what is no fault, such as a member that is told to stop: nobody needs to notice at all.
    """
    span, group = window or Window(), sources_of(history, probe, sources)
    check = f"{probe}: {_clients(group)} are let down for no more than {bound_s:.3f} s"
    samples = history.samples(probe, group, span)
    found = spanning(samples)
    figures = _figures(history, probe, group, found)
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if trouble := trouble or _unheard(samples, group):
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    if found is None:
        return _unhit(check, samples, expect_hit=False, bound_s=bound_s, figures=figures)
    return Finding(check, *_compared(found, bound_s, _away(samples, group)), figures)


def nobody_serves(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    fault: str,
    target: str,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether a group of clients is let down for as long as a fault lasts, where that is what has to happen.

    What was under way when the fault came or went is left out.
    """
    group = sources_of(history, probe, sources)
    check = f"{probe}: nobody serves {_clients(group)} while {fault} of {target} lasts"
    begun, confirmed = injection(history, fault, target), fault_confirmed(history, fault, target)
    seen = phase_after(history, begun, FaultPhase.CONFIRMED) if begun else None
    healed = phase_after(history, begun, FaultPhase.HEALED) if begun else None
    if seen is None or healed is None:
        return Finding(check, Result.INCONCLUSIVE, confirmed.reason if healed else f"{fault} was never healed")
    span = Window(seen.at_s, healed.at_s)
    samples = [s for s in history.samples(probe, group, span) if s.ended_s < healed.at_s]
    good = [s for s in samples if s.good]
    figures = (Figure("requests", len(samples), "requests"), Figure("served", len(good), "requests"))
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if good:
        first = good[0]
        told = f"the first at {first.at_s:.3f} s from {first.source}, by {first.member or 'somebody'}"
        return Finding(check, Result.FAIL, f"{len(good)} requests were served; {told}", figures)
    if trouble := trouble or _unheard(samples, group):
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    outcomes = ", ".join(sorted({s.outcome.value for s in samples}))
    return Finding(check, Result.PASS, f"all {len(samples)} requests were let down: {outcomes}", figures)


def _compared(found: Outage, bound_s: float, away: Sequence[str]) -> tuple[Result, str]:
    """The result of an outage against its bound; `away` are the clients that were not seen to be served again."""
    if found.shortest_s > bound_s:
        return Result.FAIL, f"the outage lasted {found}, the bound is {bound_s:.3f} s"
    if away:
        return Result.INCONCLUSIVE, f"{_clients(away)} not seen to be served again; the outage so far: {found}"
    if found.longest_s <= bound_s:
        return Result.PASS, f"the outage lasted {found}"
    return Result.INCONCLUSIVE, f"the outage lasted {found}, the bound {bound_s:.3f} s lies in between: sample faster"


def _unhit(
    check: str, samples: Sequence[Sample], expect_hit: bool, bound_s: float, figures: tuple[Figure, ...]
) -> Finding:
    gap_s = max((b.ended_s - a.at_s for a, b in itertools.pairwise(samples)), default=math.inf)
    if expect_hit:
        reason = f"no request failed: the fault missed these clients, or the outage was shorter than {gap_s:.3f} s"
        return Finding(check, Result.INCONCLUSIVE, reason, figures)
    if gap_s > bound_s:
        reason = f"no request failed, but they came up to {gap_s:.3f} s apart: sample faster"
        return Finding(check, Result.INCONCLUSIVE, reason, figures)
    return Finding(check, Result.PASS, f"no request failed, and none came more than {gap_s:.3f} s apart", figures)


def around(samples: Sequence[Sample], sources: Sequence[str], from_s: float) -> list[Sample]:
    """The samples that were under way at a moment or came later, and each client's last good one before them."""
    before = {s.source: s for s in samples if s.ended_s < from_s and s.good}
    known = [before[source] for source in sources if source in before]
    return sorted([*known, *(s for s in samples if s.ended_s >= from_s)], key=lambda s: s.at_s)


def _unheard(samples: Sequence[Sample], sources: Sequence[str]) -> str:
    """Why the group can't be judged by these samples: it is empty, or they say nothing of some of it."""
    if not sources:
        return "there is no client in the group"
    heard = {s.source for s in samples}
    missing = [source for source in sources if source not in heard]
    return f"too few samples: {_clients(missing)} not sampled" if missing else ""


def _unsteady(history: History, probe: str, sources: Sequence[str], from_s: float) -> str:
    """Who was not served right before a moment: what follows can't be blamed on the fault."""
    before = {
        source: [s for s in samples if s.ended_s < from_s]
        for source, samples in history.by_source(probe, sources).items()
    }
    bad = [source for source, samples in before.items() if not samples or not samples[-1].good]
    return f"{_clients(bad)} not seen to be served just before the fault" if bad else ""


def _away(samples: Sequence[Sample], sources: Sequence[str]) -> list[str]:
    """The clients whose last request was not answered as it should."""
    last = {s.source: s.good for s in samples}
    return [source for source in sources if not last[source]]


def _figures(history: History, probe: str, sources: Sequence[str], found: Outage | None) -> tuple[Figure, ...]:
    measured = (
        Figure("shortest", found.shortest_s if found else 0.0, "s"),
        Figure("longest", found.longest_s if found else math.inf, "s"),
        Figure("failed", found.failed if found else 0, "requests"),
    )
    return (*measured, Figure("resolution", _period_s(history, probe, sources), "s"))


def _period_s(history: History, probe: str, sources: Sequence[str]) -> float:
    """From one request of the group to the next, by the probe's plan."""
    plan = next((e for e in history.sampler(probe) if e.kind is SamplerKind.STARTED), None)
    if plan is None or not sources:
        return math.inf
    return plan.interval_s * max(1, len(plan.sources)) / len(sources)


def _clients(sources: Sequence[str]) -> str:
    shown = ", ".join(source or "the guest's own address" for source in sources[:3])
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    return f"{len(sources)} client{'' if len(sources) == 1 else 's'} ({shown}{more})" if sources else "no client"


def _said(failed: Sequence[Sample]) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in Counter(s.outcome.value for s in failed).items())
    first = failed[0]
    detail = f" ({first.detail})" if first.detail else ""
    return f"{len(failed)} failed: {outcomes}; the first at {first.at_s:.3f} s from {first.source}{detail}"
