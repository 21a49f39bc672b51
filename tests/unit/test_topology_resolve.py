"""Resolving: what depends on the command line and the host, and the digests that name a spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest

from labctl.errors import InputError
from labctl.topology.catalogue import Catalogue, ImageDefaults
from labctl.topology.load import parse_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, Filtering, Heartbeat, LabSpec, PortRule, RuleProtocol, digest_of

TEXT = """
lab: pair
domain: pair.test
image: micro
networks: {lan: {subnet: 10.9.0.0/24}}
nodes:
  a: {nics: {eth0: {network: lan, address: 10.9.0.1}, eth1: {network: lan, address: 10.9.0.3}}}
  b: {memory_mib: 512, nics: {eth0: {network: lan, address: 10.9.0.2}}}
clusters:
  web:
    network: lan
    address: 10.9.0.20
    fqdn: web.pair.test
    heartbeat: HEARTBEAT
    members: [{node: a, nic: eth0, priority: 1}, {node: b, nic: eth0, priority: 2}]
"""


def _spec(
    *, heartbeat: str = "{}", lab: str | None = None, accelerator: Accelerator = Accelerator.TCG, memory_mib: int = 192
) -> LabSpec:
    catalogue = Catalogue(images={"micro": ImageDefaults(memory_mib)})
    topology = parse_topology(TEXT.replace("HEARTBEAT", heartbeat), "pair.yaml", catalogue)
    return resolve(topology, lab=lab, accelerator=accelerator, catalogue=catalogue)


@pytest.mark.parametrize(
    ("heartbeat", "accelerator", "expected"),
    [
        ("{}", Accelerator.KVM, Heartbeat(100, 5)),
        ("{}", Accelerator.TCG, Heartbeat(500, 5)),
        ("{profile: auto}", Accelerator.KVM, Heartbeat(100, 5)),
        ("{profile: auto}", Accelerator.TCG, Heartbeat(500, 5)),
        ("{profile: fast}", Accelerator.TCG, Heartbeat(100, 5)),
        ("{profile: emulated}", Accelerator.KVM, Heartbeat(500, 5)),
        ("{profile: nlb}", Accelerator.KVM, Heartbeat(1000, 5)),
        ("{period_ms: 200, tolerance: 3}", Accelerator.KVM, Heartbeat(200, 3)),
    ],
)
def test_heartbeat_follows_profile_and_accelerator(
    heartbeat: str, accelerator: Accelerator, expected: Heartbeat
) -> None:
    assert _spec(heartbeat=heartbeat, accelerator=accelerator).clusters[0].heartbeat == expected


def test_lab_takes_the_name_of_the_command_line() -> None:
    assert _spec().name == "pair"
    assert _spec(lab="other").name == "other"


@pytest.mark.parametrize("lab", ["", "Other", "../other", "o" * 33, "-o"])
def test_lab_name_of_the_command_line_is_checked(lab: str) -> None:
    with pytest.raises(InputError, match=r"^lab "):
        _spec(lab=lab)


def test_macs_are_the_same_in_labs_of_every_name() -> None:
    assert _spec(lab="one").nodes == _spec(lab="two").nodes


def test_mac_of_a_member_holds_priority_and_virtual_address() -> None:
    assert _spec().node("b").nics[0].mac == "02:02:0a:09:00:14"


def test_other_macs_follow_from_the_names_alone() -> None:
    # sha256("a/eth1") begins with these three bytes; saved states and notes rely on them.
    assert _spec().node("a").nics[1].mac == "52:54:00:32:1a:69"


def test_memory_is_the_images_unless_the_node_says_so() -> None:
    spec = _spec(memory_mib=320)
    assert (spec.node("a").memory_mib, spec.node("b").memory_mib) == (320, 512)


def test_addresses_carry_the_prefix_of_their_network() -> None:
    spec = _spec()
    assert spec.node("a").nics[0].address == IPv4Interface("10.9.0.1/24")
    assert spec.clusters[0].address == IPv4Interface("10.9.0.20/24")


def test_missing_port_rules_mean_the_default_rule_of_nlb() -> None:
    assert _spec().clusters[0].port_rules == (PortRule(0, 65535, RuleProtocol.BOTH, Filtering.MULTIPLE),)


def test_digest_stays_the_same_from_release_to_release() -> None:
    # What libvirt holds carries digests: another value here makes every existing lab be built anew.
    assert (
        digest_of(_spec().clusters[0], ("x", 1, None, True), {"k": IPv4Address("10.0.0.1")}, b"\x00")
        == "01160cb1e7f74ecb"
    )


def test_digest_does_not_depend_on_the_order_of_a_mapping() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "change", [{"priority": 3}, {"node": "c"}, {"nic": "eth9"}], ids=lambda change: next(iter(change))
)
def test_digest_tells_a_changed_field(change: dict[str, object]) -> None:
    cluster = _spec().clusters[0]
    first, *rest = cluster.members
    changed = dataclasses.replace(cluster, members=(dataclasses.replace(first, **change), *rest))
    assert digest_of(changed) != digest_of(cluster)


@pytest.mark.parametrize(
    ("changed", "was"),
    [
        (
            lambda s: dataclasses.replace(s.nodes[0].nics[0], address6=IPv6Interface("fd00::1/64")),
            lambda s: s.nodes[0].nics[0],
        ),
        (
            lambda s: dataclasses.replace(s.clusters[0], more_addresses=(IPv4Interface("10.9.0.21/24"),)),
            lambda s: s.clusters[0],
        ),
        (
            lambda s: dataclasses.replace(s.clusters[0].port_rules[0], address=IPv6Address("fd00::1")),
            lambda s: s.clusters[0].port_rules[0],
        ),
    ],
    ids=["a NIC's IPv6 address", "one more virtual address", "a rule's address"],
)
def test_digest_tells_what_came_later_once_it_is_used(
    changed: Callable[[LabSpec], object], was: Callable[[LabSpec], object]
) -> None:
    assert digest_of(changed(_spec())) != digest_of(was(_spec()))


def test_digest_tells_values_apart_that_read_alike() -> None:
    digests = {digest_of(value) for value in (1, "1", True, None, "", ("1",), (1,), {"1": 1})}
    assert len(digests) == 8
