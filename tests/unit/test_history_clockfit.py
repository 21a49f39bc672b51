"""A guest's clock on the host's: the true time lies within the stated error, whatever happens to the guest."""

from __future__ import annotations

import pytest

from labctl.history import AgentReading, ClockFit, ClockPair

OFFSET_S = 1234.5  # host minus guest
WALL_S = 1_700_000_000.0  # guest's wall clock minus its monotonic


def pairs(first_s: int, last_s: int, wall_s: float = WALL_S, jitter_s: float = 0.0001) -> list[ClockPair]:
    return [ClockPair(round((m + wall_s) * 1e9), float(m), jitter_s) for m in range(first_s, last_s + 1)]


def reading(
    mono_s: float, *, offset_s: float = OFFSET_S, wall_s: float = WALL_S, trip_s: float = 0.01, skew: float = 0.5
) -> AgentReading:
    """What the host sees when the guest answers at `mono_s`, `skew` of the round trip after the question."""
    host_s = mono_s + offset_s
    return AgentReading(host_s - skew * trip_s, round((mono_s + wall_s) * 1e9), host_s + (1 - skew) * trip_s)


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0])
def test_the_true_time_lies_within_the_error(skew: float) -> None:
    fit = ClockFit.of([reading(m + 0.5, skew=skew) for m in range(10)], pairs(0, 10))
    at_s, error_s = fit.to_host(4.2)
    assert abs(at_s - (4.2 + OFFSET_S)) <= error_s + 1e-6


def test_the_error_is_half_the_shortest_round_trip_and_the_jitter() -> None:
    trips = [0.2, 0.008, 0.05]
    fit = ClockFit.of([reading(i + 0.5, trip_s=t) for i, t in enumerate(trips)], pairs(0, 10))
    assert len(fit.segments) == 1
    assert fit.to_host(0.0)[1] == pytest.approx(0.004 + 0.0001, abs=1e-6)


def test_a_slow_reading_does_not_spoil_a_fast_one() -> None:
    fit = ClockFit.of([reading(1.5), reading(2.5, trip_s=3.0, skew=0.05)], pairs(0, 5))
    at_s, _ = fit.to_host(2.5)
    assert at_s == pytest.approx(2.5 + OFFSET_S, abs=1e-5)


@pytest.mark.parametrize("by_s", [3600.0, 0.5, -0.3, -0.5, -0.8, -2.0, -3600.0])
def test_a_step_of_the_wall_clock_is_noticed_and_does_not_move_the_mapping(by_s: float) -> None:
    clock = pairs(0, 5) + pairs(6, 10, WALL_S + by_s)
    readings = [reading(m + 0.25) for m in range(6)] + [reading(m + 0.75, wall_s=WALL_S + by_s) for m in range(5, 10)]
    fit = ClockFit.of(readings, clock)
    assert [(s.after_s, s.before_s) for s in fit.steps] == [(5.0, 6.0)]
    assert fit.steps[0].by_s == pytest.approx(by_s, abs=1e-3)
    for mono_s in (0.5, 4.9, 5.5, 6.1, 9.9):
        at_s, error_s = fit.to_host(mono_s)
        assert abs(at_s - (mono_s + OFFSET_S)) <= error_s + 1e-5
        assert error_s < 0.01


def test_a_reading_taken_between_a_step_and_the_next_pair_is_not_believed() -> None:
    stepped = reading(9.5, wall_s=WALL_S + 30)
    fit = ClockFit.of([reading(8.5), stepped], pairs(0, 9))
    assert fit.to_host(9.5)[0] == pytest.approx(9.5 + OFFSET_S, abs=1e-5)


def test_a_pair_that_took_long_is_no_step() -> None:
    clock = [*pairs(0, 4), ClockPair(round((5 + WALL_S + 0.02) * 1e9), 5.0, 0.05), *pairs(6, 9)]
    fit = ClockFit.of([reading(m + 0.5) for m in range(9)], clock)
    assert fit.steps == ()
    assert fit.to_host(5.0)[0] == pytest.approx(5.0 + OFFSET_S, abs=1e-5)


def test_a_reading_that_seems_older_than_the_one_before_is_not_believed() -> None:
    stepped_back = reading(5.75, wall_s=WALL_S - 2)  # no pair since the step: it looks like 3.75
    fit = ClockFit.of([reading(m + 0.5) for m in range(5)] + [stepped_back], pairs(0, 5))
    assert len(fit.segments) == 1
    assert fit.to_host(3.75) == (pytest.approx(3.75 + OFFSET_S, abs=1e-5), pytest.approx(0.0051, abs=1e-5))


def test_a_paused_guest_splits_the_mapping_and_widens_the_error_in_between() -> None:
    readings = [reading(m + 0.5) for m in range(5)] + [reading(m + 0.5, offset_s=OFFSET_S + 7) for m in range(5, 10)]
    fit = ClockFit.of(readings, pairs(0, 10))
    assert len(fit.segments) == 2
    assert fit.to_host(1.0)[0] == pytest.approx(1.0 + OFFSET_S, abs=1e-5)
    assert fit.to_host(9.0)[0] == pytest.approx(9.0 + OFFSET_S + 7, abs=1e-5)
    at_s, error_s = fit.to_host(5.0)
    assert abs(at_s - (5.0 + OFFSET_S)) <= error_s
    assert abs(at_s - (5.0 + OFFSET_S + 7)) <= error_s


def test_a_drifting_clock_is_followed() -> None:
    drift = 0.001  # 1 ms a second, ten times what a bad crystal does
    fit = ClockFit.of([reading(m + 0.5, offset_s=OFFSET_S + (m + 0.5) * drift) for m in range(100)], pairs(0, 100))
    for mono_s in (10.0, 50.0, 90.0):
        at_s, error_s = fit.to_host(mono_s)
        assert abs(at_s - (mono_s + OFFSET_S + mono_s * drift)) <= error_s + 0.005
        assert error_s < 0.02


def test_a_reading_before_the_second_pair_serves_until_there_is_better() -> None:
    fit = ClockFit.of([reading(0.5)], pairs(0, 0))
    assert fit.to_host(0.3)[0] == pytest.approx(0.3 + OFFSET_S, abs=1e-5)


def test_known_until_is_the_last_reading_between_pairs() -> None:
    assert ClockFit.of([reading(1.5), reading(2.5)], pairs(0, 2)).known_until_s == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize(("readings", "clock"), [([], pairs(0, 2)), ([reading(1)], []), ([], [])])
def test_without_measurements_no_time_is_made_up(readings: list[AgentReading], clock: list[ClockPair]) -> None:
    fit = ClockFit.of(readings, clock)
    assert fit.known_until_s == float("-inf")
    with pytest.raises(ValueError, match="no usable reading"):
        fit.to_host(1.0)
