"""IPv6 and several virtual addresses in real kernels, every frame known: who answers, with which MAC; see `wire`."""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from packets import Client, sums_up
from test_cluster_files import BOTH, DISABLED, MULTIPLE, SINGLE_HOST, TCP, UDP, cluster, lab
from wire import Cluster, Connection, Member

from labctl.cluster.control import Control, orders
from labctl.cluster.ownership import owner_of, rule_for
from labctl.topology.spec import Affinity, ClusterMode, Heartbeat, LabSpec, PortRule
from labctl.topology.values import IPAddress

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs nft, and root for network namespaces"
)

THREE = ("cas1", "cas2", "cas3")
SUBSETS = [(1, 2, 3), (1, 3), (2,)]  # the IPv4 clients' test has them all
PRIMARY, SECOND = IPv4Address("10.77.9.20"), IPv4Address("10.77.9.25")
FIRST6, SECOND6 = IPv6Address("fd00:77::20"), IPv6Address("fd00:77::25")
MORE = (str(FIRST6), str(SECOND), str(SECOND6))

RULES = (
    PortRule(1000, 1999, UDP, MULTIPLE, Affinity.NONE),
    PortRule(2000, 2000, UDP, MULTIPLE, Affinity.SINGLE),
    PortRule(3000, 3000, BOTH, MULTIPLE, Affinity.NETWORK),
    PortRule(4000, 4000, UDP, MULTIPLE, weights=(("cas1", 1), ("cas2", 3), ("cas3", 0))),
    PortRule(5000, 5000, UDP, SINGLE_HOST, handling=("cas2", "cas3", "cas1")),
    PortRule(6000, 6000, UDP, DISABLED),
    PortRule(2000, 2000, UDP, SINGLE_HOST, handling=("cas3", "cas1", "cas2"), address=SECOND6),
    PortRule(2000, 2000, UDP, DISABLED, address=SECOND),
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
WEB, MAIL = PortRule(80, 80, TCP, MULTIPLE), PortRule(993, 993, TCP, MULTIPLE, Affinity.NONE)


def spec_of(*rules: PortRule, mode: ClusterMode = ClusterMode.UNICAST) -> LabSpec:
    return lab(replace(cluster(*rules, members=THREE, more=MORE, mode=mode), heartbeat=Heartbeat(2000, 5)))


def clients(count: int, seed: int = 1) -> list[Client]:
    """Different clients from everywhere in 2001:db8::/32, always the same ones."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        address = IPv6Address(0x20010DB8 << 96 | draw.getrandbits(96))
        found.setdefault(str(address), draw.randrange(1024, 65536))
    return list(found.items())


def clients4(count: int) -> list[Client]:
    return [(f"10.{n % 200}.{n % 251}.{n % 253 + 1}", 1024 + n) for n in range(count)]


# -- every frame reaches every member, and exactly one accepts it ------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """Three members with a rule of every kind, and two for one virtual address alone."""
    made = Cluster(spec_of(*RULES))
    for member in made.members.values():
        for port in PORTS.values():
            member.serve(UDP, port)
    yield made
    made.close()


def living(made: Cluster, *alive: int) -> None:
    for member in made.members.values():
        member.takes_for_alive(*alive)


def predicted(made: Cluster, client: Client, port: int, alive: tuple[int, ...], to: IPAddress) -> list[int]:
    """Who should accept a client's datagram, by `ownership`."""
    the_cluster = made[1].cluster
    rule = rule_for(the_cluster, port, UDP, to)
    owner = owner_of(the_cluster, rule, ip_address(client[0]), client[1], lambda _rule: alive)
    return [] if owner is None else [owner]


@pytest.mark.parametrize("alive", SUBSETS, ids=str)
@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_whoever_lives_the_owner_of_an_ipv6_client_that_labctl_names_accepts_and_nobody_else(
    three: Cluster, port: int, alive: tuple[int, ...]
) -> None:
    living(three, *alive)
    asked = clients(1000)
    found = three.owners(asked, port)
    assert found == {client: predicted(three, client, port, alive, FIRST6) for client in asked}


@pytest.mark.parametrize("to", [PRIMARY, SECOND, FIRST6, SECOND6], ids=str)
@pytest.mark.parametrize("port", [1500, 2000, 3000])
def test_each_virtual_address_is_served_by_its_own_rule_or_by_that_for_all(
    three: Cluster, port: int, to: IPAddress
) -> None:
    living(three, 1, 2, 3)
    asked = clients(300, seed=2) if to.version == 6 else clients4(300)
    found = three.owners(asked, port, to)
    assert found == {client: predicted(three, client, port, (1, 2, 3), to) for client in asked}
    serves = Counter(host for who in found.values() for host in who)
    expected = {SECOND6: {3}, SECOND: set()}.get(to, {1, 2, 3}) if port == 2000 else {1, 2, 3}
    assert set(serves) == expected


def test_ipv6_clients_spread_evenly_and_those_of_one_64_stay_together_with_affinity_network(three: Cluster) -> None:
    living(three, 1, 2, 3)
    shares = Counter(host for (host,) in three.owners(clients(3000, seed=3), 3000).values())
    assert all(850 < shares[host] < 1150 for host in (1, 2, 3))
    neighbours = [(f"2001:db8:1:2:{n:x}::{n:x}", 2000 + n) for n in range(1, 300)]
    assert len({tuple(who) for who in three.owners(neighbours, 3000).values()}) == 1
    assert len({tuple(who) for who in three.owners(neighbours, 2000).values()}) == 3


def test_ping_is_answered_by_every_member(three: Cluster) -> None:
    for member in three.members.values():
        answers = [f for f in member.pings("2001:db8::7", FIRST6) if f[12:14] == b"\x86\xdd" and f[54] == 129]
        assert [IPv6Address(answer[22:38]) for answer in answers] == [FIRST6]


def test_whom_a_packet_was_too_big_for_tells_every_member(three: Cluster) -> None:
    said = struct.pack(">IHBB", 6 << 28, 8, 17, 64) + FIRST6.packed + IPv6Address("2001:db8::7").packed + bytes(8)
    for member in three.members.values():
        before = told_too_big(member)
        member.pings("2001:db8::1", FIRST6, struct.pack(">BBHI", 2, 0, 0, 1280) + said)
        assert told_too_big(member) == before + 1


def told_too_big(member: Member) -> int:
    return int(member.sh("sed -n 's/^Icmp6InPktTooBigs *//p' /proc/thread-self/net/snmp6"))


# -- neighbour discovery -----------------------------------------------------------------------------------------------

MACS = {ClusterMode.UNICAST: "02:bf:0a:4d:09:14", ClusterMode.MULTICAST: "03:bf:0a:4d:09:14"}


@pytest.fixture(params=MACS, scope="module")
def in_mode(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three members in each mode that IPv6 can be served in."""
    made = Cluster(spec_of(RULES[0], mode=request.param))
    for member in made.members.values():
        member.serve(UDP, 1500)
        member.takes_for_alive(1, 2, 3)
    yield made
    made.close()


def own_mac(member: Member) -> str:
    return member.node.nic(member.me.nic).mac


def test_in_each_mode_frames_for_the_cluster_mac_reach_all_and_one_accepts(in_mode: Cluster) -> None:
    found = in_mode.owners(clients(600), 1500)
    assert {len(who) for who in found.values()} == {1}
    assert {host for (host,) in found.values()} == {1, 2, 3}


@pytest.mark.parametrize("virtual", [FIRST6, SECOND6], ids=str)
def test_every_member_answers_a_solicitation_with_the_cluster_mac_and_sends_from_its_own(
    in_mode: Cluster, virtual: IPv6Address
) -> None:
    for member in in_mode.members.values():
        answer = member.solicited(virtual)
        assert answer is not None
        assert (answer.address, answer.says) == (virtual, MACS[member.cluster.mode])
        assert answer.sender == own_mac(member)
        assert answer.sound


def test_a_members_own_ipv6_address_has_its_own_mac(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        answer = member.solicited(member.node.nic(member.me.nic).address6.ip)
        assert answer is not None
        assert answer.says == answer.sender == own_mac(member)
        assert answer.sound


def test_who_is_asked_from_the_virtual_address_learns_the_cluster_mac(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        asked = member.asks_for("fd00:77:200::7", FIRST6)
        assert asked[6:12].hex(":") == own_mac(member)
        assert asked[78:86].hex(":") == f"01:01:{MACS[member.cluster.mode]}"
        assert sums_up(asked)


def test_who_is_asked_from_a_members_own_address_learns_its_own_mac(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        asked = member.asks_for("fd00:77:200::8", member.node.nic(member.me.nic).address6.ip)
        assert asked[78:86].hex(":") == f"01:01:{own_mac(member)}"
        assert sums_up(asked)


def test_a_member_never_speaks_from_a_virtual_address_of_its_own_accord(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        chosen = member.sh("ip -6 route get fd00:77::21 | sed -n 's/.* src \\([^ ]*\\).*/\\1/p'").strip()
        assert chosen == str(member.node.nic(member.me.nic).address6.ip)


def test_several_members_have_the_address_and_none_gives_it_up(in_mode: Cluster) -> None:
    for member in in_mode.members.values():
        shown = member.sh(f"ip -6 address show dev {member.me.nic}")
        assert "dadfailed" not in shown
        assert "tentative" not in shown


def test_a_stranger_that_answers_for_a_virtual_address_is_noted_and_a_member_is_not(in_mode: Cluster) -> None:
    one, other = in_mode[1], in_mode[2]
    assert other.solicited(FIRST6) is not None
    one.put([advertisement(one, "02:02:0a:4d:09:14", MACS[one.cluster.mode])])
    assert "elements" not in one.nft("list set netdev labctl_mail others")
    one.put([advertisement(one, "52:54:00:99:99:99", "52:54:00:99:99:99")])
    assert f"{FIRST6} . 52:54:00:99:99:99" in one.nft("list set netdev labctl_mail others")


def advertisement(to: Member, sender: str, says: str) -> bytes:
    """That somebody has the first virtual address; its checksum does not matter to the packet filter."""
    asked = to.node.nic(to.me.nic).address6.ip
    message = struct.pack(">BBHI", 136, 0, 0, 0x60000000) + FIRST6.packed + b"\x02\x01" + raw(says)
    head = struct.pack(">IHBB", 6 << 28, len(message), 58, 255) + FIRST6.packed + asked.packed
    return raw(own_mac(to)) + raw(sender) + b"\x86\xdd" + head + message


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# -- members leave and come back ---------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Iterator[Cluster]:
    """Three members that have just come up, and see each other."""
    found = Cluster(spec_of(WEB, MAIL, PortRule(53, 53, UDP, MULTIPLE), replace(WEB, address=SECOND6)))
    for member in found.members.values():
        for protocol, port in ((TCP, 80), (TCP, 993), (UDP, 53)):
            member.serve(protocol, port)
    found.beat()
    found.beat()
    yield found
    found.close()


def connect(made: Cluster, count: int = 30, port: int = 80, seed: int = 1, to: IPAddress = FIRST6) -> list[Connection]:
    return [Connection(made, client, port, to) for client in clients(count, seed)]


def tell(made: Cluster, host: int, control: Control, *rules: PortRule) -> None:
    """What `labctl cluster` does, and the heartbeats after it."""
    member = made[host]
    member.nft(orders(member.cluster, member.me, control, now_s=1_800_000_000.0, rules=rules))
    made.beat()
    made.beat()


def kept(connections: list[Connection]) -> bool:
    """Whether of each connection its member answers, and nobody resets it."""
    return all(c.says() == {c.host: True} for c in connections)


def hosts(connections: list[Connection]) -> set[int]:
    return {c.host for c in connections}


def test_ipv6_connections_outlive_a_drain_and_the_members_return_and_new_ones_go_elsewhere(made: Cluster) -> None:
    first = connect(made, 60)
    tell(made, 1, Control.DRAIN_ALL)
    assert hosts(first) == {1, 2, 3}
    assert kept(first)
    second = connect(made, seed=5)
    assert hosts(second) == {2, 3}
    tell(made, 1, Control.START)
    assert kept(first + second)
    assert hosts(connect(made, seed=9)) == {1, 2, 3}


def test_a_dead_members_ipv6_connections_are_reset_by_their_new_owners_and_the_others_notice_nothing(
    made: Cluster,
) -> None:
    connections = connect(made)
    made.dies(1)
    dead = [c for c in connections if c.host == 1]
    for connection in dead:
        said = connection.says()
        said.pop(1, None)  # it runs on in vain
        assert list(said.values()) == [False]
    assert len(dead) > 5
    assert kept([c for c in connections if c.host != 1])


def test_a_rule_of_one_virtual_address_is_drained_and_disabled_alone(made: Cluster) -> None:
    of_all, of_one = WEB, replace(WEB, address=SECOND6)
    there, here = connect(made, to=SECOND6), connect(made)
    tell(made, 1, Control.DRAIN, of_one)
    assert kept(there + here)
    assert hosts(connect(made, seed=5, to=SECOND6)) == {2, 3}
    assert hosts(connect(made, seed=5)) == {1, 2, 3}
    tell(made, 1, Control.ENABLE, of_one)
    tell(made, 1, Control.DISABLE, of_all)
    assert hosts(connect(made, seed=7, to=SECOND6)) == {1, 2, 3}
    assert hosts(connect(made, seed=7)) == {2, 3}


def test_ipv4_and_ipv6_clients_keep_their_members_when_one_dies(made: Cluster) -> None:
    for asked in (clients(600, seed=7), clients4(600)):
        living(made, 1, 2, 3)
        before = made.owners(asked, 53)
        assert {len(who) for who in before.values()} == {1}
        living(made, 2, 3)
        after = made.owners(asked, 53)
        assert {c for c in asked if before[c] != after[c]} == {c for c in asked if before[c] == [1]} != set()


# -- a cluster that changes --------------------------------------------------------------------------------------------


def test_an_address_more_moves_no_client_of_the_others(made: Cluster) -> None:
    before, connections = made.owners(clients(600, seed=7), 53), connect(made)
    changed = spec_of(*made[1].cluster.port_rules)
    (the_cluster,) = changed.clusters
    more = replace(
        the_cluster, more_addresses=(*the_cluster.more_addresses, *cluster(more=("10.77.9.26",)).more_addresses)
    )
    for member in made.members.values():
        member.load(replace(changed, clusters=(more,)))
        made.beat()
    assert made.owners(clients(600, seed=7), 53) == before
    assert kept(connections)
