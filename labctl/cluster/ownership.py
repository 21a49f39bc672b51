"""Who serves a client: buckets, each with a preference list of members. Pure, and the same on every member.

NLB spreads clients over 60 buckets per port rule; so does this. A bucket belongs to the first member of its preference
list that is alive, so that a member that dies loses its own buckets, evenly to the others, and no other bucket moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from labctl.topology.spec import ClusterSpec, Filtering, PortRule

__all__ = ["BUCKETS", "buckets_owned", "preferences", "preferences_of_rule"]

BUCKETS = 60

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


def buckets_owned(lists: Sequence[Preference], alive: Collection[int]) -> dict[int, int]:
    """How many buckets each living host ID owns; hosts that own none are left out."""
    owned: dict[int, int] = {}
    for preference in lists:
        owner = next((host for host in preference if host in alive), None)
        if owner is not None:
            owned[owner] = owned.get(owner, 0) + 1
    return owned
