"""Two clusters with several virtual addresses, IPv4 and IPv6, on tiny guests."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import CommandLine
from failover import LIMITS, kept, web
from takeover import Takeover
from test_micro_cluster import learned

from labctl.cluster.ownership import owner_of, rule_for
from labctl.faults import PowerOff
from labctl.topology.spec import RuleProtocol

pytestmark = [pytest.mark.lab(topology=str(Path(__file__).with_name("six.yaml"))), pytest.mark.timeout(600)]

MACS = {"fd00:78::20": "02:bf:0a:4e:00:14", "fd00:78::50": "03:bf:0a:4e:00:32"}
ADDRESSES = ["10.78.0.20", "10.78.0.25", "fd00:78::20", "10.78.0.50", "fd00:78::50"]


def by_ipv6(lab, probe, clients):
    """The same probe of the first IPv6 address, from as many IPv6 clients."""
    sources = lab.spec.node("client").nics[0].extra_addresses6[:clients]
    address = str(lab.spec.clusters[0].addresses6[0])
    return replace(probe, name=f"{probe.name}6", address=address, sources=tuple(map(str, sources)))


def named(lab, source, to):
    """Who answers a client, as labctl has it."""
    (cluster,) = (c for c in lab.spec.clusters if ip_address(to) in c.addresses)
    hosts = {m.priority: m.node for m in cluster.members}
    rule = rule_for(cluster, 80, RuleProtocol.TCP, ip_address(to))
    return hosts[owner_of(cluster, rule, ip_address(source), 0, lambda _rule: tuple(hosts))]


@pytest.mark.parametrize("to", ADDRESSES)
def test_every_address_of_both_clusters_is_served_by_the_member_that_labctl_names(lab, client, to):
    nic = lab.spec.node("client").nics[0]
    sources = [str(a) for a in (nic.extra_addresses6 if ":" in to else nic.extra_addresses)[:8]]
    host = f"[{to}]" if ":" in to else to
    script = f"for a in {' '.join(sources)}; do curl -gsS --max-time 10 --interface $a http://{host}/; done"
    answers = [answer.removeprefix("served by ") for answer in client.shell(script).split("\n")]
    assert answers == [named(lab, source, to) for source in sources]
    assert set(answers) == {"10.78.0.25": {"m2"}, "10.78.0.20": {"m1", "m2"}, "fd00:78::20": {"m1", "m2"}}.get(
        to, set(answers)
    )


def test_the_command_line_names_that_member_too(lab, six):
    found = json.loads(six("cluster", "owner", "fd00:78::1:7", "--to", "80", "-C", "other", "--json").stdout)
    assert (found["address"], found["owner"]) == ("fd00:78::50", named(lab, "fd00:78::1:7", "fd00:78::50"))


@pytest.mark.parametrize("to", MACS)
def test_ipv6_clients_reach_the_virtual_address_by_the_cluster_mac_which_no_bridge_learns(lab, client, to):
    client.shell(f"ip neigh flush all; ping -6 -c 1 -W 5 {to} >/dev/null")
    assert f"lladdr {MACS[to]}" in client.succeed(["ip", "neigh", "show", to])
    assert MACS[to] not in learned(lab)
    for member in ("m1", "m2"):
        shown = lab.guest(member).succeed(["ip", "-6", "-oneline", "address", "show"])
        assert f"{to}/128" in shown
        assert "dadfailed" not in shown


@pytest.fixture
def m2_is_out(lab, client):
    """A member without its virtual addresses, as it is before it joins; it is back at the end."""
    for address in lab.spec.clusters[0].addresses:
        lab.guest("m2").succeed(["ip", "address", "delete", f"{address}/{address.max_prefixlen}", "dev", "cluster"])
    yield lab.guest("m2")
    client.run(["ip", "address", "delete", "fd00:78::20/64", "dev", "host"])
    lab.guest("m2").succeed(["/etc/labctl/boot.d/20-cluster-web"])
    lab.wait_converged()


def test_a_member_whose_ipv6_address_a_stranger_answers_is_refused_with_the_strangers_mac(lab, client, m2_is_out):
    client.succeed(["ip", "address", "add", "fd00:78::20/64", "dev", "host", "nodad"])
    refused = m2_is_out.run(["/etc/labctl/boot.d/20-cluster-web"])
    stranger = lab.spec.node("client").nics[0].mac
    assert refused.exit_code == 1
    assert f"fd00:78::20 is answered by {stranger}" in refused.stderr.decode()
    assert "fd00:78::20/128" not in m2_is_out.succeed(["ip", "-6", "-oneline", "address", "show", "dev", "cluster"])


def test_ipv6_clients_of_a_member_that_dies_go_to_the_other_and_nobody_else_notices(
    lab, probe, inject, history, watch, verdict
):
    serves = by_ipv6(lab, web(lab), 30)
    keeps = by_ipv6(lab, kept(lab), 40)
    keeps = replace(keeps, sources=keeps.sources[-8:])
    scenario = Takeover(PowerOff("m1"), lab.spec.clusters[0], serves, serves, keeps, LIMITS, 60.0)
    scenario.run(lab, probe, inject, history, verdict).require_pass()


@pytest.fixture
def six(lab):
    """`labctl` on the lab."""
    return CommandLine(lab.hypervisor.uri, lab.name)
