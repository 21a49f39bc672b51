"""Whether a fault hits only those who had to be hit, the service recovers alone, and all is as before in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from labctl.checks.faults import fault_confirmed, injection, phase_after
from labctl.checks.members import clients_of
from labctl.checks.sampling import SamplerLimits, sampler_trouble, sources_of
from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import FaultEvent, FaultPhase, History, Sample, Window

__all__ = ["only_affected", "recovers_unaided", "steady_state_restored"]


def only_affected(
    history: History,
    probe: str,
    *,
    fault: str,
    target: str,
    member: str | None = None,
    until_s: float | None = None,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether of all clients only those of the member that was hit felt the fault.

    Args:
        member: who was hit, when that is not the target.
        until_s: end of the time that is looked at; else the first heal of the fault, else the end of the history.
    """
    hit = member or target
    check = f"{probe}: {fault} of {target} is felt by no client but those of {hit}"
    begun, trouble = _begun(history, fault, target)
    if begun is None:
        return Finding(check, Result.INCONCLUSIVE, trouble)
    span = Window(begun.at_s, until_s if until_s is not None else _healed_s(history, begun))
    theirs = set(clients_of(history, probe, hit, before_s=begun.at_s))
    others = [s for s in sources_of(history, probe, None) if s not in theirs]
    felt = [s for s in history.samples(probe, others, span) if s.failed]
    figures = (
        Figure("clients of others", len(others), "addresses"),
        Figure("their failed", len(felt), "requests"),
    )
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if not trouble and not (theirs and others):
        trouble = f"{hit} had {len(theirs)} clients and the others {len(others)}, so this says nothing"
    if felt:
        clients = sorted({s.source for s in felt})
        reason = f"{len(clients)} clients of others failed; the first: {felt[0].source} at {felt[0].at_s:.3f} s"
        return Finding(check, Result.FAIL, reason, figures)
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    return Finding(check, Result.PASS, f"none of {len(others)} clients of others noticed", figures)


def recovers_unaided(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    fault: str,
    target: str,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether every client was served again while the fault still lasted, so without help."""
    check = f"{probe}: clients are served again before {fault} of {target} is healed"
    begun, trouble = _begun(history, fault, target)
    if begun is None:
        return Finding(check, Result.INCONCLUSIVE, trouble)
    span = Window(begun.at_s, _healed_s(history, begun))
    group = sources_of(history, probe, sources)
    apart = history.by_source(probe, group, span)
    last = {source: samples[-1] for source, samples in apart.items() if samples}
    away = [source for source, sample in last.items() if not sample.good]
    figures = (Figure("clients", len(group), "addresses"), Figure("not served", len(away), "addresses"))
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    if not trouble and len(last) < max(1, len(group)):
        trouble = f"{len(group) - len(last)} clients were not asked while the fault lasted"
    if away:
        reason = f"{len(away)} clients were not served when it was healed, such as {away[0]}: {last[away[0]].outcome}"
        return Finding(check, Result.FAIL, reason, figures)
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    return Finding(check, Result.PASS, f"all {len(group)} were", figures)


def steady_state_restored(
    history: History,
    probe: str,
    *,
    fault: str,
    target: str,
    within_s: float,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether, from `within_s` after the fault was healed on, every client is served by the member it had before."""
    check = f"{probe}: all is as before within {within_s:.3f} s of the heal of {fault} of {target}"
    begun, trouble = _begun(history, fault, target)
    healed = phase_after(history, begun, FaultPhase.HEAL_CONFIRMED) if begun else None
    if begun is None or healed is None:
        return Finding(check, Result.INCONCLUSIVE, trouble or f"{fault} of {target} was not seen to be healed")
    span = Window(from_s=healed.at_s + within_s)
    before = _owners(history.samples(probe, window=Window(until_s=begun.at_s)))
    after = history.by_source(probe, tuple(before), span)
    moved = [s for source, samples in after.items() for s in samples if s.failed or s.member != before[source]]
    figures = (Figure("clients", len(before), "addresses"), Figure("not as before", len(moved), "requests"))
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits())
    unasked = [source for source, samples in after.items() if not samples]
    if not trouble and (unasked or not before):
        trouble = f"{len(unasked)} clients were not asked afterwards" if before else "no client was served before"
    if moved:
        first = moved[0]
        had, has = before[first.source], first.member if first.good else first.outcome
        reason = f"{len(moved)} requests; the first at {first.at_s:.3f} s: {first.source} had {had}, has {has}"
        return Finding(check, Result.FAIL, reason, figures)
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    return Finding(check, Result.PASS, f"{len(before)} clients have the member that they had", figures)


def _begun(history: History, fault: str, target: str) -> tuple[FaultEvent | None, str]:
    """The injection of a fault that was seen in effect; else why there is none."""
    confirmed = fault_confirmed(history, fault, target)
    begun = injection(history, fault, target)
    return (begun, "") if confirmed.result is Result.PASS else (None, confirmed.reason)


def _healed_s(history: History, begun: FaultEvent) -> float:
    healed = phase_after(history, begun, FaultPhase.HEALED)
    return healed.at_s if healed else math.inf


def _owners(samples: Sequence[Sample]) -> dict[str, str | None]:
    """The member that answered each client last."""
    return {s.source: s.member for s in samples if s.good}
