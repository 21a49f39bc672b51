"""Deadlines, and waits that say what they waited for."""

from __future__ import annotations

import time

import pytest
from scripted_guest import ManualClock

from labctl.clock import TELL_EVERY_S, Deadline, SystemClock, wait_until
from labctl.errors import DeadlineExceeded


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_the_system_clock_never_steps_back_and_lets_time_pass() -> None:
    clock = SystemClock()
    began_s = clock.now_s()
    clock.sleep(0.01)
    assert 0.01 <= clock.now_s() - began_s < 1
    assert abs(clock.now_s() - time.monotonic()) < 1


def test_a_deadline_runs_out(clock: ManualClock) -> None:
    deadline = Deadline.within(3.0, clock)
    assert (deadline.left_s, deadline.expired) == (3.0, False)
    clock.sleep(2.0)
    assert (deadline.left_s, deadline.expired) == (1.0, False)
    clock.sleep(5.0)
    assert (deadline.left_s, deadline.expired) == (0.0, True)


def test_a_wait_gives_what_it_waited_for(clock: ManualClock) -> None:
    def probe() -> tuple[str | None, str]:
        return ("there", "") if clock.now_s() >= 1002 else (None, "not yet")

    assert wait_until("it", probe, Deadline.within(10.0, clock), every_s=0.5) == "there"
    assert clock.now_s() == 1002


@pytest.mark.parametrize("value", [0, "", False])
def test_a_value_that_counts_for_nothing_is_a_value(value: object, clock: ManualClock) -> None:
    assert wait_until("it", lambda: (value, ""), Deadline.within(0.0, clock)) == value


def test_a_wait_that_runs_out_says_what_it_waited_for_what_it_last_saw_and_the_evidence(clock: ManualClock) -> None:
    seen = iter(range(100))
    with pytest.raises(DeadlineExceeded) as late:
        wait_until(
            "m1: HTTP answers",
            lambda: (None, f"code {next(seen)}"),
            Deadline.within(2.0, clock),
            every_s=0.5,
            evidence=lambda: "last lines: panic",
        )
    assert str(late.value) == "m1: HTTP answers: not within 2.0 s; last seen: code 4\nlast lines: panic"
    assert late.value.exit_code == 4


def test_a_wait_whose_deadline_has_passed_looks_once(clock: ManualClock) -> None:
    looks = iter(range(9))
    with pytest.raises(DeadlineExceeded, match="last seen: look 0"):
        wait_until("it", lambda: (None, f"look {next(looks)}"), Deadline.within(0.0, clock))


def test_evidence_is_gathered_only_when_it_is_needed(clock: ManualClock) -> None:
    gathered: list[int] = []
    wait_until("it", lambda: (1, ""), Deadline.within(1.0, clock), evidence=lambda: str(gathered.append(1)))
    assert gathered == []


def test_a_wait_sleeps_no_longer_than_its_deadline(clock: ManualClock) -> None:
    with pytest.raises(DeadlineExceeded):
        wait_until("it", lambda: (None, ""), Deadline.within(1.0, clock), every_s=60.0)
    assert clock.now_s() == 1001


def test_a_long_wait_is_told_about_now_and_then(clock: ManualClock) -> None:
    told: list[str] = []

    def probe() -> tuple[bool | None, str]:
        return (True, "") if clock.now_s() >= 1000 + 2.5 * TELL_EVERY_S else (None, "code 503")

    wait_until("m1: HTTP answers", probe, Deadline.within(10 * TELL_EVERY_S, clock), tell=told.append)
    assert told == ["still waiting: m1: HTTP answers; last seen: code 503"] * 2
