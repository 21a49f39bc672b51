"""Who owns which bucket: exact shares, and as little movement as can be when members come and go."""

from __future__ import annotations

from itertools import combinations

import pytest
from lab_bench import cluster_spec

from labctl.cluster.ownership import BUCKETS, Preference, buckets_owned, preferences, preferences_of_rule
from labctl.topology.spec import Filtering, PortRule, RuleProtocol

SIZES = (2, 3, 4, 5, 6)
ALL_SIZES = (*SIZES, 7, 8, 16, 32)
DEATHS = [(size, dead) for size in SIZES for dead in range(1, size + 1)]
SUBSETS = [
    (size, alive) for size in SIZES for count in range(1, size + 1) for alive in combinations(range(1, size + 1), count)
]


def equal(size: int) -> tuple[Preference, ...]:
    """The preferences of so many members of equal weight."""
    return preferences(dict.fromkeys(range(1, size + 1), 1))


def owners(lists: tuple[Preference, ...], alive: set[int]) -> list[int]:
    """By bucket, who owns it."""
    return [next(host for host in preference if host in alive) for preference in lists]


@pytest.mark.parametrize("size", SIZES)
def test_equal_members_own_exactly_equal_shares(size: int) -> None:
    assert buckets_owned(equal(size), range(1, size + 1)) == dict.fromkeys(range(1, size + 1), BUCKETS // size)


@pytest.mark.parametrize("size", ALL_SIZES)
def test_shares_differ_by_one_bucket_at_most(size: int) -> None:
    shares = buckets_owned(equal(size), range(1, size + 1)).values()
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({1: 1, 2: 3}, {1: 15, 2: 45}),
        ({1: 25, 2: 75}, {1: 15, 2: 45}),
        ({1: 3, 2: 1}, {1: 45, 2: 15}),
        ({1: 1, 2: 2, 3: 3}, {1: 10, 2: 20, 3: 30}),
        ({4: 1, 9: 1}, {4: 30, 9: 30}),
        ({1: 7}, {1: 60}),
        ({1: 50, 2: 0, 3: 50}, {1: 30, 3: 30}),
    ],
)
def test_shares_follow_the_weights(weights: dict[int, int], shares: dict[int, int]) -> None:
    assert buckets_owned(preferences(weights), set(weights)) == shares


def test_a_member_of_weight_0_owns_nothing_even_alone() -> None:
    assert buckets_owned(preferences({1: 1, 2: 0}), {2}) == {}


@pytest.mark.parametrize(("size", "dead"), DEATHS)
def test_only_the_buckets_of_the_dead_move(size: int, dead: int) -> None:
    everyone = set(range(1, size + 1))
    before, after = owners(equal(size), everyone), owners(equal(size), everyone - {dead})
    moved = {was for was, now in zip(before, after, strict=True) if was != now}
    assert moved == {dead}


@pytest.mark.parametrize(("size", "dead"), [(size, dead) for size, dead in DEATHS if size >= 3])
def test_the_load_of_the_dead_spreads_evenly(size: int, dead: int) -> None:
    survivors = set(range(1, size + 1)) - {dead}
    shares = buckets_owned(equal(size), survivors)
    fair = BUCKETS / len(survivors)
    assert {host: share for host, share in shares.items() if abs(share - fair) > 0.15 * fair} == {}
    assert set(shares) == survivors


@pytest.mark.parametrize(("size", "alive"), SUBSETS)
def test_every_bucket_has_exactly_one_owner_whoever_lives(size: int, alive: tuple[int, ...]) -> None:
    shares = buckets_owned(equal(size), alive)
    assert sum(shares.values()) == BUCKETS
    assert set(shares) == set(alive)


@pytest.mark.parametrize("size", ALL_SIZES)
def test_every_bucket_names_every_member_once(size: int) -> None:
    assert {tuple(sorted(preference)) for preference in equal(size)} == {tuple(range(1, size + 1))}


def test_weights_hold_among_those_who_are_left() -> None:
    assert buckets_owned(preferences({1: 1, 2: 1, 3: 2}), {1, 3}) == {1: 20, 3: 40}


def test_members_agree_whatever_order_they_are_told_in() -> None:
    assert preferences({1: 2, 2: 1, 3: 1}) == preferences({3: 1, 2: 1, 1: 2})


# -- by port rule ------------------------------------------------------------------------------------------------------


def rule(filtering: Filtering, **more: object) -> PortRule:
    """A rule for port 443."""
    return PortRule(443, 443, RuleProtocol.TCP, filtering, **more)  # type: ignore[arg-type]


def test_a_rule_without_weights_shares_equally() -> None:
    lists = preferences_of_rule(cluster_spec("a", "b", "c"), rule(Filtering.MULTIPLE))
    assert lists == equal(3)


def test_a_rule_gives_weights_by_member() -> None:
    lists = preferences_of_rule(cluster_spec("a", "b"), rule(Filtering.MULTIPLE, weights=(("b", 75), ("a", 25))))
    assert buckets_owned(lists, {1, 2}) == {1: 15, 2: 45}


def test_a_member_that_weights_leave_out_owns_nothing() -> None:
    lists = preferences_of_rule(cluster_spec("a", "b"), rule(Filtering.MULTIPLE, weights=(("b", 10),)))
    assert buckets_owned(lists, {1, 2}) == {2: BUCKETS}


def test_a_single_host_rule_has_one_list_in_handling_order_with_all_members() -> None:
    lists = preferences_of_rule(cluster_spec("a", "b", "c"), rule(Filtering.SINGLE_HOST, handling=("c", "a")))
    assert lists == ((3, 1, 2),)


def test_a_disabled_rule_has_no_owner() -> None:
    assert preferences_of_rule(cluster_spec("a", "b"), rule(Filtering.DISABLED)) == ()
