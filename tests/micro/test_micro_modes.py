"""Unicast, multicast and IGMP mode on tiny guests, each on its members' only NIC, and who else sees their frames."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from labctl.clock import Deadline, wait_until
from labctl.cluster.ownership import owner_of
from labctl.render.names import bridge_name

TOPOLOGY = str(Path(__file__).with_name("modes.yaml"))

pytestmark = [pytest.mark.lab(topology=TOPOLOGY), pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def gone_afterwards(labs):
    """Eight guests would idle beside the tests after these."""
    yield
    labs.drop(TOPOLOGY)


@dataclass(frozen=True)
class Mode:
    """A cluster of this lab.

    Attributes:
        own: the start of its members' own MACs.
    """

    cluster: str
    network: str
    mac: str
    own: tuple[str, str]

    def __str__(self) -> str:
        return self.cluster


UNICAST = Mode("uni", "plain", "02:bf:0a:4e:00:0a", ("02:01:0a:4e:00:0a", "02:02:0a:4e:00:0a"))
MULTICAST = Mode("multi", "plain", "03:bf:0a:4e:00:14", ("52:54:00", "52:54:00"))
IGMP = Mode("group", "snooped", "01:00:5e:7f:00:1e", ("52:54:00", "52:54:00"))
MODES = pytest.mark.parametrize("mode", [UNICAST, MULTICAST, IGMP], ids=str)

COUNT = 10  # clients


def sources(lab, mode):
    return lab.spec.node("client").nic(mode.network).extra_addresses[:COUNT]


def ask(lab, mode):
    """Who serves each of the clients."""
    asked = sources(lab, mode)
    url = f"http://{lab.cluster(mode.cluster).address.ip}/"
    script = f"for a in {' '.join(map(str, asked))}; do curl -sS --max-time 10 --interface $a {url}; done"
    answers = lab.guest("client").shell(script).split("\n")
    return {source: said.removeprefix("served by ") for source, said in zip(asked, answers, strict=True)}


def members(lab, mode):
    return {m.priority: m.node for m in lab.cluster(mode.cluster).members}


def counted(lab, node, chain):
    """How many packets each counter of a chain has seen."""
    said = lab.guest(node).succeed(["nft", "list", "chain", *chain.split()])
    return [int(n) for n in re.findall(r"counter packets (\d+)", said)]


def retransmitted(lab):
    """How many TCP segments the client has sent again."""
    return int(lab.guest("client").shell("awk '/^Tcp: [0-9]/ {print $13}' /proc/net/snmp"))


@MODES
def test_the_member_that_labctl_names_serves_each_client(lab, mode):
    cluster, names = lab.cluster(mode.cluster), members(lab, mode)
    (rule,) = cluster.port_rules
    owners = {a: names[owner_of(cluster, rule, IPv4Address(a), 0, lambda _rule: {1, 2})] for a in sources(lab, mode)}
    assert ask(lab, mode) == owners
    assert set(owners.values()) == set(names.values())


@MODES
def test_clients_reach_the_virtual_address_by_the_modes_mac_which_no_bridge_learns(lab, mode):
    client, address = lab.guest("client"), str(lab.cluster(mode.cluster).address.ip)
    client.succeed(["ip", "neigh", "flush", "all"])
    ask(lab, mode)
    assert f"lladdr {mode.mac}" in client.succeed(["ip", "neigh", "show", address])
    command = ["bridge", "-json", "fdb", "show", "br", bridge_name(lab.name, mode.network)]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=20)
    learned = {e["mac"] for e in json.loads(shown.stdout) if e.get("state") != "permanent"}
    assert mode.mac not in learned
    assert {nic.mac for nic in lab.spec.node("client").nics} & learned


@MODES
def test_members_have_macs_of_their_own(lab, mode):
    for priority, node in members(lab, mode).items():
        (link,) = json.loads(lab.guest(node).succeed(["ip", "-json", "link", "show", "only"]))
        assert link["address"].startswith(mode.own[priority - 1])


@MODES
def test_every_request_reaches_every_member_and_one_accepts_it(lab, mode):
    nodes, chain = members(lab, mode).values(), f"ip labctl_{mode.cluster} decide"
    before = {node: counted(lab, node, chain) for node in nodes}
    again = retransmitted(lab)
    served = list(ask(lab, mode).values())
    again = retransmitted(lab) - again  # on a busy host
    for node in nodes:
        dropped, accepted = (now - was for now, was in zip(counted(lab, node, chain), before[node], strict=True))
        # A SYN each: what follows is an established connection.
        assert served.count(node) <= accepted <= served.count(node) + again
        assert dropped >= COUNT - served.count(node)


# -- who else sees them ------------------------------------------------------------------------------------------------

WATCH = """
add table netdev bystander
delete table netdev bystander
table netdev bystander {{
    chain {nic} {{
        type filter hook ingress device "{nic}" priority 0; policy accept;
        ether daddr {mac} counter
    }}
}}
"""


@pytest.fixture
def seen(lab, mode):
    """How many frames for the cluster's MAC have come to a node that is no member."""
    guest = lab.guest("bystander")
    guest.succeed(["ip", "link", "set", mode.network, "promisc", "on"])  # else its NIC keeps them from it
    guest.succeed(["nft", "--file", "-"], stdin=WATCH.format(nic=mode.network, mac=mode.mac).encode())
    yield lambda: counted(lab, "bystander", f"netdev bystander {mode.network}")[0]
    guest.succeed(["nft", "delete", "table", "netdev", "bystander"])
    guest.succeed(["ip", "link", "set", mode.network, "promisc", "off"])


@pytest.mark.parametrize("mode", [UNICAST, MULTICAST], ids=str)
def test_a_bystander_sees_every_frame(lab, mode, seen):
    ask(lab, mode)
    assert seen() >= 4 * COUNT  # SYN, ACK, the request and the end of each connection


@pytest.mark.parametrize("mode", [IGMP], ids=str)
def test_in_igmp_mode_a_bystander_sees_nothing_soon_after_the_members_have_asked_the_network_who_listens(
    lab, mode, seen, record_property
):
    began_s = lab.clock.now_s()

    def quiet():
        before = seen()
        assert set(ask(lab, mode).values()) == {"g1", "g2"}
        return (True if seen() == before else None), f"it saw {seen() - before} frames of {COUNT} requests"

    # The members ask twice a minute; a bridge goes by the answers ten seconds later.
    wait_until("the bridge spares the bystander", quiet, Deadline.within(120, lab.clock), every_s=2.0)
    record_property("quiet after", f"{lab.clock.now_s() - began_s:.1f} s")


@pytest.mark.parametrize("mode", [IGMP], ids=str)
def test_members_in_igmp_mode_listen_to_their_group(lab, mode):
    for node in members(lab, mode).values():
        assert "239.255.0.30" in lab.guest(node).succeed(["ip", "maddress", "show", "dev", "only"])
