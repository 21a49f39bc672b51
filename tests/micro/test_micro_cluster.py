"""The cluster on tiny guests, as the article says that NLB works."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from failover import LIMITS, web

from labctl.checks import affinity_kept, judge, members_answer, no_failures, summary
from labctl.render.names import bridge_name

pytestmark = pytest.mark.lab(topology="micro")

CLUSTER_MAC = "02:bf:0a:4e:00:14"
OWN_MACS = {"m1": "02:01:0a:4e:00:14", "m2": "02:02:0a:4e:00:14"}


def learned(lab):
    """The MACs that the bridge of the lab's network has learned from frames, and by which port."""
    bridge = bridge_name(lab.name, "lan")
    shown = subprocess.run(
        ["bridge", "-json", "fdb", "show", "br", bridge], capture_output=True, check=True, timeout=20
    )
    return {e["mac"]: e["ifname"] for e in json.loads(shown.stdout) if e.get("state") != "permanent"}


def ask(client, count=1):
    script = f"for n in $(seq {count}); do curl -sS --max-time 10 http://web.micro.test/; done"
    return client.shell(script).split("\n")


def test_both_members_serve_and_each_of_60_clients_stays_with_one(lab, probe, history):
    spec = web(lab, count=60, rate_hz=15)
    with probe(spec) as running:
        running.sample_rounds(2)
    seen = history.read()
    verdict = judge(
        members_answer(seen, "web", ["m1", "m2"], limits=LIMITS),
        affinity_kept(seen, "web", limits=LIMITS),
        no_failures(seen, "web", limits=LIMITS),
        evidence=seen.path,
    )
    print(summary(verdict))
    verdict.require_pass()
    assert len(seen.by_source("web")) == 60


def test_clients_reach_the_virtual_address_by_the_cluster_mac(micro, client):
    client.succeed(["ip", "neigh", "flush", "all"])
    ask(client)
    assert f"lladdr {CLUSTER_MAC}" in client.succeed(["ip", "neigh", "show", "10.78.0.20"])


def test_the_network_never_learns_the_cluster_mac_and_floods_its_frames(micro, client):
    ask(client, 10)
    macs = learned(micro)
    taps = {n.mac: n.tap for d in micro.status() if d.domain for n in d.domain.nics}
    assert CLUSTER_MAC not in macs
    for own in OWN_MACS.values():
        assert macs[own] == taps[own]


@pytest.mark.parametrize("member", OWN_MACS)
def test_a_member_sends_from_a_mac_of_its_own_that_holds_its_priority(micro, member):
    link = json.loads(micro.guest(member).succeed(["ip", "-json", "link", "show", "cluster"]))[0]
    assert link["address"] == OWN_MACS[member]


def test_every_request_reaches_every_member_and_one_accepts_it(lab, client):
    rules = ("mark != own drop", "accept")

    def counted(member):
        chain = lab.guest(member).succeed(["nft", "list", "chain", "ip", "labctl_web", "decide"])
        return dict(zip(rules, map(int, re.findall(r"counter packets (\d+)", chain)), strict=True))

    before = {member: counted(member) for member in OWN_MACS}
    answers = ask(client, 5)
    after = {member: counted(member) for member in OWN_MACS}
    (owner,) = {answer.removeprefix("served by ") for answer in answers}
    (other,) = OWN_MACS.keys() - {owner}
    assert (
        after[owner]["accept"] - before[owner]["accept"] == 5
    )  # a SYN each: what follows is an established connection
    assert after[owner]["mark != own drop"] == before[owner]["mark != own drop"]
    assert after[other]["mark != own drop"] - before[other]["mark != own drop"] >= 5
    assert after[other]["accept"] == before[other]["accept"]


@pytest.mark.parametrize("member", OWN_MACS)
def test_a_member_has_room_for_the_connections_of_a_busy_while(micro, member):
    room, lasts_s = (
        micro.guest(member)
        .shell("sysctl -n net.netfilter.nf_conntrack_max net.netfilter.nf_conntrack_tcp_timeout_time_wait")
        .split()
    )
    assert int(room) / int(lasts_s) > 500  # connections a second, beyond which new ones would be dropped


def test_the_virtual_address_answers_ping(client):
    assert "1 received" in client.succeed(["ping", "-c", "1", "-W", "5", "10.78.0.20"])
