"""`labctl cluster` on a cluster with several virtual addresses, IPv4 and IPv6, on the fake hypervisor."""
# ruff: noqa: F811 -- fixtures are imported from where they are

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from lab_bench import Bench
from scripted_guest import Said
from test_cli import Labctl, bench, run, small  # noqa: F401

from labctl.cluster.advert import key_of
from labctl.topology.spec import Filtering, PortRule, RuleProtocol

TOPOLOGY = """\
lab: small
domain: small.test
image: micro
networks:
  lan: {subnet: 10.9.0.0/24, subnet6: "fd00:9::/64"}
nodes:
  m1: {nics: {eth0: {network: lan, address: 10.9.0.1, address6: "fd00:9::1"}}}
  m2: {nics: {eth0: {network: lan, address: 10.9.0.2, address6: "fd00:9::2"}}}
clusters:
  web:
    network: lan
    addresses: [10.9.0.200, 10.9.0.201, "fd00:9::c8", "fd00:9::c9"]
    fqdn: web.small.test
    members: [{node: m1, nic: eth0, priority: 1}, {node: m2, nic: eth0, priority: 2}]
    port_rules:
      - {ports: 80, protocol: tcp}
      - {ports: 993, protocol: tcp, affinity: none}
      - {ports: 80, protocol: tcp, address: 10.9.0.201, filtering: single-host, handling: [m2, m1]}
      - {ports: 80, protocol: tcp, address: "fd00:9::c9", filtering: single-host, handling: [m2, m1]}
"""


