"""Claims: a check with its arguments survives the file, and finds the same when the history is judged again."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from test_checks import ALIVE, DEAD, POWER_OFF, dies, history, phase, sampled

from labctl.checks import (
    CHECKS,
    Claim,
    Result,
    SamplerLimits,
    claim,
    general_claims,
    judge_history,
    judged,
    no_failures,
    recovers_within,
)
from labctl.errors import InputError
from labctl.history import ClaimEvent, FaultPhase, HistoryWriter, MachineEvent, Window, read_history

BOTH = {"fault": "power-off", "target": "m1"}


def test_a_history_is_judged_again_as_it_was_judged_first(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.append(*sampled(dies(0.5)), *POWER_OFF)
        first = judged(
            writer,
            claim(no_failures, "web", ALIVE, window=Window(until_s=20.0)),
            claim(recovers_within, "web", DEAD, bound_s=1.0, limits=SamplerLimits(gap_s=2.0), **BOTH),  # type: ignore[arg-type]
        )
    assert first.result is Result.PASS
    again = judge_history(read_history(path))
    assert again == first
    assert again.evidence == str(path)


@pytest.mark.parametrize("until_s", [20.0, float("inf")])
def test_arguments_come_back_as_they_were(until_s: float) -> None:
    kept = claim(no_failures, "web", window=Window(1.0, until_s))
    assert json.loads(json.dumps(kept.arguments)) == kept.arguments
    found = kept.judge(history(sampled()))
    assert found == no_failures(history(sampled()), "web", window=Window(1.0, until_s))


def test_each_check_can_be_a_claim() -> None:
    for check in CHECKS.values():
        names = list(inspect.signature(check).parameters)
        assert names[0] == "history"


@pytest.mark.parametrize(
    ("kept", "complaint"),
    [
        (Claim("all_is_well", {}), "a claim of the check 'all_is_well'"),
        (Claim("no_failures", {"probe": "web", "mood": "good"}), "a claim of no_failures can't be read"),
        (Claim("no_failures", {}), "a claim of no_failures can't be read"),
        (Claim("no_failures", {"probe": "web", "window": "long"}), "a claim of no_failures can't be read"),
    ],
    ids=["check", "argument", "missing", "value"],
)
def test_a_claim_that_can_not_be_judged_is_bad_input(kept: Claim, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        kept.judge(history(sampled()))


def test_a_history_without_claims_is_judged_by_what_holds_of_any() -> None:
    machine = MachineEvent(0.0, "m1", "running")
    healed = [phase(20.0, FaultPhase.HEALED), phase(21.0, FaultPhase.HEAL_CONFIRMED)]
    seen = history(sampled(), *POWER_OFF, *healed, machine)
    checks = ["fault_confirmed", "heal_confirmed", "sampler_healthy", "machines_lived"]
    assert [c.check for c in general_claims(seen)] == checks
    assert judge_history(seen).result is Result.PASS
    assert judge_history(history(sampled(), *POWER_OFF, machine)).result is Result.INCONCLUSIVE


def test_claims_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.append(*sampled())
        judged(writer, claim(no_failures, "web"))
    (kept,) = read_history(path).of(ClaimEvent)
    assert (kept.check, kept.arguments) == ("no_failures", {"probe": "web"})
