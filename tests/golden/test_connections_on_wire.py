"""Members come, go, drain and are controlled: what becomes of connections, in real kernels; see `wire`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from packets import Client
from test_cluster_files import MULTIPLE, TCP, UDP, cluster, lab
from test_cluster_on_wire import THREE, clients
from wire import Cluster, Connection, Member

from labctl.cluster.advert import PRIORITY
from labctl.cluster.control import Control, orders
from labctl.topology.spec import Affinity, HealthCheck, Heartbeat, LabSpec, PortRule

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs nft, and root for network namespaces"
)

PATIENT = Heartbeat(2000, 5)  # nobody is out because this host is busy; who is to be out is taken out
WEB, MAIL = PortRule(80, 80, TCP, MULTIPLE), PortRule(993, 993, TCP, MULTIPLE, Affinity.NONE)
ASKED = PortRule(53, 53, UDP, MULTIPLE)
HOSTS = (1, 2, 3)


def spec_of(*rules: PortRule) -> LabSpec:
    return lab(replace(cluster(*rules, members=THREE), heartbeat=PATIENT))


@pytest.fixture
def made() -> Iterator[Cluster]:
    """Three members that have just come up, and see each other."""
    found = Cluster(spec_of(ASKED, WEB, MAIL))
    for member in found.members.values():
        member.serve(UDP, 53)
        member.serve(TCP, 80)
        member.serve(TCP, 993)
    found.beat()
    found.beat()
    assert alive(found) == all_see(1, 2, 3)
    yield found
    found.close()


def alive(made: Cluster) -> dict[int, set[int]]:
    return {host: member.holds("alive") for host, member in made.members.items()}


def all_see(*hosts: int) -> dict[int, set[int]]:
    return {host: set(hosts) for host in HOSTS}


def connect(made: Cluster, count: int = 30, port: int = 80, seed: int = 1) -> list[Connection]:
    return [Connection(made, client, port) for client in clients(count, seed)]


def tell(made: Cluster, host: int, control: Control, *rules: PortRule) -> None:
    """What `labctl cluster` does, and the heartbeats after it."""
    member: Member = made[host]
    member.nft(orders(member.cluster, member.me, control, now_s=1_800_000_000.0, rules=rules))
    made.beat()
    made.beat()


def owners(made: Cluster, seed: int = 7) -> dict[Client, int]:
    """Who accepts the datagrams of 600 clients: exactly one for each."""
    found = made.owners(clients(600, seed), 53)
    assert {len(who) for who in found.values()} == {1}
    return {client: host for client, (host,) in found.items()}


def kept(connections: list[Connection]) -> list[bool]:
    """Of each connection, whether its member answers, and nobody resets it."""
    return [c.says() == {c.host: True} for c in connections]


# -- a member dies and comes back --------------------------------------------------------------------------------------


def test_only_the_clients_of_a_dead_member_move_and_they_spread_evenly(made: Cluster) -> None:
    before = owners(made)
    made.dies(1)
    found = made.owners(list(before), 53)
    after = {client: [host for host in who if host != 1] for client, who in found.items()}
    assert all(after[c] == [host] for c, host in before.items() if host != 1)
    moved = [after[c] for c, host in before.items() if host == 1]
    assert 0.4 < moved.count([2]) / len(moved) < 0.6
    assert moved.count([2]) + moved.count([3]) == len(moved)


def test_a_dead_members_clients_are_reset_though_it_had_only_just_come_up_and_the_others_notice_nothing(
    made: Cluster,
) -> None:
    connections = connect(made)
    made.dies(1)
    dead, others = [c for c in connections if c.host == 1], [c for c in connections if c.host != 1]
    for connection in dead:
        said = connection.says()
        said.pop(1, None)  # it runs on in vain
        assert list(said.values()) == [False]
    assert len(dead) > 5
    assert all(kept(others))


def test_connections_that_were_opened_meanwhile_outlive_a_members_return(made: Cluster) -> None:
    made.dies(1)
    made[1].nft(f"flush set {made[1].table} fresh")  # so that it is the return that counts
    connections = connect_without(made, 1)
    made.beat()
    assert alive(made) == all_see(1, 2, 3)
    assert all(kept(connections))


def test_connections_outlive_the_return_of_a_member_that_does_not_know_that_it_was_away(made: Cluster) -> None:
    made.dies(1)
    connections = connect_without(made, 1)
    made[1].takes_for_alive(1, 2, 3)  # as when a guest was paused: no time has passed for it
    made[1].nft(f"flush set {made[1].table} fresh")
    made.beat()
    made.beat()
    assert 1 in made[1].holds("fresh")
    assert all(kept(connections))


def connect_without(made: Cluster, host: int) -> list[Connection]:
    """Connections of as many clients, none of them on that member."""
    found = connect(made, seed=3)
    assert all(c.host != host for c in found)
    return found


def test_a_member_is_out_once_it_was_silent_for_as_long_as_the_heartbeat_says() -> None:
    quick = replace(cluster(WEB, members=THREE), heartbeat=Heartbeat(100, 5))
    made = Cluster(lab(quick))
    try:
        made.beat()
        silent_s = time.monotonic()
        while alive(made) != all_see():
            assert time.monotonic() - silent_s < 30
        assert time.monotonic() - silent_s > 0.48  # a timer's tick less than 100 ms x 5
    finally:
        made.close()


def test_a_member_that_ends_its_heartbeat_is_out_at_once(made: Cluster) -> None:
    made.deliver(1, made[1].beat(priority=0))
    assert alive(made) == all_see(2, 3)


# -- controls ----------------------------------------------------------------------------------------------------------


def test_a_drained_member_keeps_its_connections_and_gets_no_new_ones(made: Cluster) -> None:
    connections = connect(made, 60)
    mine = [c for c in connections if c.host == 1]
    tell(made, 1, Control.DRAIN_ALL)
    assert alive(made) == all_see(2, 3)
    assert len(mine) > 10
    assert all(kept(connections))
    assert {c.host for c in connect(made, seed=5)} == {2, 3}


def test_a_drained_member_that_starts_again_takes_its_buckets_back_and_no_connection_is_lost(made: Cluster) -> None:
    before, first = owners(made), connect(made)
    tell(made, 1, Control.DRAIN_ALL)
    second = connect(made, seed=5)
    tell(made, 1, Control.START)
    assert alive(made) == all_see(1, 2, 3)
    assert owners(made) == before
    assert all(kept(first + second))


def test_a_stopped_members_connections_are_lost_and_reset_by_their_new_owners(made: Cluster) -> None:
    connections = connect(made)
    tell(made, 1, Control.STOP)
    lost, others = [c for c in connections if c.host == 1], [c for c in connections if c.host != 1]
    assert [list(c.says().values()) for c in lost] == [[False]] * len(lost)
    assert all(kept(others))
    assert set(owners(made).values()) == {2, 3}


@pytest.mark.parametrize("control", [Control.STOP, Control.SUSPEND])
def test_a_member_that_was_stopped_starts_again(made: Cluster, control: Control) -> None:
    before = owners(made)
    tell(made, 1, control)
    assert alive(made) == all_see(2, 3)
    tell(made, 1, Control.START)
    assert alive(made) == all_see(1, 2, 3)
    assert owners(made) == before


def test_resumed_is_not_started(made: Cluster) -> None:
    tell(made, 1, Control.SUSPEND)
    tell(made, 1, Control.RESUME)
    assert alive(made) == all_see(2, 3)


def test_a_drained_rule_keeps_its_connections_and_the_other_rules_go_on(made: Cluster) -> None:
    before, web, mail = owners(made), connect(made), connect(made, port=993)
    tell(made, 1, Control.DRAIN, WEB)
    assert alive(made) == all_see(1, 2, 3)
    assert all(kept(web + mail))
    assert {c.host for c in connect(made, seed=5)} == {2, 3}
    assert {c.host for c in connect(made, seed=5, port=993)} == {1, 2, 3}
    assert owners(made) == before


def test_a_disabled_rule_loses_its_connections_and_the_other_rules_go_on(made: Cluster) -> None:
    web, mail = connect(made), connect(made, port=993)
    tell(made, 1, Control.DISABLE, WEB)
    lost = [c for c in web if c.host == 1]
    assert [list(c.says().values()) for c in lost] == [[False]] * len(lost)
    assert all(kept([c for c in web if c.host != 1] + mail))
    assert {c.host for c in connect(made, seed=5)} == {2, 3}


def test_an_enabled_rule_comes_back_and_no_connection_is_lost(made: Cluster) -> None:
    before = {c.host for c in connect(made)}
    tell(made, 1, Control.DRAIN, WEB)
    meanwhile = connect(made, seed=5)
    tell(made, 1, Control.ENABLE, WEB)
    assert before == {c.host for c in connect(made, seed=9)} == {1, 2, 3}
    assert all(kept(meanwhile))


def test_a_rule_that_everybody_has_disabled_is_served_by_nobody(made: Cluster) -> None:
    for host in made.members:
        tell(made, host, Control.DISABLE, ASKED)
    assert set(map(tuple, made.owners(clients(50), 53).values())) == {()}


# -- health ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checked() -> Iterator[Cluster]:
    """Three members with two checked rules, all well, and one that is not checked."""
    check = HealthCheck("true", 2, 2, 2)
    found = Cluster(spec_of(replace(ASKED, health=check), replace(WEB, health=check), MAIL))
    for member in found.members.values():
        member.serve(UDP, 53)
        member.serve(TCP, 80)
        member.serve(TCP, 993)
    beat_with(found, {1: 0b11, 2: 0b11, 3: 0b11})
    yield found
    found.close()


def beat_with(made: Cluster, good: dict[int, int]) -> None:
    """Two heartbeats of all, with those checks that are good, one bit each."""
    for _ in range(2):
        for host, bits in good.items():
            made.deliver(host, made[host].beat(PRIORITY + bits))


def test_a_member_whose_service_is_dead_loses_that_rules_buckets_alone_until_it_is_well_again(checked: Cluster) -> None:
    before, mail = owners(checked), connect(checked, port=993)
    beat_with(checked, {1: 0b10, 2: 0b11, 3: 0b11})
    assert set(owners(checked).values()) == {2, 3}
    assert {c.host for c in connect(checked)} == {1, 2, 3}
    assert all(kept(mail))
    beat_with(checked, {1: 0b01, 2: 0b11, 3: 0b11})
    assert owners(checked) == before
    assert {c.host for c in connect(checked, seed=5)} == {2, 3}
    beat_with(checked, {1: 0b11, 2: 0b11, 3: 0b11})
    assert {c.host for c in connect(checked, seed=9)} == {1, 2, 3}


def test_connections_of_a_dead_service_are_reset_by_the_new_owners_and_all_others_live(checked: Cluster) -> None:
    web = connect(checked)
    beat_with(checked, {1: 0b01, 2: 0b11, 3: 0b11})
    theirs = [c for c in web if c.host == 1]
    for connection in theirs:
        said = connection.says()
        assert said.pop(1)  # should the service be well after all
        assert list(said.values()) == [False]
    assert len(theirs) > 5
    assert all(kept([c for c in web if c.host != 1]))


# -- as many as NLB takes ----------------------------------------------------------------------------------------------


def test_32_members_converge_and_one_dies_one_drains_and_both_come_back() -> None:
    everyone = set(range(1, 33))
    many = cluster(ASKED, WEB, members=tuple(f"n{host:02d}" for host in range(1, 33)))
    made = Cluster(lab(replace(many, heartbeat=PATIENT)))
    try:
        for member in made.members.values():
            member.serve(UDP, 53)
            member.serve(TCP, 80)
        made.beat()
        made.beat()
        assert alive(made) == dict.fromkeys(everyone, everyone)
        before, connections = owners(made), connect(made, 60)
        assert set(before.values()) == everyone

        made.dies(7)
        after = owners(made)
        assert {client for client in before if before[client] != after[client]} == {
            client for client, host in before.items() if host == 7
        }
        assert all(kept([c for c in connections if c.host != 7]))

        made.beat()
        tell(made, 9, Control.DRAIN_ALL)
        assert alive(made) == dict.fromkeys(everyone, everyone - {9})
        assert all(kept([c for c in connections if c.host != 7]))

        tell(made, 9, Control.START)
        assert alive(made) == dict.fromkeys(everyone, everyone)
        assert owners(made) == before
    finally:
        made.close()


# -- rules are changed -------------------------------------------------------------------------------------------------


def test_a_changed_rule_file_moves_nothing_but_what_it_is_about(made: Cluster) -> None:
    before, connections, known = owners(made), connect(made), alive(made)
    weighted = replace(MAIL, weights=(("cas1", 1), ("cas2", 3), ("cas3", 0)))
    changed = spec_of(ASKED, PortRule(25, 25, TCP, MULTIPLE), WEB, weighted)
    for member in made.members.values():
        member.load(changed)
        assert owners(made) == before
        made.beat()  # those who have changed and those who have not go on together
    assert alive(made) == known == all_see(1, 2, 3)
    assert all(kept(connections))
    assert {c.host for c in connect(made, port=993)} == {1, 2}


def test_a_rule_that_is_held_stays_so_when_the_rules_before_it_change(made: Cluster) -> None:
    tell(made, 1, Control.DRAIN, WEB)
    for member in made.members.values():
        member.load(spec_of(PortRule(25, 25, TCP, MULTIPLE), WEB, MAIL))
    made.beat()
    made.beat()
    assert {c.host for c in connect(made)} == {2, 3}
    assert {c.host for c in connect(made, port=993)} == {1, 2, 3}


def test_the_same_file_again_changes_nothing(made: Cluster) -> None:
    before, connections = owners(made), connect(made)
    for member in made.members.values():
        member.load(member.spec)
    assert owners(made) == before
    assert all(kept(connections))


def test_a_member_with_other_rules_may_not_join_and_the_others_go_on(made: Cluster) -> None:
    before = owners(made)
    made.dies(3)
    made[3].load(spec_of(ASKED, WEB))
    made.beat()
    assert alive(made) == all_see(1, 2)
    assert made[3].holds("strangers") == {0, 1, 2}
    assert set(owners(made).values()) == {1, 2}
    made[3].load(made[1].spec)
    made[3].nft(f"flush set {made[3].table} strangers")  # they are no more, before long
    made.beat()
    assert alive(made) == all_see(1, 2, 3)
    assert owners(made) == before


def test_a_member_without_its_packet_filter_is_out_and_keeps_nobody_else_out(made: Cluster) -> None:
    for host in (1, 2):
        made.dies(host)
    made[1].nft(f"flush chain {made[1].table} output")
    made.deliver(1, made[1].beat())
    assert made[2].holds("strangers") == set()
    made.deliver(2, made[2].beat())
    assert made[2].holds("alive") == made[3].holds("alive") == {2, 3}


def test_adverts_of_nobodys_address_mean_nothing(made: Cluster) -> None:
    frame = bytearray(made[1].beat())
    frame[29] = 99  # the last octet of its sender
    made[2].put([bytes(frame)])
    assert made[2].holds("alive") == {1, 2, 3}
