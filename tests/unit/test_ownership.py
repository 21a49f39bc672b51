"""Who owns which bucket: exact shares, and as little movement as can be when members come and go."""

from __future__ import annotations

import functools
import random
from collections import Counter
from ipaddress import IPv4Address
from itertools import combinations

import pytest
from lab_bench import cluster_spec

from labctl.cluster.hashing import jhash, scaled
from labctl.cluster.ownership import (
    BUCKETS,
    Preference,
    bucket_of,
    buckets_owned,
    owner_of,
    preferences,
    preferences_of_rule,
    rule_for,
)
from labctl.topology.spec import Affinity, Filtering, PortRule, RuleProtocol

SIZES = (2, 3, 4, 5, 6)
ALL_SIZES = (*SIZES, 7, 8, 16, 32)
DEATHS = [(size, dead) for size in SIZES for dead in range(1, size + 1)]
SUBSETS = [
    (size, alive) for size in SIZES for count in range(1, size + 1) for alive in combinations(range(1, size + 1), count)
]


@functools.cache
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


@pytest.mark.parametrize("size", range(1, 32))
def test_a_member_that_is_added_takes_buckets_and_no_other_moves(size: int) -> None:
    everyone = set(range(1, size + 2))
    before, after = owners(equal(size), everyone), owners(equal(size + 1), everyone)
    assert {now for was, now in zip(before, after, strict=True) if was != now} == {size + 1}


@pytest.mark.parametrize("weights", [{1: 1, 2: 3}, {1: 10, 2: 20, 3: 30}, {1: 7, 2: 0, 3: 5, 4: 1}], ids=str)
@pytest.mark.parametrize("weight", [1, 5, 20])
def test_a_member_of_any_weight_that_is_added_takes_buckets_and_no_other_moves(
    weights: dict[int, int], weight: int
) -> None:
    before = owners(preferences(weights), set(weights))
    after = owners(preferences({**weights, 9: weight}), {*weights, 9})
    assert {now for was, now in zip(before, after, strict=True) if was != now} <= {9}


