"""Checks of who serves, where that is not one member all the time: missed members, two owners, nobody at all."""

from __future__ import annotations

import dataclasses

import pytest
from test_checks import ALIVE, DEAD, FAULT_S, INTERVAL_S, POWER_OFF, Answer, F, P, U, always, dies, history, sampled

from labctl.checks import answered_twice_until, interrupted_at_most, members_stay, nobody_serves
from labctl.history import Event, FaultEvent, FaultPhase, History, MembershipEvent, Outcome, Sample, Window

POWER = {"fault": "power-off", "target": "m1"}
HEALED_S = 18.0
HEAL = [
    FaultEvent(HEALED_S, "power-off", "m1", FaultPhase.HEALED),
    FaultEvent(HEALED_S + 1.0, "power-off", "m1", FaultPhase.HEAL_CONFIRMED, "its agent answers"),
]
BOTH = ("m1", "m2")


def sees(at_s: float, observer: str, *alive: str) -> MembershipEvent:
    return MembershipEvent(at_s, "web", observer, alive)


WATCHED = (sees(0.1, "m1", *BOTH), sees(0.1, "m2", *BOTH))


# -- members that miss each other ------------------------------------------------------------------------------------


def test_members_that_never_miss_each_other_pass() -> None:
    found = members_stay(history(WATCHED), "web", BOTH, window=Window(5.0, 20.0))
    assert (found.result, found.figure("missed")) == (P, 0)


def test_a_member_that_was_missed_for_a_moment_fails() -> None:
    found = members_stay(history(WATCHED, sees(9.0, "m2", "m2"), sees(9.0, "m2", *BOTH)), "web", BOTH)
    assert (found.result, found.reason) == (F, "1 times; the first at 9.000 s: m2 sees m2")


@pytest.mark.parametrize(("most", "result"), [(2, F), (3, P)])
def test_so_many_misses_may_be_chance(most: int, result: str) -> None:
    flaps = [e for at_s in (8.0, 9.0, 10.0) for e in (sees(at_s, "m2", "m2"), sees(at_s, "m2", *BOTH))]
    assert members_stay(history([*WATCHED, *flaps]), "web", BOTH, most=most).result is result


def test_what_was_missed_before_the_window_began_counts_if_it_lasts_into_it() -> None:
    lasting = history(WATCHED, sees(4.0, "m1", "m1"), sees(6.0, "m1", *BOTH))
    assert members_stay(lasting, "web", BOTH, window=Window(5.0, 20.0)).result is F
    assert members_stay(lasting, "web", BOTH, window=Window(6.0, 20.0)).result is F  # it ended no earlier
    assert members_stay(lasting, "web", BOTH, window=Window(6.5, 20.0)).result is P


@pytest.mark.parametrize("seen", [(), (sees(0.1, "m1", *BOTH),), (sees(0.1, "m1", *BOTH), sees(7.0, "m2", *BOTH))])
def test_members_that_nobody_watched_from_the_beginning_are_inconclusive(seen: tuple[Event, ...]) -> None:
    found = members_stay(history(seen), "web", BOTH, window=Window(5.0, 20.0))
    assert found.result is U
    assert found.reason == f"nobody watched what {'m2' if seen else 'm1, m2'} saw in the beginning"


# -- two owners --------------------------------------------------------------------------------------------------------


def doubled(from_s: float, until_s: float) -> list[Event]:
    """Those of m1 are answered by both for a while."""

    def change(sample: Sample) -> Sample:
        both = sample.source in DEAD and from_s <= sample.at_s < until_s
        return dataclasses.replace(sample, answers=2) if both else sample

    return [change(e) if isinstance(e, Sample) else e for e in sampled()]


def split(from_s: float, until_s: float, *, within_s: float = 1.0, more: tuple[Event, ...] = (*POWER_OFF, *HEAL)):  # type: ignore[no-untyped-def]
    return answered_twice_until(history(doubled(from_s, until_s), *more), "web", **POWER, within_s=within_s)


