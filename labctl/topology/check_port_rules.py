"""Checks of port rules: what each of them takes, and that no two cover the same port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from labctl.topology.finding import Finding, KeyPath
from labctl.topology.model import Rule, Topology
from labctl.topology.spec import Filtering, RuleProtocol
from labctl.topology.values import IPAddress, PortRange

__all__ = [
    "MOST_CHECKS",
    "MOST_RULES",
    "check_overlaps",
    "check_rule_addresses",
    "check_rule_count",
    "check_rule_members",
    "check_rule_options",
]

MOST_RULES = 32  # as many as NLB has
MOST_CHECKS = 6  # bits of a heartbeat's priority that are free for them


def _rules(topology: Topology) -> Iterator[tuple[KeyPath, Rule, tuple[str, ...]]]:
    """Every rule with its path and its cluster's members."""
    for name, cluster in topology.clusters.items():
        members = tuple(member.node for member in cluster.members)
        for index, rule in enumerate(cluster.port_rules):
            yield ("clusters", name, "port_rules", index), rule, members


def check_rule_count(topology: Topology) -> Iterator[Finding]:
    """A cluster has 32 port rules and 6 health checks at most, where each range of a list is one."""
    for name, cluster in topology.clusters.items():
        count = sum(len(rule.ports) for rule in cluster.port_rules)
        if count > MOST_RULES:
            says = f"has {count} rules, one for each range of ports; expected {MOST_RULES} at most, as in NLB"
            yield Finding(("clusters", name, "port_rules"), says)
        checks = sum(len(rule.ports) for rule in cluster.port_rules if rule.health)
        if checks > MOST_CHECKS:
            says = f"has {checks} health checks, one for each range of ports; expected {MOST_CHECKS} at most"
            yield Finding(("clusters", name, "port_rules"), says)


def check_rule_options(topology: Topology) -> Iterator[Finding]:
    """Affinity and weights go with filtering multiple, handling goes with single-host."""
    for path, rule, _ in _rules(topology):
        options = (
            ("affinity", rule.affinity, Filtering.MULTIPLE),
            ("weights", rule.weights, Filtering.MULTIPLE),
            ("handling", rule.handling, Filtering.SINGLE_HOST),
        )
        for key, value, wanted in options:
            if value is not None and rule.filtering is not wanted:
                says = f"means nothing with filtering {rule.filtering}; expected filtering {wanted}, or no {key}"
                yield Finding((*path, key), says, needs=((*path, "filtering"),), at_key=True)
        if rule.health and rule.filtering is Filtering.DISABLED:
            says = "means nothing with filtering disabled; expected filtering multiple or single-host, or no health"
            yield Finding((*path, "health"), says, needs=((*path, "filtering"),), at_key=True)


def check_rule_members(topology: Topology) -> Iterator[Finding]:
    """Weights and handling name the members, all of them, and somebody serves."""
    for path, rule, members in _rules(topology):
        if rule.weights is not None:
            yield from _weights((*path, "weights"), rule.weights, members)
        if rule.handling is not None:
            yield from _handling((*path, "handling"), rule.handling, members)


def _weights(path: KeyPath, weights: Mapping[str, int], members: tuple[str, ...]) -> Iterator[Finding]:
    for name in weights:
        yield from _member((*path, name), "", name, members)
    yield from _complete(path, tuple(weights), members)
    if weights and not any(weights.values()):
        yield Finding(path, "is 0 for all; expected at least one member that serves", needs=(path,))


def _handling(path: KeyPath, handling: tuple[str, ...], members: tuple[str, ...]) -> Iterator[Finding]:
    for index, name in enumerate(handling):
        yield from _member((*path, index), f"{name} ", name, members)
        if name in handling[:index]:
            yield Finding((*path, index), f"{name} is there twice; expected each member once")
    yield from _complete(path, handling, members)


def _member(path: KeyPath, subject: str, name: str, members: tuple[str, ...]) -> Iterator[Finding]:
    if name not in members:
        says = f"{subject}is not a member of the cluster; there is {', '.join(members) or 'none'}"
        yield Finding(path, says, needs=((*path[:2], "members"),), at_key=not subject)


def _complete(path: KeyPath, named: tuple[str, ...], members: tuple[str, ...]) -> Iterator[Finding]:
    lacking = [member for member in dict.fromkeys(members) if member not in named]
    if lacking:
        yield Finding(path, f"lacks {', '.join(lacking)}; expected every member of the cluster", needs=(path,))


def check_rule_addresses(topology: Topology) -> Iterator[Finding]:
    """A rule for one virtual address is for one that its cluster has."""
    for path, rule, _ in _rules(topology):
        cluster = path[:2]
        virtual = topology.clusters[str(cluster[1])].virtual
        if rule.address and rule.address not in virtual:
            says = f"{rule.address} is not a virtual address of the cluster; there is {', '.join(map(str, virtual))}"
            yield Finding((*path, "address"), says, needs=((*cluster, "address"), (*cluster, "addresses")))


@dataclass(frozen=True, slots=True)
class _Covered:
    """What a rule covers: ports of a protocol, of one virtual address or (None) of all."""

    path: KeyPath
    ports: PortRange
    protocol: RuleProtocol
    address: IPAddress | None


def check_overlaps(topology: Topology) -> Iterator[Finding]:
    """No port of a protocol is covered twice, by rules for all addresses or by rules for the same one."""
    earlier: list[_Covered] = []
    for path, rule, _ in _rules(topology):
        for index, ports in enumerate(rule.ports):
            covered = _Covered((*path, "ports", index), ports, rule.protocol, rule.address)
            yield from _overlap(covered, earlier)
            earlier.append(covered)


def _overlap(one: _Covered, earlier: list[_Covered]) -> Iterator[Finding]:
    for other in earlier:
        same_place = other.path[:2] == one.path[:2] and other.address == one.address
        same_protocol = RuleProtocol.BOTH in {one.protocol, other.protocol} or one.protocol is other.protocol
        same_ports = one.ports.first <= other.ports.last and other.ports.first <= one.ports.last
        if same_place and same_protocol and same_ports:
            says = f"{one.ports} ({one.protocol}) overlaps {other.ports} ({other.protocol}) of"
            yield Finding(one.path, says, other=other.path[:4])
            return