DONE = Said()
MULTIPLE = Filtering.MULTIPLE
ADDRESSES = (None, IPv4Address("10.9.0.200"), IPv4Address("10.9.0.201"), IPv6Address("fd00:9::c8"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The topology of the lab `small`."""
    path = tmp_path / "small.yaml"
    path.write_text(TOPOLOGY)
    return path


def test_all_addresses_are_shown_everywhere(small: Bench, run: Labctl) -> None:
    addresses = ["10.9.0.200", "10.9.0.201", "fd00:9::c8", "fd00:9::c9"]
    for argv in (("cluster", "query"), ("cluster", "params"), ("cluster", "display"), ("status",)):
        assert " ".join(addresses) in run(*argv).out
    assert run("cluster", "query", "--json").json["addresses"] == addresses
    assert run("cluster", "params", "--json").json["addresses"] == addresses
    assert run("status", "--json").json["clusters"][0]["addresses"] == addresses
    assert "10.9.0.1 fd00:9::1" in run("cluster", "params").out
    assert run("cluster", "params", "--json").json["members"][1]["address6"] == "fd00:9::2"


def test_rules_of_one_address_are_shown_with_it(small: Bench, run: Labctl) -> None:
    rules = [rule["rule"] for rule in run("cluster", "params", "--json").json["port_rules"]]
    assert rules == ["80/tcp", "10.9.0.201:80/tcp", "[fd00:9::c9]:80/tcp", "993/tcp"]


@pytest.mark.parametrize(
    ("client", "to", "says"),
    [
        ("10.9.0.101", "80", "of rule 80/tcp, affinity single"),
        ("10.9.0.101", "10.9.0.200:80/tcp", "of rule 80/tcp, affinity single"),
        ("10.9.0.101", "10.9.0.201:80", "m2 (rule 10.9.0.201:80/tcp, then m1)"),
        ("fd00:9::7", "80", "m1 (bucket 11 of rule 80/tcp, affinity single, then m2)"),
        ("[fd00:9::7]:40000", "993", "m1 (bucket 4 of rule 993/tcp, affinity none, then m2)"),
        ("fd00:9::7", "[fd00:9::c9]:80", "m2 (rule [fd00:9::c9]:80/tcp, then m1)"),
        ("fd00:9::7", "[fd00:9::c9]:53/udp", "m1 (no rule, so the default host, then m2)"),
    ],
)
def test_owner_knows_which_address_is_meant(small: Bench, run: Labctl, client: str, to: str, says: str) -> None:
    ran = run("cluster", "owner", client, "--to", to)
    assert (ran.code, ran.err) == (0, "")
    assert says in ran.out


def test_owner_says_which_address_it_took(small: Bench, run: Labctl) -> None:
    assert run("cluster", "owner", "fd00:9::7", "--to", "80", "--json").json["address"] == "fd00:9::c8"


@pytest.mark.parametrize(
    ("client", "to", "says"),
    [
        (
            "fd00:9::7",
            "10.9.0.200:80",
            "cluster web has no 10.9.0.200 for fd00:9::7\n  next: its IPv6 ones: fd00:9::c8, fd",
        ),
        (
            "10.9.0.1",
            "10.9.0.222:80",
            "cluster web has no 10.9.0.222 for 10.9.0.1\n  next: its IPv4 ones: 10.9.0.200, 10",
        ),
        (
            "fd00:9::7",
            "993",
            "993/tcp has affinity none: the client's port decides, too\n  next: [fd00:9::7]:40000, for",
        ),
        ("fd00:9:::7", "80", "fd00:9:::7 is not an address"),
        ("[fd00:9::7]:x", "80", "x is not a port"),
        ("[fd00:9::7", "80", "[fd00:9::7 is not an address"),
        ("fd00:9::7", "[fd00::9::]:80", "fd00::9:: is not an address"),
        ("fd00:9::7", "[fd00:9::c8]", " is not a port"),
    ],
)
def test_an_address_or_client_that_is_none_is_bad_input(
    small: Bench, run: Labctl, client: str, to: str, says: str
) -> None:
    ran = run("cluster", "owner", client, "--to", to)
    assert ran.code == 2
    assert says in ran.err


def test_ip2mac_takes_an_ipv6_address_for_its_clusters_first_ipv4_address(small: Bench, run: Labctl) -> None:
    assert run("cluster", "ip2mac", "fd00:9::c9").out == run("cluster", "ip2mac", "10.9.0.200").out
    ran = run("cluster", "ip2mac", "fd00:9::1")
    assert (ran.code, ran.err) == (
        2,
        "labctl: fd00:9::1 is not a virtual address of lab small\n  next: its IPv6 ones: fd00:9::c8, fd00:9::c9\n",
    )


@pytest.mark.parametrize(
    ("port", "keys"),
    [
        ("80", 3),
        ("80/tcp", 3),
        ("10.9.0.201:80", 1),
        ("[fd00:9::c9]:80/tcp", 1),
        ("all", 4),
    ],
)
def test_rules_are_told_by_port_and_address(small: Bench, run: Labctl, port: str, keys: int) -> None:
    told: list[str] = []
    small.guests["m1"].on("/usr/sbin/nft", "--file", does=lambda _argv, stdin: told.append(stdin.decode()) or DONE)
    run("cluster", "drain", port, "m1")
    (script,) = told
    assert script.count('comment "draining') == keys
    assert all("inet labctl_web" in line for line in script.splitlines())


def test_connections_are_counted_at_every_address_by_their_rule(small: Bench, run: Labctl) -> None:
    lines = (
        "ESTAB 0 0 10.9.0.200:80 10.9.0.101:40000",
        "ESTAB 0 0 10.9.0.201:80 10.9.0.101:40001",
        "ESTAB 0 0 [fd00:9::c8]:80 [fd00:9::7]:40000",
        "ESTAB 0 0 [fd00:9::c9]:80 [fd00:9::7]:40001",
        "ESTAB 0 0 [fd00:9::c9]:5000 [fd00:9::7]:40001",
        "ESTAB 0 0 [fd00:9::1]:80 [fd00:9::7]:40001",
    )
    small.guests["m1"].says("/usr/bin/ss", out="\n".join(lines).encode())
    has = run("cluster", "query", "--json").json["members"][0]["connections"]
    assert has == {"80/tcp": 2, "10.9.0.201:80/tcp": 1, "[fd00:9::c9]:80/tcp": 1, "default host": 1}


def test_rules_of_different_addresses_never_share_a_key() -> None:
    rules = [
        PortRule(port, port, protocol, MULTIPLE, address=address)
        for port in range(200)
        for protocol in RuleProtocol
        for address in ADDRESSES
    ]
    assert len({key_of(rule) for rule in rules}) == len(rules)