def test_two_owners_that_end_with_the_heal_are_measured() -> None:
    found = split(11.0, 19.5)
    assert found.result is P
    assert found.figure("answered twice") == 85
    assert found.figure("two members answered") == pytest.approx(8.4)
    assert found.figure("of that after the heal") == pytest.approx(0.4)


def test_two_owners_that_last_after_the_heal_fail() -> None:
    found = split(11.0, 21.0)
    assert (found.result, found.reason) == (F, "two members answered until 1.900 s after the heal")


def test_two_owners_before_the_fault_are_not_its_doing() -> None:
    assert split(9.0, 12.0).reason == "two members answered 11 before the fault"


def test_without_a_double_answer_or_a_heal_the_fault_has_shown_nothing() -> None:
    assert (split(0.0, 0.0).result, split(0.0, 0.0).reason) == (U, "no request was answered twice")
    assert split(11.0, 12.0, more=tuple(POWER_OFF)).reason == "power-off was not seen to be healed"
    assert split(11.0, 12.0, more=(POWER_OFF[0], *HEAL)).result is U


# -- nobody ------------------------------------------------------------------------------------------------------------


NEVER_AGAIN = dies(60.0)


def down(answer: Answer = NEVER_AGAIN) -> History:
    return history(sampled(answer), *POWER_OFF, *HEAL)


def test_clients_that_nobody_serves_as_long_as_the_fault_lasts_pass() -> None:
    found = nobody_serves(down(), "web", DEAD, **POWER)
    assert (found.result, found.reason) == (P, f"all {found.figure('requests'):.0f} requests were let down: timeout")
    assert found.figure("requests") == pytest.approx((HEALED_S - FAULT_S - 1.0) / (2 * INTERVAL_S), abs=3)


def test_clients_that_somebody_serves_meanwhile_fail() -> None:
    found = nobody_serves(down(dies(4.0)), "web", DEAD, **POWER)
    assert found.result is F
    assert found.reason.endswith(", by m2")
    assert nobody_serves(down(), "web", ALIVE, **POWER).result is F


def test_nobody_serves_says_nothing_without_clients_a_fault_or_its_heal() -> None:
    assert nobody_serves(down(), "web", (), **POWER).result is U
    assert nobody_serves(history(sampled(NEVER_AGAIN), *POWER_OFF), "web", DEAD, **POWER).result is U
    assert nobody_serves(history(sampled(NEVER_AGAIN), POWER_OFF[0], *HEAL), "web", DEAD, **POWER).result is U


# -- interruptions that are no fault -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("gap_s", "result"), [(0.5, P), (3.0, F)])
def test_an_interruption_is_held_against_its_bound(gap_s: float, result: str) -> None:
    found = interrupted_at_most(history(sampled(dies(gap_s))), "web", DEAD, bound_s=1.5)
    assert found.result is result
    assert found.figure("shortest") == pytest.approx(gap_s - 0.1, abs=0.05)


def test_no_interruption_is_fine_if_the_samples_are_close_enough() -> None:
    assert interrupted_at_most(history(sampled(always)), "web", bound_s=0.5).result is P
    assert interrupted_at_most(history(sampled(always)), "web", ALIVE[:1], bound_s=0.5).result is U


def test_an_interruption_of_nobody_or_by_a_bad_sampler_is_inconclusive() -> None:
    assert interrupted_at_most(history(sampled()), "web", (), bound_s=1.0).result is U
    gap = [e for e in sampled() if not (isinstance(e, Sample) and 12.0 < e.at_s < 15.0)]
    assert interrupted_at_most(history(gap), "web", bound_s=5.0).result is U


def test_a_client_that_is_not_served_in_the_end_is_not_fine() -> None:
    def gone(source: str, at_s: float) -> tuple[Outcome, str | None]:
        return (Outcome.TIMEOUT, None) if source == DEAD[0] and at_s >= 29.0 else always(source, at_s)

    assert interrupted_at_most(history(sampled(gone)), "web", DEAD, bound_s=1.0).result is U
