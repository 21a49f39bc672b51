"""`labctl cluster` on tiny guests: connections live through what it does, and who must not serve is refused."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from labctl.clock import Deadline, wait_until
from labctl.cluster.ownership import owner_of
from labctl.errors import GuestError

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

HOLD = Path(__file__).with_name("guest") / "hold.py"
FIRST, COUNT = IPv4Address("10.78.1.1"), 60
FOLDER = "/run/hold"


class Held:
    """60 open connections of as many clients."""

    def __init__(self, client):
        self._client, self._turn = client, 0
        client.shell(f"rm -rf {FOLDER}; mkdir {FOLDER}")
        client.write_file(f"{FOLDER}/hold.py", HOLD.read_bytes())
        client.shell(
            f"setsid python3 {FOLDER}/hold.py 10.78.0.20 {FIRST} {COUNT} {FOLDER} >{FOLDER}/log 2>&1 </dev/null &\n"
            f"echo $! >{FOLDER}/pid"
        )

    def ask(self):
        """Who answers on each connection, by source; whoever lost it gets the error's name."""
        turn, self._turn = self._turn, self._turn + 1
        self._client.shell(f"touch {FOLDER}/ask.{turn}")

        def said():
            try:
                return json.loads(self._client.read_file(f"{FOLDER}/said.{turn}")), ""
            except GuestError as not_yet:
                return None, str(not_yet)

        return wait_until(f"round {turn} on the held connections", said, Deadline.within(120), every_s=0.5)

    def end(self):
        self._client.shell(f"kill $(cat {FOLDER}/pid); rm -rf {FOLDER}")


@pytest.fixture
def held(client):
    connections = Held(client)
    yield connections
    connections.end()


@pytest.fixture
def members_start(labctl, lab):
    """Whatever a test does to the members, they serve again at its end."""
    yield
    for verb in (("resume", "m1"), ("enable", "all"), ("start",)):
        labctl("cluster", *verb)
    lab.wait_converged()


def states(labctl):
    shown = json.loads(labctl("cluster", "query", "--json").stdout)
    return {m["node"]: m["state"] for m in shown["members"]}


def served_by(client, sources):
    """Who answers new connections of those clients."""
    script = "for a in %s; do curl -sS --max-time 10 --interface $a http://web.micro.test/; done"
    answers = client.shell(script % " ".join(sources)).split("\n")
    return {source: answer.removeprefix("served by ") for source, answer in zip(sources, answers, strict=True)}


def test_60_connections_live_through_drain_and_rejoin_and_a_stop_ends_just_those_of_the_member(
    lab, labctl, client, held, members_start
):
    cluster, rule = lab.spec.clusters[0], lab.spec.clusters[0].port_rules[0]
    names = {m.priority: m.node for m in cluster.members}

    before = held.ask()
    assert before == {a: names[owner_of(cluster, rule, IPv4Address(a), 0, lambda _rule: {1, 2})] for a in before}
    theirs = [source for source, member in before.items() if member == "m1"]
    assert 15 < len(theirs) < 45

    drained = labctl("cluster", "drainstop", "m1", "--timeout", "0")
    assert drained.returncode == 4
    assert f"m1: {len(theirs)} connections left; it goes on draining" in drained.stderr.decode()
    wait_settled = labctl("cluster", "owner", theirs[0], "--to", "80")
    assert wait_settled.stdout.decode().startswith("m2 "), wait_settled
    assert set(served_by(client, theirs[:5]).values()) == {"m2"}
    assert held.ask() == before
    assert states(labctl) == {"m1": "draining", "m2": "converged"}

    assert labctl("cluster", "start", "m1").returncode == 0
    assert set(served_by(client, theirs[:5]).values()) == {"m1"}
    assert held.ask() == before

    assert labctl("cluster", "stop", "m1").returncode == 0
    after = held.ask()
    assert {source: said for source, said in after.items() if before[source] == "m2"} == {
        source: "m2" for source in before if source not in theirs
    }
    assert {after[source] for source in theirs} == {"ConnectionResetError"}


def test_a_rule_is_drained_by_itself(labctl, client, members_start):
    assert labctl("cluster", "drain", "80", "m1").returncode == 0
    assert set(served_by(client, [str(FIRST + n) for n in range(8)]).values()) == {"m2"}
    shown = json.loads(labctl("cluster", "query", "--json").stdout)["members"]
    assert [(m["state"], m["buckets_owned"], m["told"]) for m in shown] == [
        ("converged", {"80/tcp": 0}, {"80/tcp": "draining"}),
        ("converged", {"80/tcp": 60}, {}),
    ]


@pytest.fixture
def thief(lab, client):
    """The client answers for the virtual address, which m1 has forgotten."""
    m1 = lab.guest("m1")
    m1.succeed(["ip", "address", "del", "10.78.0.20/32", "dev", "cluster"])
    client.succeed(["ip", "address", "add", "10.78.0.20/32", "dev", "host"])
    yield client.succeed(["cat", "/sys/class/net/host/address"])
    client.succeed(["ip", "address", "del", "10.78.0.20/32", "dev", "host"])
    m1.succeed(["/etc/labctl/boot.d/20-cluster-web"])
    lab.wait_converged()


def test_a_member_whose_virtual_address_somebody_answers_is_refused_with_his_mac(lab, labctl, thief):
    step = lab.guest("m1").run(["/etc/labctl/boot.d/20-cluster-web"])
    assert step.exit_code == 1
    assert f"10.78.0.20 is answered by {thief}" in step.stderr.decode()
    assert labctl("cluster", "start", "m1").returncode == 3
    assert states(labctl) == {"m1": "refused", "m2": "converged"}
    assert f"m1: 10.78.0.20 is answered by {thief}" in labctl("cluster", "query").stdout.decode()
