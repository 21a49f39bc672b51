"""Who serves a client: buckets, each with a preference list of members. Pure, and the same on every member.

NLB spreads clients over 60 buckets per port rule; so does this. A bucket belongs to the first member of its preference
list that serves, so that a member that dies loses its own buckets, evenly to the others, and no other bucket moves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from labctl.cluster.hashing import jhash, scaled
from labctl.topology.spec import Affinity, ClusterSpec, Filtering, PortRule, RuleProtocol
from labctl.topology.values import IPAddress

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

    Shares follow the weights, as exactly as whole buckets allow, among all members and among those left when any die. A
    member of a higher host ID than all others that is added takes buckets from them, and no other bucket moves.

    Args:
        weights: load weight by host ID; a member of weight 0 owns nothing.
    """
    lists: dict[int, Preference] = {}
    _split(list(range(BUCKETS)), {host: w for host, w in sorted(weights.items()) if w > 0}, (), lists)
    return tuple(lists[bucket] for bucket in range(BUCKETS))


def _split(buckets: list[int], weights: Mapping[int, int], so_far: Preference, lists: dict[int, Preference]) -> None:
    """Deal `buckets` out over the members by weight, then each member's own buckets over the rest, and so on."""
    if len(buckets) < 2 or not weights:
        lists.update({bucket: (*so_far, *_drawn(bucket, weights)) for bucket in buckets})
        return
    for host, hand in _dealt(buckets, weights).items():
        rest = _drawn(hand[0], {h: w for h, w in weights.items() if h != host}) if hand else ()
        _split(hand, {other: weights[other] for other in rest}, (*so_far, host), lists)


def _drawn(bucket: int, weights: Mapping[int, int]) -> Preference:
    """Hosts by weight, drawn by lot where that is the same: else the first would get all odd buckets of the dead."""
    return tuple(sorted(weights, key=lambda host: (-weights[host], jhash(bytes((bucket, host)), SEED))))


def _dealt(buckets: list[int], weights: Mapping[int, int]) -> dict[int, list[int]]:
    """Each member's buckets: the first has all, and each further one takes what is too much for those before it."""
    hands: dict[int, list[int]] = {}
    for host in weights:
        due = _shares(len(buckets), {h: weights[h] for h in (*hands, host)})
        taken = [bucket for h, hand in hands.items() for bucket in hand[due[h] :]]
        hands = {h: hand[: due[h]] for h, hand in hands.items()}
        hands[host] = sorted(taken) if hands else list(buckets)
    return hands


def _shares(count: int, weights: Mapping[int, int]) -> dict[int, int]:
    """How many of so many buckets each member is due: Sainte-Laguë, which rounds without a bias.

    Being a divisor method it never gives anybody more because one more takes part.
    """
    due = dict.fromkeys(weights, 0)
    for _ in range(count):
        # Whoever would be furthest behind its share takes the next one.
        due[max(due, key=lambda host: weights[host] / (2 * due[host] + 1))] += 1
    return due


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


def rule_for(cluster: ClusterSpec, port: int, protocol: RuleProtocol, to: IPAddress | None = None) -> PortRule | None:
    """The rule that covers a port; None when the default host serves it.

    Args:
        to: the virtual address; the primary one when left out. Its own rules come before those for all.
    """
    covering = [rule for rule in cluster.port_rules if rule.covers(port, protocol)]
    for address in (to or cluster.address.ip, None):
        for rule in covering:
            if rule.address == address:
                return rule
    return None


def bucket_of(affinity: Affinity, source: IPAddress, source_port: int) -> int:
    """A client's bucket, as nft's `jhash … mod 60` gives it.

    The hash runs over nft's registers: the address in network byte order, and with affinity none the source port in two
    more bytes, padded to four. A client's network is its /24, of IPv6 its /64.
    """
    match affinity:
        case Affinity.NONE:
            hashed = source.packed + source_port.to_bytes(2, "big") + bytes(2)
        case Affinity.SINGLE:
            hashed = source.packed
        case Affinity.NETWORK:
            hashed = source.packed[:3] + bytes(1) if source.version == 4 else source.packed[:8] + bytes(8)
    return scaled(jhash(hashed, SEED), BUCKETS)


def preference_for(cluster: ClusterSpec, rule: PortRule | None, source: IPAddress, source_port: int) -> Preference:
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
    source: IPAddress,
    source_port: int,
    serving: Callable[[PortRule | None], Collection[int]],
) -> int | None:
    """The host ID of the member that answers a new connection of that client; None when nobody does.

    Args:
        rule: what `rule_for` says of the port.
        serving: the living host IDs that serve a rule, or what no rule covers.
    """
    return _first(preference_for(cluster, rule, source, source_port), serving(rule))