@pytest.mark.parametrize("dead", [{1}, {1, 2, 3}, {5, 17, 30}, set(range(1, 17)), set(range(1, 33, 2))], ids=len)
def test_of_32_members_nobody_is_left_with_much_more_than_its_share_whoever_dies(dead: set[int]) -> None:
    shares = buckets_owned(equal(32), set(range(1, 33)) - dead)
    assert max(shares.values()) <= 2 * -(-BUCKETS // len(shares))


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


# -- a single client; test_cluster_on_wire.py holds this to what kernels do --------------------------------------------


@pytest.mark.parametrize(
    ("key", "seed", "expected"),
    [(b"", 0, 0xDEADBEEF), (b"", 0xDEADBEEF, 0xBD5B7DDE), (b"Four score and seven years ago", 0, 0x17770551)],
)
def test_the_hash_is_lookup3(key: bytes, seed: int, expected: int) -> None:
    # From driver5() of Bob Jenkins' lookup3.c.
    assert jhash(key, seed) == expected


def test_a_hash_is_scaled_to_buckets_by_its_upper_bits() -> None:
    assert [scaled(value, 60) for value in (0, (1 << 32) // 60, (1 << 32) // 60 + 1, (1 << 32) - 1)] == [0, 0, 1, 59]


SOURCE = IPv4Address("10.9.1.7")


def test_with_affinity_none_the_port_decides_too() -> None:
    assert len({bucket_of(Affinity.NONE, SOURCE, port) for port in range(1024, 2048)}) == BUCKETS


def test_with_affinity_single_the_port_does_not_matter() -> None:
    assert len({bucket_of(Affinity.SINGLE, SOURCE, port) for port in range(1024, 2048)}) == 1
    assert len({bucket_of(Affinity.SINGLE, SOURCE + n, 1) for n in range(1024)}) == BUCKETS


def test_with_affinity_network_a_class_c_network_stays_together() -> None:
    assert len({bucket_of(Affinity.NETWORK, IPv4Address(f"10.9.1.{n}"), n) for n in range(256)}) == 1
    assert len({bucket_of(Affinity.NETWORK, IPv4Address(f"10.{n % 4}.{n // 4}.1"), 1) for n in range(1024)}) == BUCKETS


RULES = (
    PortRule(53, 53, RuleProtocol.UDP, Filtering.MULTIPLE),
    PortRule(80, 80, RuleProtocol.TCP, Filtering.SINGLE_HOST, handling=("c", "a", "b")),
    PortRule(1000, 1999, RuleProtocol.BOTH, Filtering.DISABLED),
)
CLUSTER = cluster_spec("a", "b", "c", rules=RULES)


@pytest.mark.parametrize(
    ("port", "protocol", "found"),
    [
        (53, RuleProtocol.UDP, 0),
        (53, RuleProtocol.TCP, None),
        (80, RuleProtocol.TCP, 1),
        (81, RuleProtocol.TCP, None),
        (1000, RuleProtocol.TCP, 2),
        (1999, RuleProtocol.UDP, 2),
        (2000, RuleProtocol.UDP, None),
    ],
)
def test_a_port_has_the_rule_that_covers_it(port: int, protocol: RuleProtocol, found: int | None) -> None:
    assert rule_for(CLUSTER, port, protocol) == (None if found is None else RULES[found])


@pytest.mark.parametrize(
    ("rule", "serving", "owner"),
    [
        (RULES[1], {1, 2, 3}, 3),
        (RULES[1], {1, 2}, 1),
        (RULES[2], {1, 2, 3}, None),
        (None, {1, 2, 3}, 1),
        (None, {2, 3}, 2),
        (None, set(), None),
    ],
)
def test_single_host_disabled_and_default_host(rule: PortRule | None, serving: set[int], owner: int | None) -> None:
    assert owner_of(CLUSTER, rule, SOURCE, 1024, lambda _rule: serving) == owner


# -- spread ------------------------------------------------------------------------------------------------------------


Clients = list[tuple[IPv4Address, int]]


def spread(weights: dict[int, int], affinity: Affinity, clients: Clients) -> dict[int, float]:
    """Which share of the clients each member owns."""
    lists = preferences(weights)
    owned = Counter(lists[bucket_of(affinity, address, port)][0] for address, port in clients)
    return {host: owned[host] / len(clients) for host in weights}


@pytest.fixture(scope="module")
def many() -> Clients:
    """60,000 clients from everywhere."""
    draw = random.Random(0)
    return [(IPv4Address(draw.getrandbits(32)), draw.randrange(1024, 65536)) for _ in range(60000)]


@pytest.mark.parametrize("affinity", Affinity)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_60000_clients_spread_evenly_within_1_percent(size: int, affinity: Affinity, many: Clients) -> None:
    shares = spread(dict.fromkeys(range(1, size + 1), 1), affinity, many)
    assert shares == pytest.approx(dict.fromkeys(shares, 1 / size), abs=0.01)


# The clients that the shipped labs have, and as many networks for affinity network.
_250 = {
    (Affinity.NONE, "10.77.1.1"): [(IPv4Address("10.77.1.1"), 40000 + n) for n in range(250)],
    (Affinity.SINGLE, "10.77.1.x"): [(IPv4Address(f"10.77.1.{n}"), 1) for n in range(1, 251)],
    (Affinity.SINGLE, "10.78.1.x"): [(IPv4Address(f"10.78.1.{n}"), 1) for n in range(1, 251)],
    (Affinity.NETWORK, "10.77.x.1"): [(IPv4Address(f"10.77.{n}.1"), 1) for n in range(250)],
}


@pytest.mark.parametrize("weights", [{1: 1, 2: 1}, {1: 1, 2: 1, 3: 1}, dict.fromkeys(range(1, 6), 1), {1: 1, 2: 3}])
@pytest.mark.parametrize(("affinity", "clients"), [(of, them) for (of, _), them in _250.items()], ids=map(str, _250))
def test_250_clients_spread_by_load_weight_within_8_percent(
    affinity: Affinity, clients: Clients, weights: dict[int, int]
) -> None:
    fair = {host: weight / sum(weights.values()) for host, weight in weights.items()}
    assert spread(weights, affinity, clients) == pytest.approx(fair, abs=0.08)


@pytest.mark.parametrize("affinity", Affinity)
def test_60000_clients_spread_by_load_weight_within_1_percent(affinity: Affinity, many: Clients) -> None:
    assert spread({1: 1, 2: 3}, affinity, many)[2] == pytest.approx(0.75, abs=0.01)
