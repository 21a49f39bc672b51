"""The packet filter in real kernels, every frame known: who answers, through every change of membership.

Each member is a network namespace with its rendered filter; see `wire`. What labctl itself would say of a client,
`ownership`, is held to what the kernels do.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import combinations

import pytest
from packets import Client, checksum
from test_cluster_files import BOTH, DISABLED, MULTIPLE, SINGLE_HOST, UDP, cluster, lab
from wire import VRRP, Cluster

from labctl.cluster.ownership import owner_of, rule_for
from labctl.topology.spec import Affinity, ClusterMode, LabSpec, PortRule

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs nft, and root for network namespaces"
)

THREE = ("cas1", "cas2", "cas3")
SUBSETS = [alive for count in (3, 2, 1) for alive in combinations((1, 2, 3), count)]

UDP_RULES = (
    PortRule(1000, 1999, UDP, MULTIPLE, Affinity.NONE),
    PortRule(2000, 2000, UDP, MULTIPLE, Affinity.SINGLE),
    PortRule(3000, 3000, BOTH, MULTIPLE, Affinity.NETWORK),
    PortRule(4000, 4000, UDP, MULTIPLE, weights=(("cas1", 1), ("cas2", 3), ("cas3", 0))),
    PortRule(5000, 5000, UDP, SINGLE_HOST, handling=("cas2", "cas3", "cas1")),
    PortRule(6000, 6000, UDP, DISABLED),
)
PORTS = {
    "affinity none, in a range": 1500,
    "affinity single": 2000,
    "affinity network, TCP and UDP": 3000,
    "weights 1:3:0": 4000,
    "single host": 5000,
    "disabled": 6000,
    "default host": 7000,
}


def clients(count: int, seed: int = 1) -> list[Client]:
    """Different clients from everywhere in 10.0.0.0/8, always the same ones."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        address = f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"
        found.setdefault(address, draw.randrange(1024, 65536))
    return list(found.items())


def spec_of(*rules: PortRule, members: tuple[str, ...] = THREE) -> LabSpec:
    return lab(cluster(*rules, members=members))


# -- every frame reaches every member, and exactly one accepts it ------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """Three members with a rule of every kind."""
    made = Cluster(spec_of(*UDP_RULES))
    for member in made.members.values():
        for port in PORTS.values():
            member.serve(UDP, port)
    yield made
    made.close()


def predicted(made: Cluster, client: Client, port: int, alive: tuple[int, ...]) -> list[int]:
    """Who should accept a client's datagram, by `ownership`."""
    the_cluster = made[1].cluster
    address, own = client
    rule = rule_for(the_cluster, port, UDP)
    owner = owner_of(the_cluster, rule, IPv4Address(address), own, lambda _rule: alive)
    return [] if owner is None else [owner]


@pytest.mark.parametrize("alive", SUBSETS, ids=str)
@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_whoever_lives_the_owner_that_labctl_names_accepts_and_nobody_else(
    three: Cluster, port: int, alive: tuple[int, ...]
) -> None:
    for member in three.members.values():
        member.takes_for_alive(*alive)
    asked = clients(1000)
    found = three.owners(asked, port)
    living = {client: [host for host in who if host in alive] for client, who in found.items()}
    assert living == {client: predicted(three, client, port, alive) for client in asked}
    assert all(set(who) <= set(alive) for who in found.values())


def test_every_datagram_is_dropped_by_all_members_but_one(three: Cluster) -> None:
    for member in three.members.values():
        member.takes_for_alive(1, 2, 3)
    before = {host: sum(m.counted("decide")[:1]) for host, m in three.members.items()}
    three.owners(clients(600), 2000)
    dropped = [sum(m.counted("decide")[:1]) - before[host] for host, m in three.members.items()]
    assert sum(dropped) == 2 * 600


# -- modes -------------------------------------------------------------------------------------------------------------

MACS = {
    ClusterMode.UNICAST: "02:bf:0a:4d:09:14",
    ClusterMode.MULTICAST: "03:bf:0a:4d:09:14",
    ClusterMode.IGMP: "01:00:5e:7f:09:14",
}


@pytest.fixture(params=MACS)
def in_mode(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two members in each mode."""
    made = Cluster(lab(cluster(UDP_RULES[0], mode=request.param)))
    for member in made.members.values():
        member.serve(UDP, 1500)
        member.takes_for_alive(1, 2)
    yield made
    made.close()


def test_in_every_mode_frames_for_the_cluster_mac_reach_all_and_one_accepts(in_mode: Cluster) -> None:
    found = in_mode.owners(clients(600), 1500)
    assert {len(who) for who in found.values()} == {1}
    assert {host for (host,) in found.values()} == {1, 2}


def test_in_every_mode_arp_answers_carry_the_cluster_mac_and_come_from_the_members_own(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        answer = member.asked_for(str(member.cluster.address.ip))
        assert answer is not None
        assert answer[22:28].hex(":") == MACS[member.cluster.mode]
        assert answer[6:12].hex(":") not in MACS.values()


def test_in_every_mode_a_members_own_address_has_its_own_mac(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        answer = member.asked_for(str(member.address))
        assert answer is not None
        assert answer[22:28] == answer[6:12]


IGMP, PIM = 2, 103
TOLD = {
    ClusterMode.UNICAST: {VRRP},
    ClusterMode.MULTICAST: {VRRP, PIM},
    ClusterMode.IGMP: {VRRP, PIM, IGMP},
}


def test_a_heartbeat_tells_switches_that_snoop_where_multicast_frames_are_wanted(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        frames = {frame[23]: frame for frame in member.advertises()}
        assert set(frames) == TOLD[member.cluster.mode]
        for frame in frames.values():
            assert frame[6:12] == frames[VRRP][6:12]
            assert checksum(frame[14:34]) == 0
        if PIM in frames:
            assert (frames[PIM][0:6].hex(":"), frames[PIM][30:35]) == (
                "01:00:5e:00:00:0d",
                bytes((224, 0, 0, 13, 0x20)),
            )
        if IGMP in frames:
            length = int.from_bytes(frames[IGMP][16:18])
            assert (frames[IGMP][0:6].hex(":"), length) == ("01:00:5e:00:00:01", 28)
            assert frames[IGMP][30:36] == bytes((224, 0, 0, 1, 0x11, 100))
            assert checksum(frames[IGMP][34:42]) == 0
        assert {frame[23] for frame in member.advertises()} == TOLD[member.cluster.mode] - {IGMP}  # not each time
