"""Checks on synthetic histories: both sides of each bound, and sabotage that must never PASS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import pytest

from labctl.checks import (
    Figure,
    Finding,
    Result,
    SamplerLimits,
    affinity_kept,
    clients_of,
    fault_confirmed,
    heal_confirmed,
    judge,
    mail_read_once,
    members_answer,
    no_failures,
    outage,
    outage_by_source,
    recovers_within,
    sampler_healthy,
    summary,
)
from labctl.errors import VerdictFailed
from labctl.history import (
    Event,
    FaultEvent,
    FaultPhase,
    History,
    MailboxEvent,
    MembershipEvent,
    Outcome,
    Sample,
    SamplerEvent,
    SamplerKind,
    Window,
)

P, F, U = Result.PASS, Result.FAIL, Result.INCONCLUSIVE
INTERVAL_S = 0.05
TOOK_S = 0.004
SOURCES = tuple(f"10.0.1.{i}" for i in range(1, 21))  # each asks once a second
DEAD, ALIVE = SOURCES[0::2], SOURCES[1::2]  # those of m1, which dies, and those of m2
FAULT_S, END_S = 10.001, 30.0

Answer = Callable[[str, float], tuple[Outcome, str | None]]


def owner(source: str) -> str:
    return "m1" if source in DEAD else "m2"


def always(source: str, at_s: float) -> tuple[Outcome, str | None]:
    return Outcome.OK, owner(source)


def dies(gap_s: float, *, who: Iterable[str] = DEAD) -> Answer:
    """Those of m1 time out for `gap_s` from the fault on, and are then answered by m2."""

    def answer(source: str, at_s: float) -> tuple[Outcome, str | None]:
        if source not in who or at_s < FAULT_S:
            return always(source, at_s)
        return (Outcome.TIMEOUT, None) if at_s < FAULT_S + gap_s else (Outcome.OK, "m2")

    return answer


def sampled(answer: Answer = always, *, until_s: float = END_S) -> list[Event]:
    """What a probe leaves that keeps its plan from 0 to `until_s`."""
    count = round(until_s / INTERVAL_S)
    samples = []
    for k in range(count):
        at_s, source = round(k * INTERVAL_S, 6), SOURCES[k % len(SOURCES)]
        outcome, member = answer(source, at_s)
        took_s = 0.9 if outcome is Outcome.TIMEOUT else TOOK_S
        samples.append(Sample(at_s, at_s + took_s, 0.002, "web", source, "vip:80", member, outcome, "said", number=k))
    plan = SamplerEvent(-0.1, "web", SamplerKind.STARTED, interval_s=INTERVAL_S, timeout_s=0.9, sources=SOURCES)
    end = SamplerEvent(until_s + 1, "web", SamplerKind.ENDED, "signal", requests=count, finished=count)
    return [plan, *samples, end]


def phase(at_s: float, phase: FaultPhase) -> FaultEvent:
    return FaultEvent(at_s, "power-off", "m1", phase, "domain shut off")


POWER_OFF = [phase(FAULT_S, FaultPhase.INJECTED), phase(FAULT_S + 0.1, FaultPhase.CONFIRMED)]


def history(events: Iterable[Event], *more: Event) -> History:
    return History((*events, *more), "/evidence/history.jsonl")


def without(events: Iterable[Event], drop: Callable[[Sample], bool]) -> list[Event]:
    return [e for e in events if not (isinstance(e, Sample) and drop(e))]


def changed(events: Iterable[Event], change: Callable[[Sample], Sample]) -> list[Event]:
    return [change(e) if isinstance(e, Sample) else e for e in events]


# -- outages -----------------------------------------------------------------------------------------------------------


def test_an_outage_reaches_from_the_first_to_the_last_failed_and_from_good_to_good() -> None:
    (found,) = outage(history(sampled(dies(0.5))), "web", DEAD)
    assert found.shortest_s == pytest.approx(0.4)  # the group samples every 0.1 s: at 10.1, 10.2 … 10.5
    assert found.longest_s == pytest.approx(0.6 + TOOK_S)
    assert (found.first_failed_s, found.last_failed_s, found.failed) == (10.1, 10.5, 5)
    assert found.outcomes == ("timeout",)


def test_the_true_gap_lies_within_the_outage() -> None:
    for gap_ms in range(120, 1500, 70):
        (found,) = outage(history(sampled(dies(gap_ms / 1000))), "web", DEAD)
        assert found.shortest_s <= gap_ms / 1000 <= found.longest_s


def test_one_failed_sample_is_an_outage_of_at_least_nothing() -> None:
    (found,) = outage(history(sampled(dies(0.1))), "web", DEAD)
    assert found.shortest_s == 0
    assert found.longest_s == pytest.approx(0.2 + TOOK_S)


def test_an_outage_that_does_not_end_has_no_upper_bound() -> None:
    (found,) = outage(history(sampled(dies(1000))), "web", DEAD)
    assert found.longest_s == float("inf")
    assert "not seen to end" in str(found)


def test_a_service_that_comes_and_goes_has_several_outages() -> None:
    def flaps(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.REFUSED, None) if 10 <= at_s < 11 or 12 <= at_s < 12.5 else always(source, at_s)

    found = outage(history(sampled(flaps)), "web")
    assert [round(o.first_failed_s, 2) for o in found] == [10.0, 12.0]
    assert [round(o.shortest_s, 2) for o in found] == [0.95, 0.45]


def test_without_failures_there_is_no_outage() -> None:
    assert outage(history(sampled()), "web") == ()


def test_each_clients_own_outage_has_its_own_resolution() -> None:
    found = outage_by_source(history(sampled(dies(1.5))), "web", SOURCES[:2])
    (own,) = found[DEAD[0]]  # asks at 10, 11 and 12; the service is away from 10.001 to 11.501
    assert (own.failed, own.shortest_s, own.longest_s) == (1, 0, pytest.approx(2 + TOOK_S))
    assert found[ALIVE[0]] == ()


def test_a_request_that_could_not_be_made_is_no_failure_of_the_service() -> None:
    def broken(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.ERROR, None) if 10 <= at_s < 11 else always(source, at_s)

    assert outage(history(sampled(broken)), "web") == ()


# -- the sampler -------------------------------------------------------------------------------------------------------


def test_a_sampler_that_kept_its_plan_is_healthy() -> None:
    found = sampler_healthy(history(sampled()), "web")
    assert found.result is Result.PASS
    assert found.figure("longest gap") == pytest.approx(INTERVAL_S)


def stalled_s(gap_s: float) -> list[Event]:
    """A sampler that stood still for a while and then caught up."""

    def late(sample: Sample) -> Sample:
        if not 12 <= sample.at_s < 12 + gap_s:
            return sample
        late_s = 12 + gap_s - sample.at_s
        return dataclasses.replace(sample, at_s=12 + gap_s, ended_s=12 + gap_s + TOOK_S, late_s=late_s)

    return changed(sampled(dies(0.5)), late)


LATE = [SamplerEvent(1.0 + i / 1000, "web", SamplerKind.LATE, lasted_s=0.2) for i in range(60)]

TROUBLES: dict[str, tuple[list[Event], str]] = {
    "never started": ([], "started 0 times"),
    "started twice": ([*sampled(), *sampled()], "started 2 times"),
    "sent nothing": (without(sampled(), lambda s: True), "has no sample"),
    "died": (sampled()[:-1], "has not said that it ended"),
    "stalled for 2 s": (stalled_s(2.0), "no request was started for 2.0"),
    "stalled, by its own word": ([*sampled(), SamplerEvent(12.0, "web", SamplerKind.STALLED, "gone")], "stalled: gone"),
    "lost some": (without(sampled(), lambda s: s.number in {300, 301}), "2 requests of the plan have no outcome"),
    "lost the last ones": (without(sampled(), lambda s: s.number > 590), "9 requests of the plan have no outcome"),
    "slow": (changed(sampled(), lambda s: dataclasses.replace(s, at_s=s.at_s * 1.1)), "of the planned rate"),
    "late": ([*sampled(), *LATE], "10% of the requests were late, by up to 0.200 s"),
    "could not ask": (
        changed(sampled(), lambda s: dataclasses.replace(s, outcome=Outcome.ERROR) if s.number == 7 else s),
        "1 requests could not be made: said",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_a_sampler_in_trouble_is_found(name: str) -> None:
    events, said = TROUBLES[name]
    found = sampler_healthy(history(events), "web")
    assert found.result is Result.INCONCLUSIVE
    assert said in found.reason


@pytest.mark.parametrize("name", TROUBLES)
def test_nothing_passes_or_fails_on_a_sampler_in_trouble(name: str) -> None:
    events = history(TROUBLES[name][0], *POWER_OFF)
    findings = [
        no_failures(events, "web"),
        no_failures(events, "web", DEAD),
        recovers_within(events, "web", DEAD, fault="power-off", target="m1", bound_s=1.0),
        members_answer(events, "web", ["m1", "m2"]),
        affinity_kept(events, "web"),
    ]
    assert {f.result for f in findings} == {Result.INCONCLUSIVE}


def test_the_limits_of_a_sampler_are_the_callers() -> None:
    events = history(stalled_s(0.8))
    assert sampler_healthy(events, "web").result is Result.PASS
    assert sampler_healthy(events, "web", limits=SamplerLimits(gap_s=0.5)).result is Result.INCONCLUSIVE


def test_trouble_outside_the_window_does_not_count() -> None:
    events = history(stalled_s(2.0))
    assert sampler_healthy(events, "web", Window(0, 11)).result is Result.PASS
    assert sampler_healthy(events, "web", Window(11, 15)).result is Result.INCONCLUSIVE


def test_a_running_probe_can_be_judged_as_far_as_all_its_outcomes_are_known() -> None:
    running = history(sampled()[:-1])
    assert sampler_healthy(running, "web", Window(5, 20)).result is Result.PASS
    assert sampler_healthy(running, "web", Window(5, 29.5)).result is Result.INCONCLUSIVE


@pytest.mark.parametrize("window", [Window(25, 40), Window(-10, 20)])
def test_a_window_that_was_not_sampled_throughout_is_inconclusive(window: Window) -> None:
    assert sampler_healthy(history(sampled()), "web", window).result is Result.INCONCLUSIVE


# -- no failures -------------------------------------------------------------------------------------------------------


def test_clients_that_were_always_served_pass() -> None:
    found = no_failures(history(sampled(dies(0.5))), "web", ALIVE)
    assert found.result is Result.PASS
    assert found.figure("requests") == 300
    assert found.figure("resolution") == pytest.approx(0.1)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in {Outcome.OK, Outcome.ERROR}])
def test_one_failed_request_fails_and_is_described(outcome: Outcome) -> None:
    events = changed(sampled(), lambda s: dataclasses.replace(s, outcome=outcome) if s.number == 41 else s)
    found = no_failures(history(events), "web", ALIVE)
    assert found.result is Result.FAIL
    assert found.reason == f"1 failed: 1 {outcome}; the first at 2.050 s from 10.0.1.2 (said)"


def test_a_failure_outside_the_window_or_the_group_does_not_count() -> None:
    events = history(sampled(dies(0.5)))
    assert no_failures(events, "web", DEAD, window=Window(11, 25)).result is Result.PASS
    assert no_failures(events, "web", DEAD, window=Window(10, 25)).result is Result.FAIL
    assert no_failures(events, "web").result is Result.FAIL


def test_a_request_that_the_fault_caught_under_way_says_nothing_of_the_time_before() -> None:
    caught = max((s for s in sampled() if isinstance(s, Sample) and s.at_s < FAULT_S), key=lambda s: s.number)
    late = dataclasses.replace(caught, ended_s=caught.at_s + 6, outcome=Outcome.TIMEOUT, member=None)
    events = history(changed(sampled(), lambda s: late if s.number == caught.number else s))
    assert no_failures(events, "web", window=Window(until_s=FAULT_S)).result is Result.PASS
    assert no_failures(events, "web", window=Window(until_s=late.ended_s + 1)).result is Result.FAIL


def test_requests_that_were_all_still_under_way_do_not_pass() -> None:
    events = history(changed(sampled(), lambda s: dataclasses.replace(s, ended_s=END_S)))
    found = no_failures(events, "web", window=Window(until_s=FAULT_S))
    assert found.result is Result.INCONCLUSIVE
    assert "not sampled" in found.reason


@pytest.mark.parametrize("sources", [(), ("10.0.9.9",), (*ALIVE, "10.0.9.9")])
def test_clients_that_were_never_asked_do_not_pass(sources: tuple[str, ...]) -> None:
    assert no_failures(history(sampled()), "web", sources).result is Result.INCONCLUSIVE


# -- recovery ----------------------------------------------------------------------------------------------------------


def recovery(events: History, bound_s: float, **more: object) -> Finding:
    return recovers_within(events, "web", DEAD, fault="power-off", target="m1", bound_s=bound_s, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bound_s", "result"),
    [
        (0.39, Result.FAIL),
        (0.41, Result.INCONCLUSIVE),
        (0.60, Result.INCONCLUSIVE),
        (0.61, Result.PASS),
    ],
)
def test_recovery_is_judged_by_the_whole_interval(bound_s: float, result: Result) -> None:
    found = recovery(history(sampled(dies(0.5)), *POWER_OFF), bound_s)
    assert found.result is result, found.reason
    assert "0.400 s to 0.604 s" in found.reason
    assert [str(f) for f in found.figures] == [
        "shortest 0.400 s", "longest 0.604 s", "failed 5 requests", "resolution 0.100 s",
    ]  # fmt: skip


def test_the_outage_ends_with_the_first_good_after_the_last_failed() -> None:
    def gap_in_the_gap(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.OK, "m2") if at_s == 10.3 else dies(0.5)(source, at_s)

    found = recovery(history(sampled(gap_in_the_gap), *POWER_OFF), 1.0)
    assert (found.figure("failed"), found.figure("longest")) == (4, pytest.approx(0.604))


def test_a_request_under_way_when_the_fault_strikes_belongs_to_the_outage() -> None:
    def struck(sample: Sample) -> Sample:
        return dataclasses.replace(sample, outcome=Outcome.RESET, ended_s=10.01) if sample.number == 198 else sample

    found = recovery(history(changed(sampled(dies(0.5)), struck), *POWER_OFF), 1.0)
    assert found.result is Result.PASS
    assert found.figure("failed") == 6
    assert found.figure("shortest") == pytest.approx(10.5 - FAULT_S + 0.002)  # from the fault, not from its own start


def test_a_fault_that_nobody_confirmed_is_inconclusive() -> None:
    injected, confirmed = POWER_OFF
    unconfirmed = phase(FAULT_S + 0.1, FaultPhase.UNCONFIRMED)
    for phases in ([], [injected], [confirmed], [injected, unconfirmed], [confirmed, phase(20, FaultPhase.INJECTED)]):
        events = history(sampled(dies(0.5)), *phases)
        assert recovery(events, 1.0).result is Result.INCONCLUSIVE
        assert fault_confirmed(events, "power-off", "m1").result is Result.INCONCLUSIVE
    assert fault_confirmed(history([], *POWER_OFF), "power-off", "m1").result is Result.PASS
    assert fault_confirmed(history([], *POWER_OFF), "power-off", "m2").result is Result.INCONCLUSIVE


def test_a_fault_that_hit_nobody_does_not_pass() -> None:
    found = recovery(history(sampled(), *POWER_OFF), 1.0)
    assert found.result is Result.INCONCLUSIVE
    assert "missed these clients" in found.reason


def test_a_fault_that_need_not_hit_passes_as_far_as_the_samples_are_dense_enough() -> None:
    events = history(sampled(), *POWER_OFF)
    assert recovery(events, 1.0, expect_hit=False).result is Result.PASS
    assert recovery(events, 0.05, expect_hit=False).result is Result.INCONCLUSIVE


def test_one_client_that_stays_away_is_not_hidden_by_the_others() -> None:
    def one_lost(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.TIMEOUT, None) if source == DEAD[3] and at_s >= FAULT_S else dies(0.5)(source, at_s)

    assert recovery(history(sampled(one_lost), *POWER_OFF), 2.0).result is Result.FAIL
    # Watched for too short a time to know.
    short = recovery(history(sampled(one_lost), *POWER_OFF), 2.0, until_s=FAULT_S + 1.9)
    assert short.result is Result.INCONCLUSIVE
    assert "1 client (10.0.1.7) not seen to be served again" in short.reason


@pytest.mark.parametrize(("bound_s", "result"), [(2.1, F), (2.5, U), (3.2, U), (3.4, P)])
def test_a_client_that_comes_back_later_than_the_others_counts_by_its_own_samples(
    bound_s: float, result: Result
) -> None:
    def one_later(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return dies(2.5 if source == DEAD[3] else 0.5)(source, at_s)

    # It asks at 9.3, 10.3, 11.3, 12.3 and 13.3; the others are served again from 10.6 on.
    found = recovery(history(sampled(one_later), *POWER_OFF), bound_s)
    assert found.result is result, found.reason
    assert (found.figure("shortest"), found.figure("longest")) == (
        pytest.approx(2.2),
        pytest.approx(13.304 - FAULT_S + 0.002),
    )


def test_a_service_that_comes_and_goes_has_not_recovered() -> None:
    def flaps(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.RESET, None) if 15 <= at_s < 15.2 and source in DEAD else dies(0.5)(source, at_s)

    assert recovery(history(sampled(flaps), *POWER_OFF), 1.0).result is Result.FAIL


def test_a_service_that_never_recovers_fails_once_the_bound_is_over() -> None:
    events = history(sampled(dies(1000)), *POWER_OFF)
    assert recovery(events, 5.0).result is Result.FAIL
    assert recovery(events, 25.0).result is Result.INCONCLUSIVE


def test_recovery_by_the_heal_is_no_recovery() -> None:
    events = history(sampled(dies(8.0)), *POWER_OFF, phase(FAULT_S + 8.0, FaultPhase.HEALED))
    assert recovery(events, 5.0).result is Result.FAIL
    assert recovery(events, 10.0).result is Result.INCONCLUSIVE


def test_clients_that_were_not_served_before_the_fault_are_inconclusive() -> None:
    def sick(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.REFUSED, None) if source == DEAD[0] and at_s < FAULT_S else dies(0.5)(source, at_s)

    found = recovery(history(sampled(sick), *POWER_OFF), 1.0)
    assert found.result is Result.INCONCLUSIVE
    assert "not seen to be served just before the fault" in found.reason


def test_an_empty_group_does_not_recover() -> None:
    events = history(sampled(dies(0.5)), *POWER_OFF)
    found = recovers_within(events, "web", (), fault="power-off", target="m1", bound_s=1.0)
    assert (found.result, found.reason) == (Result.INCONCLUSIVE, "there is no client in the group")


# -- members -----------------------------------------------------------------------------------------------------------


def test_the_clients_of_a_member_are_those_it_answered_last() -> None:
    events = history(sampled(dies(0.5)))
    assert set(clients_of(events, "web", "m1", before_s=FAULT_S)) == set(DEAD)
    assert clients_of(events, "web", "m1", before_s=END_S) == ()


def answers(**members: str | None) -> Answer:
    return lambda source, _: (Outcome.OK, members[owner(source)])


def test_members_that_all_answer_pass() -> None:
    found = members_answer(history(sampled()), "web", ["m1", "m2"])
    assert found.result is Result.PASS
    assert (found.figure("clients of m1"), found.figure("clients of m2")) == (10, 10)


@pytest.mark.parametrize(
    ("answer", "result", "said"),
    [
        (answers(m1="m2", m2="m2"), Result.FAIL, "m1 answered none of 20 clients"),
        (answers(m1="m1", m2="m3"), Result.FAIL, "m3 answered too"),
        (answers(m1="m1", m2=None), Result.INCONCLUSIVE, "300 of 600 good answers do not name a member"),
        (lambda *_: (Outcome.REFUSED, None), Result.INCONCLUSIVE, "no good answer"),
    ],
)
def test_a_member_that_is_missing_or_unknown_never_passes(answer: Answer, result: Result, said: str) -> None:
    found = members_answer(history(sampled(answer)), "web", ["m1", "m2"])
    assert found.result is result
    assert said in found.reason


def test_few_clients_do_not_prove_that_a_member_is_missing() -> None:
    found = members_answer(history(sampled()), "web", ["m1", "m2"], ALIVE)
    assert found.result is Result.INCONCLUSIVE
    assert "too few to exclude chance" in found.reason


def test_clients_that_stay_with_their_member_pass() -> None:
    assert affinity_kept(history(sampled()), "web").result is Result.PASS


def alive(at_s: float, *members: str, cluster: str = "mail") -> MembershipEvent:
    return MembershipEvent(at_s, cluster, "m2", members)


def test_a_change_with_the_membership_is_excused() -> None:
    events = history(sampled(dies(0.5)), alive(0.0, "m1", "m2"), alive(10.4, "m2"))
    found = affinity_kept(events, "web", cluster="mail")
    assert found.result is Result.PASS
    assert (found.figure("excused changes"), found.figure("other changes")) == (10, 0)


@pytest.mark.parametrize(
    "views",
    [
        [],
        [alive(0.0, "m1", "m2")],
        [alive(0.0, "m1", "m2"), alive(10.4, "m1", "m2")],
        [alive(0.0, "m1", "m2"), alive(20.0, "m2")],
        [alive(0.0, "m1", "m2", cluster="other"), alive(10.4, "m2", cluster="other")],
    ],
)
def test_a_change_without_a_change_of_membership_fails(views: list[Event]) -> None:
    found = affinity_kept(history(sampled(dies(0.5)), *views), "web", cluster="mail")
    assert found.result is Result.FAIL
    assert "from m1 to m2" in found.reason


def test_a_client_that_alternates_between_members_fails() -> None:
    found = affinity_kept(history(sampled(lambda s, t: (Outcome.OK, f"m{1 + int(t) % 2}"))), "web", SOURCES[4:6])
    assert found.result is Result.FAIL
    assert "2 clients changed members" in found.reason


def test_one_answer_each_says_nothing_of_affinity() -> None:
    found = affinity_kept(history(sampled()), "web", window=Window(5, 5.99))
    assert found.result is Result.INCONCLUSIVE
    assert "too few samples: 20 clients" in found.reason


# -- heal, verdict, summary --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "result"),
    [
        ([], Result.INCONCLUSIVE),
        (POWER_OFF, Result.INCONCLUSIVE),
        ([*POWER_OFF, phase(20, FaultPhase.HEALED)], Result.INCONCLUSIVE),
        ([*POWER_OFF, phase(20, FaultPhase.HEAL_FAILED)], Result.FAIL),
        ([*POWER_OFF, phase(20, FaultPhase.HEAL_CONFIRMED)], Result.PASS),
        ([*POWER_OFF, phase(20, FaultPhase.HEAL_FAILED), phase(21, FaultPhase.HEAL_CONFIRMED)], Result.PASS),
        ([*POWER_OFF, phase(20, FaultPhase.HEAL_CONFIRMED), phase(21, FaultPhase.HEAL_FAILED)], Result.FAIL),
        ([phase(1, FaultPhase.INJECTED), phase(2, FaultPhase.HEAL_CONFIRMED), *POWER_OFF], Result.INCONCLUSIVE),
    ],
)
def test_a_heal_is_believed_when_it_was_seen(phases: list[Event], result: Result) -> None:
    assert heal_confirmed(history(phases), "power-off", "m1").result is result


def finding(result: Result) -> Finding:
    return Finding(
        f"claim {result}", result, f"reason {result}", (Figure("gap", 0.25, "s"), Figure("failed", 3, "requests"))
    )


@pytest.mark.parametrize(
    ("results", "verdict"),
    [((), U), ((P,), P), ((P, P), P), ((P, U), U), ((U, F), F), ((P, F, P), F), ((F, U, P), F), ((U,), U)],
)
def test_fail_beats_inconclusive_beats_pass_and_nothing_is_inconclusive(
    results: tuple[Result, ...], verdict: Result
) -> None:
    judged = judge(*map(finding, results))
    assert judged.result is verdict
    assert judged.passed is (verdict is Result.PASS)
    assert [f.result for f in judged.findings] == list(results)


def test_only_a_pass_goes_without_an_error() -> None:
    judge(finding(P)).require_pass()
    for result in (F, U):
        with pytest.raises(VerdictFailed, match=f"reason {result}"):
            judge(finding(P), finding(result)).require_pass()


def test_the_summary_tells_verdict_reasons_figures_and_evidence() -> None:
    assert summary(judge(finding(P), finding(F), evidence="/var/log/history.jsonl")).splitlines() == [
        "verdict: FAIL",
        "  FAIL          claim FAIL",
        "                  reason FAIL",
        "                  gap 0.250 s, failed 3 requests",
        "  PASS          claim PASS",
        "                  reason PASS",
        "                  gap 0.250 s, failed 3 requests",
        "evidence: /var/log/history.jsonl",
    ]


def test_a_figure_that_is_not_known_is_said_so() -> None:
    assert str(Figure("longest", float("inf"), "s")) == "longest unknown"


def test_a_whole_power_off_judged_as_a_scenario_does() -> None:
    events = history(sampled(dies(0.5)), *POWER_OFF, alive(0.0, "m1", "m2"), alive(10.4, "m2"))
    dead = clients_of(events, "web", "m1", before_s=FAULT_S)
    survivors = clients_of(events, "web", "m2", before_s=FAULT_S)
    verdict = judge(
        sampler_healthy(events, "web"),
        fault_confirmed(events, "power-off", "m1"),
        members_answer(events, "web", ["m1", "m2"], window=Window(0, FAULT_S)),
        no_failures(events, "web", survivors),
        recovers_within(events, "web", dead, fault="power-off", target="m1", bound_s=1.0),
        affinity_kept(events, "web", cluster="mail"),
        evidence=events.path,
    )
    assert verdict.passed, summary(verdict)


# -- mail --------------------------------------------------------------------------------------------------------------


def mails(*outcomes: Outcome, read: tuple[str, ...]) -> History:
    """A probe that sent mails m0, m1, … one a second, and what was found afterwards."""
    samples = [
        Sample(float(k), k + 0.5, 0.0, "mail", "", "hub:587", None, outcome, number=k, mail=f"m{k}")
        for k, outcome in enumerate(outcomes)
    ]
    plan = SamplerEvent(-0.1, "mail", SamplerKind.STARTED, interval_s=1.0, timeout_s=0.9)
    count = len(outcomes)
    ended = SamplerEvent(float(count), "mail", SamplerKind.ENDED, requests=count, finished=count)
    return history([*samples, plan, ended, MailboxEvent(count + 1.0, "bob", read)])


@pytest.mark.parametrize(
    ("outcomes", "read", "result", "lost", "doubled"),
    [
        ((Outcome.OK, Outcome.OK), ("m0", "m1"), P, 0, 0),
        ((Outcome.OK, Outcome.OK), ("m1", "m0", "another"), P, 0, 0),
        ((Outcome.OK, Outcome.RESET), ("m0",), P, 0, 0),
        ((Outcome.OK, Outcome.RESET), ("m0", "m1"), P, 0, 0),
        ((Outcome.OK, Outcome.RESET), ("m0", "m1", "m1"), F, 0, 1),
        ((Outcome.OK, Outcome.OK), ("m0",), F, 1, 0),
        ((Outcome.OK, Outcome.OK), ("m0", "m0"), F, 1, 1),
        ((Outcome.RESET, Outcome.TIMEOUT), ("m0",), U, 0, 0),
    ],
)
def test_mail_is_read_once_if_it_was_accepted_and_not_twice_if_nobody_knows(
    outcomes: tuple[Outcome, ...], read: tuple[str, ...], result: Result, lost: int, doubled: int
) -> None:
    found = mail_read_once(mails(*outcomes, read=read), "mail")
    assert (found.result, found.figure("lost"), found.figure("doubled")) == (result, lost, doubled), found
