"""Two clusters with several virtual addresses, IPv4 and IPv6, on tiny guests."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import CommandLine
from test_micro_cluster import learned

from labctl.clock import Deadline, wait_until
from labctl.cluster.membership import wait_settled
from labctl.cluster.ownership import owner_of, rule_for
from labctl.faults import PowerOff
from labctl.topology.spec import RuleProtocol

pytestmark = [pytest.mark.lab(topology=str(Path(__file__).with_name("six.yaml"))), pytest.mark.timeout(600)]

MACS = {"fd00:78::20": "02:bf:0a:4e:00:14", "fd00:78::50": "03:bf:0a:4e:00:32"}
# By virtual address, how many members serve clients that are neighbours: one where a rule says so.
MEMBERS = {"10.78.0.20": 2, "fd00:78::20": 2, "10.78.0.25": 1, "10.78.0.50": 1, "fd00:78::50": 1}


def asked(lab, client, to):
    """By source, who answers eight clients that are neighbours, each on a new connection."""
    nic = lab.spec.node("client").nics[0]
    sources = [str(a) for a in (nic.extra_addresses6 if ":" in to else nic.extra_addresses)[:8]]
    host = f"[{to}]" if ":" in to else to
    # Whom a client belongs to does not change from try to try; a busy host may let one of them down.
    ask = f"curl -gsS --max-time 20 --retry 3 --retry-all-errors --interface $a http://{host}/"
    script = f"for a in {' '.join(sources)}; do {ask}; done"
    answers = client.shell(script, within_s=300.0).split("\n")
    return {source: answer.removeprefix("served by ") for source, answer in zip(sources, answers, strict=True)}


def named(lab, source, to):
    """Who answers a client, as labctl has it."""
    (cluster,) = (c for c in lab.spec.clusters if ip_address(to) in c.addresses)
    hosts = {m.priority: m.node for m in cluster.members}
    rule = rule_for(cluster, 80, RuleProtocol.TCP, ip_address(to))
    return hosts[owner_of(cluster, rule, ip_address(source), 0, lambda _rule: tuple(hosts))]


@pytest.mark.parametrize("to", MEMBERS)
def test_every_address_of_both_clusters_is_served_by_the_member_that_labctl_names(lab, client, to):
    answers = asked(lab, client, to)
    assert answers == {source: named(lab, source, to) for source in answers}
    assert len(set(answers.values())) == MEMBERS[to]


def test_the_command_line_names_that_member_too(lab, six):
    found = json.loads(six("cluster", "owner", "fd00:78::1:7", "--to", "80", "-C", "other", "--json").stdout)
    assert (found["address"], found["owner"]) == ("fd00:78::50", named(lab, "fd00:78::1:7", "fd00:78::50"))


@pytest.mark.parametrize("to", MACS)
def test_ipv6_clients_reach_the_virtual_address_by_the_cluster_mac_which_no_bridge_learns(lab, client, to):
    client.shell(f"ip neigh flush all; for n in 1 2 3 4 5; do ping -6 -c 1 -W 5 {to} >/dev/null && exit; done; exit 1")
    assert f"lladdr {MACS[to]}" in client.succeed(["ip", "neigh", "show", to])
    assert MACS[to] not in learned(lab)
    for member in ("m1", "m2"):
        shown = lab.guest(member).succeed(["ip", "-6", "-oneline", "address", "show"])
        assert f"{to}/128" in shown
        assert "dadfailed" not in shown


def take_out(lab):
    for address in lab.spec.clusters[0].addresses:
        lab.guest("m2").succeed(["ip", "address", "delete", f"{address}/{address.max_prefixlen}", "dev", "cluster"])


@pytest.fixture
def m2_is_out(lab, client):
    """A member without its virtual addresses, as it is before it joins; it is back at the end."""
    take_out(lab)
    yield lab.guest("m2")
    client.run(["ip", "address", "delete", "fd00:78::20/64", "dev", "host"])
    lab.guest("m2").succeed(["/etc/labctl/boot.d/20-cluster-web"])
    lab.wait_converged()


def test_a_member_whose_ipv6_address_a_stranger_answers_is_refused_with_the_strangers_mac(lab, client, m2_is_out):
    client.succeed(["ip", "address", "add", "fd00:78::20/64", "dev", "host", "nodad"])

    def refused():
        done = m2_is_out.run(["/etc/labctl/boot.d/20-cluster-web"])
        if done.exit_code == 0:  # nobody answered in time: the host is busy
            take_out(lab)
        return (done if done.exit_code else None), done.text

    done = wait_until("m2 is refused", refused, Deadline.within(120))
    stranger = lab.spec.node("client").nics[0].mac
    assert f"fd00:78::20 is answered by {stranger}" in done.stderr.decode()
    assert "fd00:78::20/128" not in m2_is_out.succeed(["ip", "-6", "-oneline", "address", "show", "dev", "cluster"])


def test_ipv6_clients_of_a_member_that_dies_go_to_the_other_until_it_is_back(lab, client, inject):
    cluster = lab.spec.clusters[0]
    before = asked(lab, client, "fd00:78::20")
    assert set(before.values()) == {"m1", "m2"}
    with inject(PowerOff("m1")):
        wait_settled(cluster, lab.members(cluster), Deadline.within(120))
        assert set(asked(lab, client, "fd00:78::20").values()) == {"m2"}
    lab.wait_converged()
    assert asked(lab, client, "fd00:78::20") == before


@pytest.fixture
def six(lab):
    """`labctl` on the lab."""
    return CommandLine(lab.hypervisor.uri, lab.name)
