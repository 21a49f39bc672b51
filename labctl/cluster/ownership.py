"""Who serves a client: buckets, each with a preference list of members. Pure, and the same on every member.

NLB spreads clients over 60 buckets per port rule; so does this. A bucket belongs to the first member of its preference
list that serves, so that a member that dies loses its own buckets, evenly to the others, and no other bucket moves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address

from labctl.cluster.hashing import jhash, scaled
from labctl.topology.spec import Affinity, ClusterSpec, Filtering, PortRule, RuleProtocol

__all__ = [
    "BUCKETS",
    "SEED",
    "bucket_of",
    "buckets_owned",
    "default_host",
    "owner_of",
    "preference_for",
    "preferences",
    "preferences_of_rule",
    "rule_for",
]

BUCKETS = 60
SEED = 0x4C414243  # of the hash that spreads clients; the same on all members

Preference = tuple[int, ...]  # host IDs, most preferred first


def preferences(weights: Mapping[int, int]) -> tuple[Preference, ...]:
    """For each bucket the host IDs in the order in which they own it.

    Shares follow the weights, as exactly as whole buckets allow, among all members and among those left when any die.

    Args:
        weights: load weight by host ID; a member of weight 0 owns nothing.
    """
    lists: dict[int, Preference] = {}
    _split(range(BUCKETS), {host: w for host, w in sorted(weights.items()) if w > 0}, (), lists)
    return tuple(lists[bucket] for bucket in range(BUCKETS))


def _split(
    buckets: Sequence[int], weights: Mapping[int, int], so_far: Preference, lists: dict[int, Preference]
) -> None:
    """Deal `buckets` out over the members by weight, then each member's own buckets over the rest, and so on."""
    if not weights or not buckets:
        lists.update(dict.fromkeys(buckets, so_far))
        return
    hands: dict[int, list[int]] = {host: [] for host in weights}
    for bucket in buckets:
        # Whoever would be furthest behind its share takes the next one (Sainte-Laguë, which rounds without a bias).
        taker = max(hands, key=lambda host: weights[host] / (2 * len(hands[host]) + 1))
        hands[taker].append(bucket)
    for host, hand in hands.items():
        rest = {other: weight for other, weight in weights.items() if other != host}
        _split(hand, rest, (*so_far, host), lists)


def preferences_of_rule(cluster: ClusterSpec, rule: PortRule) -> tuple[Preference, ...]:
    """The preference lists of a port rule; a single one for a single-host rule, none for a disabled one."""
    hosts = {m.node: m.priority for m in cluster.members}
    if rule.filtering is Filtering.DISABLED:
        return ()
    if rule.filtering is Filtering.SINGLE_HOST:
        named = [hosts[node] for node in rule.handling]
        return (tuple(named + [p for p in sorted(hosts.values()) if p not in named]),)
    given = dict(rule.weights)
    return preferences({host: given.get(node, 1 if not given else 0) for node, host in hosts.items()})


def default_host(cluster: ClusterSpec) -> Preference:
    """Who serves what no rule covers: the lowest host ID."""
    return tuple(sorted(m.priority for m in cluster.members))


def buckets_owned(lists: Sequence[Preference], serving: Collection[int]) -> dict[int, int]:
    """How many buckets each serving host ID owns; hosts that own none are left out."""
    owned: dict[int, int] = {}
    for preference in lists:
        owner = _first(preference, serving)
        if owner is not None:
            owned[owner] = owned.get(owner, 0) + 1
    return owned


def _first(preference: Preference, serving: Collection[int]) -> int | None:
    return next((host for host in preference if host in serving), None)


# -- a single client ---------------------------------------------------------------------------------------------------


def rule_for(cluster: ClusterSpec, port: int, protocol: RuleProtocol) -> PortRule | None:
    """The rule that covers a port; None when the default host serves it."""
    return next((rule for rule in cluster.port_rules if rule.covers(port, protocol)), None)


def bucket_of(affinity: Affinity, source: IPv4Address, source_port: int) -> int:
    """A client's bucket, as nft's `jhash … mod 60` gives it.

    The hash runs over nft's registers: the address in network byte order, and with affinity none the source port in two
    more bytes, padded to four.
    """
    match affinity:
        case Affinity.NONE:
            hashed = source.packed + source_port.to_bytes(2, "big") + bytes(2)
        case Affinity.SINGLE:
            hashed = source.packed
        case Affinity.NETWORK:
            hashed = source.packed[:3] + bytes(1)
    return scaled(jhash(hashed, SEED), BUCKETS)


def preference_for(cluster: ClusterSpec, rule: PortRule | None, source: IPv4Address, source_port: int) -> Preference:
    """The members in the order in which they serve that client; empty when nobody does."""
    if rule is None:
        return default_host(cluster)
    lists = preferences_of_rule(cluster, rule)
    if len(lists) < BUCKETS:
        return lists[0] if lists else ()
    return lists[bucket_of(rule.affinity, source, source_port)]


def owner_of(
    cluster: ClusterSpec,
    rule: PortRule | None,
    source: IPv4Address,
    source_port: int,
    serving: Callable[[PortRule | None], Collection[int]],
) -> int | None:
    """The host ID of the member that answers a new connection of that client; None when nobody does.

    Args:
        rule: what `rule_for` says of the port.
        serving: the living host IDs that serve a rule, or what no rule covers.
    """
    return _first(preference_for(cluster, rule, source, source_port), serving(rule))
