"""Claims: checks with their arguments as data, kept in the history that they judge, so that it can be judged again."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labctl.checks.connections import answered_once, answered_twice_until, connections_kept, sessions_kept
from labctl.checks.faults import fault_confirmed, heal_confirmed
from labctl.checks.machines import machines_lived
from labctl.checks.mail import mail_read_once
from labctl.checks.members import affinity_kept, members_agree, members_answer, members_stay
from labctl.checks.sampling import sampler_healthy
from labctl.checks.service import interrupted_at_most, no_failures, nobody_serves, recovers_within
from labctl.checks.steady import only_affected, recovers_unaided, steady_state_restored
from labctl.checks.verdict import Finding, Verdict, judge
from labctl.checks.waiting import nobody_waits
from labctl.errors import InputError
from labctl.history import ClaimEvent, FaultPhase, History, HistoryWriter, MachineEvent, SamplerEvent, SamplerKind

__all__ = ["CHECKS", "Claim", "claim", "claims_of", "general_claims", "judge_history", "judged"]

CHECKS: Mapping[str, Callable[..., Finding]] = {
    check.__name__: check
    for check in (
        affinity_kept,
        answered_once,
        answered_twice_until,
        connections_kept,
        fault_confirmed,
        heal_confirmed,
        interrupted_at_most,
        machines_lived,
        mail_read_once,
        members_agree,
        members_answer,
        members_stay,
        no_failures,
        nobody_serves,
        nobody_waits,
        only_affected,
        recovers_unaided,
        recovers_within,
        sampler_healthy,
        sessions_kept,
        steady_state_restored,
    )
}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a history is to show: a check and its arguments, as JSON can hold them."""

    check: str
    arguments: Mapping[str, Any]

    def judge(self, history: History) -> Finding:
        """What the check finds in a history.

        Raises:
            InputError: there is no such check, or it takes other arguments.
        """
        if self.check not in CHECKS:
            raise InputError(
                f"{history.path}: a claim of the check {self.check!r}, which this labctl does not have",
                hint=f"checks: {', '.join(CHECKS)}",
            )
        check = CHECKS[self.check]
        hints = typing.get_type_hints(check)
        try:
            given = {name: TypeAdapter(hints[name]).validate_python(v) for name, v in self.arguments.items()}
            inspect.signature(check).bind(history, **given)
        except (KeyError, TypeError, ValidationError) as error:
            raise InputError(f"{history.path}: a claim of {self.check} can't be read: {error}") from error
        return check(history, **given)


def claim(check: Callable[..., Finding], /, *arguments: object, **named: object) -> Claim:
    """A check with its arguments, all but the history: `claim(no_failures, "web", window=…)`."""
    bound = inspect.signature(check).bind(None, *arguments, **named).arguments
    hints = typing.get_type_hints(check)
    given = {name: value for i, (name, value) in enumerate(bound.items()) if i}
    plain = {n: TypeAdapter(hints[n]).dump_python(v, mode="json", exclude_defaults=True) for n, v in given.items()}
    return Claim(check.__name__, plain)


def judged(writer: HistoryWriter, *claims: Claim) -> Verdict:
    """The verdict of a history over these claims, which are kept in it."""
    at_s = writer.now_s()
    writer.append(*(ClaimEvent(at_s, c.check, dict(c.arguments)) for c in claims))
    history = writer.read()
    return judge(*(c.judge(history) for c in claims), evidence=history.path)


def claims_of(history: History) -> tuple[Claim, ...]:
    """The claims that a history was judged by; where there are none, those that can be made of any history."""
    kept = tuple(Claim(e.check, e.arguments) for e in history.of(ClaimEvent))
    return kept or general_claims(history)


def general_claims(history: History) -> tuple[Claim, ...]:
    """What must hold of any run: faults took effect and were healed, probes sampled, no machine crashed."""
    faults = {(e.fault, e.target): e for e in history.faults() if e.phase is FaultPhase.INJECTED}
    probes = dict.fromkeys(e.probe for e in history.of(SamplerEvent) if e.kind is SamplerKind.STARTED)
    return (
        *(claim(fault_confirmed, *fault) for fault in faults),
        *(claim(heal_confirmed, *fault) for fault in faults),
        *(claim(sampler_healthy, probe) for probe in probes),
        *([claim(machines_lived)] if history.of(MachineEvent) else []),
    )


def judge_history(history: History) -> Verdict:
    """The verdict of a history that was written before."""
    return judge(*(c.judge(history) for c in claims_of(history)), evidence=history.path)
