"""Which member answers whom."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from labctl.checks.sampling import SamplerLimits, sampler_trouble, sources_of
from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import History, MembershipEvent, Sample, Window

__all__ = ["affinity_kept", "clients_of", "members_agree", "members_answer", "members_stay"]


def clients_of(history: History, probe: str, member: str, *, before_s: float) -> tuple[str, ...]:
    """The sources whose last good answer before a moment came from `member`: those who feel its death."""
    owners: dict[str, str | None] = {}
    for sample in history.samples(probe, window=Window(until_s=before_s)):
        if sample.good:
            owners[sample.source] = sample.member
    return tuple(source for source, owner in owners.items() if owner == member)


def members_answer(
    history: History,
    probe: str,
    members: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    window: Window | None = None,
    enough_clients: int = 16,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether these members answer, each of them somebody, and nobody else does.

    Args:
        enough_clients: with fewer distinct clients, a member without any may be chance: then INCONCLUSIVE.
    """
    span = window or Window()
    group = sources_of(history, probe, sources)
    good = [s for s in history.samples(probe, group, span) if s.good]
    clients = {m: len({s.source for s in good if s.member == m}) for m in members}
    figures = tuple(Figure(f"clients of {m}", count, "addresses") for m, count in clients.items())
    check = f"{probe}: {', '.join(members)} answer, and nobody else"
    trouble = sampler_trouble(history, probe, span, limits or SamplerLimits()) or _nameless(good)
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    strangers = sorted({s.member for s in good if s.member} - set(members))
    if strangers:
        return Finding(check, Result.FAIL, f"{', '.join(strangers)} answered too", figures)
    absent = [m for m in members if not clients[m]]
    if not absent:
        return Finding(check, Result.PASS, f"{len(good)} answers, from each of them", figures)
    asked = len({s.source for s in good})
    reason = f"{', '.join(absent)} answered none of {asked} clients"
    if asked < enough_clients:
        return Finding(check, Result.INCONCLUSIVE, f"{reason}, which are too few to exclude chance", figures)
    return Finding(check, Result.FAIL, reason, figures)


def affinity_kept(
    history: History,
    probe: str,
    sources: Sequence[str] | None = None,
    *,
    window: Window | None = None,
    cluster: str | None = None,
    slack_s: float = 1.0,
    limits: SamplerLimits | None = None,
) -> Finding:
    """Whether each client stays with its member for as long as the membership stays.

    Args:
        cluster: whose membership changes excuse a change of member; None for any.
        slack_s: so much before or after a client's change of member an observer's news of the membership may come.
    """
    span = window or Window()
    group = sources_of(history, probe, sources)
    by_source = history.by_source(probe, group, span)
    good = {source: [s for s in samples if s.good] for source, samples in by_source.items()}
    excuses_s = [e.at_s for e in history.membership_changes(cluster)]
    moves = [m for samples in good.values() for m in itertools.pairwise(samples) if m[0].member != m[1].member]
    broken = [move for move in moves if not _excused(move, excuses_s, slack_s)]
    figures = (
        Figure("clients", len(group), "addresses"),
        Figure("excused changes", len(moves) - len(broken), "changes"),
        Figure("other changes", len(broken), "changes"),
    )
    check = f"{probe}: each client stays with its member"
    few = [source for source, samples in good.items() if len(samples) < 2]
    trouble = (
        sampler_trouble(history, probe, span, limits or SamplerLimits())
        or _nameless([s for samples in good.values() for s in samples])
        or (f"too few samples: {len(few)} clients with fewer than 2 answers, such as {few[0]}" if few else "")
    )
    if trouble:
        return Finding(check, Result.INCONCLUSIVE, trouble, figures)
    if broken:
        return Finding(check, Result.FAIL, _told(broken), figures)
    return Finding(check, Result.PASS, f"{len(group)} clients changed only when the membership did", figures)


def members_agree(
    history: History, cluster: str, members: Sequence[str], *, after_s: float, within_s: float
) -> Finding:
    """Whether every member sees every member within a bound after a moment, and still does at the end."""
    check = f"{cluster}: {', '.join(members)} see each other again within {within_s:.3f} s"
    views = {m: [e for e in history.of(MembershipEvent) if (e.cluster, e.observer) == (cluster, m)] for m in members}
    silent = [m for m, events in views.items() if not events]
    if silent:
        return Finding(check, Result.INCONCLUSIVE, f"nobody watched what {', '.join(silent)} sees")
    whole = tuple(sorted(members))
    last = {member: events[-1] for member, events in views.items()}
    apart = [f"{m} sees {', '.join(e.alive) or 'nobody'}" for m, e in last.items() if e.alive != whole]
    if apart:
        return Finding(check, Result.FAIL, "; ".join(apart))
    took_s = max(0.0, *(e.at_s - after_s for e in last.values()))
    figures = (Figure("took", took_s, "s"),)
    if took_s > within_s:
        return Finding(check, Result.FAIL, f"it took {took_s:.3f} s", figures)
    return Finding(check, Result.PASS, f"it took {took_s:.3f} s", figures)


def members_stay(
    history: History, cluster: str, members: Sequence[str], *, window: Window | None = None, most: int = 0
) -> Finding:
    """Whether every member sees every member all the time.

    Args:
        most: so many times one may be missed: on a bad cable chance alone can lose all heartbeats of a tolerance.
    """
    span, whole = window or Window(), tuple(sorted(members))
    check = f"{cluster}: {', '.join(members)} never miss each other" + (f" more than {most} times" if most else "")
    views = {m: [e for e in history.of(MembershipEvent) if (e.cluster, e.observer) == (cluster, m)] for m in members}
    silent = [m for m, events in views.items() if not events or -math.inf < span.from_s < events[0].at_s]
    if silent:
        return Finding(check, Result.INCONCLUSIVE, f"nobody watched what {', '.join(silent)} saw in the beginning")
    missed = [e for events in views.values() for e in _within(events, span) if e.alive != whole]
    figures = (Figure("missed", len(missed), "times"),)
    if len(missed) > most:
        first = min(missed, key=lambda e: e.at_s)
        told = f"{first.observer} sees {', '.join(first.alive) or 'nobody'}"
        return Finding(check, Result.FAIL, f"{len(missed)} times; the first at {first.at_s:.3f} s: {told}", figures)
    return Finding(check, Result.PASS, f"{len(missed)} times" if missed else "they did not", figures)


def _within(events: Sequence[MembershipEvent], span: Window) -> list[MembershipEvent]:
    """An observer's views in a window, and the one that it had when the window began."""
    before = [e for e in events if e.at_s < span.from_s]
    return [*before[-1:], *(e for e in events if e.at_s in span)]


def _excused(move: tuple[Sample, Sample], excuses_s: Sequence[float], slack_s: float) -> bool:
    span = Window(move[0].at_s - slack_s, move[1].ended_s + slack_s)
    return any(at_s in span for at_s in excuses_s)


def _nameless(good: Sequence[Sample]) -> str:
    """Why the members can't be told from the answers."""
    if not good:
        return "there is no good answer"
    nameless = sum(1 for s in good if not s.member)
    return f"{nameless} of {len(good)} good answers do not name a member" if nameless else ""


def _told(broken: Sequence[tuple[Sample, Sample]]) -> str:
    before, after = min(broken, key=lambda move: move[1].at_s)
    clients = len({move[1].source for move in broken})
    return (
        f"{clients} clients changed members while the membership stayed; the first: {after.source} "
        f"from {before.member} to {after.member} at {after.at_s:.3f} s"
    )
