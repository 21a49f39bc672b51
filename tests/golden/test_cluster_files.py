"""The files that make a node a member of its clusters, and whether nft takes the packet filters.

`cluster/CASE/` holds the files of one case, named after the guest's. Cases are written here rather than in YAML, since
it is the rendering that they are about.

    LABCTL_GOLDEN=write pytest tests/golden

makes the files anew. Read the difference before you commit it: that is the test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from labctl.cluster.advert import ADDRESSES
from labctl.cluster.render import cluster_digest, leftovers, member_files, table_of
from labctl.topology.spec import (
    Accelerator,
    Affinity,
    ClusterMode,
    ClusterSpec,
    Filtering,
    HealthCheck,
    Heartbeat,
    LabSpec,
    MemberSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
    PortRule,
    RuleProtocol,
)

HERE = Path(__file__).parent / "cluster"

SameAs = Callable[[Path, str], None]

TCP, UDP, BOTH = RuleProtocol.TCP, RuleProtocol.UDP, RuleProtocol.BOTH
MULTIPLE, SINGLE_HOST, DISABLED = Filtering.MULTIPLE, Filtering.SINGLE_HOST, Filtering.DISABLED
HTTPS = PortRule(443, 443, TCP, MULTIPLE)


def lab(*clusters: ClusterSpec) -> LabSpec:
    """A lab of all the members, each with a NIC per cluster."""
    names = sorted({m.node for c in clusters for m in c.members})
    nodes = tuple(_node(number, name, clusters) for number, name in enumerate(names, 1))
    ipv6 = IPv6Network("fd00:77::/32") if any(c.addresses6 for c in clusters) else None
    networks = (NetworkSpec("lan", IPv4Network("10.77.0.0/16"), ipv6),)
    return LabSpec("lab", "lab.test", "UTC", Accelerator.TCG, networks, nodes, clusters)


def _node(number: int, name: str, clusters: tuple[ClusterSpec, ...]) -> NodeSpec:
    nics = tuple(
        NicSpec(
            m.nic,
            "lan",
            f"52:54:00:00:{index:02x}:{number:02x}",
            IPv4Interface(f"10.77.{index}.{number}/16"),
            address6=IPv6Interface(f"fd00:77:{index}::{number:x}/32") if cluster.addresses6 else None,
        )
        for index, cluster in enumerate(clusters)
        for m in cluster.members
        if m.node == name
    )
    return NodeSpec(name, f"{name}.lab.test", "micro", (), 256, 1, nics)


def cluster(
    *rules: PortRule,
    name: str = "mail",
    members: tuple[str, ...] = ("cas1", "cas2"),
    mode: ClusterMode = ClusterMode.UNICAST,
    number: int = 20,
    more: tuple[str, ...] = (),
) -> ClusterSpec:
    """A cluster whose members have the host IDs 1, 2, … and the NIC `cluster`, or one named after the cluster.

    Args:
        more: virtual addresses beside 10.77.9.NUMBER.
    """
    nic = "cluster" if name == "mail" else name
    specs = tuple(MemberSpec(node, priority, nic) for priority, node in enumerate(members, 1))
    address = IPv4Interface(f"10.77.9.{number}/16")
    beside = tuple(IPv6Interface(f"{a}/32") if ":" in a else IPv4Interface(f"{a}/16") for a in more)
    return ClusterSpec(name, "lan", address, f"{name}.lab.test", mode, Heartbeat(100, 5), specs, rules, beside)


CASES: dict[str, LabSpec] = {
    "unicast": lab(cluster(HTTPS)),
    "multicast": lab(cluster(HTTPS, mode=ClusterMode.MULTICAST)),
    "igmp": lab(cluster(HTTPS, mode=ClusterMode.IGMP)),
    "weights": lab(
        cluster(
            PortRule(443, 443, TCP, MULTIPLE, weights=(("cas1", 100), ("cas2", 50), ("cas3", 50))),
            PortRule(993, 993, TCP, MULTIPLE, weights=(("cas1", 1), ("cas2", 0), ("cas3", 3))),
            members=("cas1", "cas2", "cas3"),
        )
    ),
    "single-host-and-disabled": lab(
        cluster(
            PortRule(25, 25, TCP, SINGLE_HOST, handling=("cas2", "cas1")),
            PortRule(53, 53, UDP, DISABLED),
            PortRule(8000, 8999, BOTH, DISABLED),
        )
    ),
    "affinity": lab(
        cluster(
            PortRule(80, 80, TCP, MULTIPLE, Affinity.NONE),
            PortRule(443, 443, TCP, MULTIPLE, Affinity.SINGLE),
            PortRule(993, 993, TCP, MULTIPLE, Affinity.NETWORK),
        )
    ),
    "ports-and-protocols": lab(
        cluster(
            PortRule(53, 53, UDP, MULTIPLE, Affinity.NONE),
            PortRule(110, 110, TCP, MULTIPLE),
            PortRule(143, 143, TCP, MULTIPLE),
            PortRule(1000, 1999, TCP, MULTIPLE),
            PortRule(5000, 6000, BOTH, MULTIPLE, Affinity.NONE),
        )
    ),
    "no-rules": lab(cluster()),
    "health": lab(
        cluster(
            PortRule(25, 25, TCP, SINGLE_HOST, handling=("cas2", "cas1"), health=HealthCheck("pidof master", 5, 1, 3)),
            PortRule(53, 53, UDP, MULTIPLE),
            PortRule(443, 443, TCP, MULTIPLE, health=HealthCheck("curl -fsS -o /dev/null https://localhost/", 2, 2, 2)),
        )
    ),
    "two-addresses": lab(
        cluster(HTTPS, PortRule(443, 443, TCP, DISABLED, address=IPv4Address("10.77.9.25")), more=("10.77.9.25",))
    ),
    "ipv6": lab(
        cluster(
            PortRule(80, 80, TCP, MULTIPLE, Affinity.NONE),
            PortRule(443, 443, TCP, MULTIPLE),
            PortRule(993, 993, TCP, MULTIPLE, Affinity.NETWORK),
            PortRule(80, 80, TCP, SINGLE_HOST, handling=("cas2", "cas1"), address=IPv6Address("fd00:77::25")),
            PortRule(443, 443, TCP, MULTIPLE, address=IPv6Address("fd00:77::25")),
            more=("fd00:77::20", "10.77.9.25", "fd00:77::25"),
        )
    ),
    "ipv6-multicast": lab(cluster(HTTPS, mode=ClusterMode.MULTICAST, more=("fd00:77::20",))),
    "two-clusters": lab(cluster(HTTPS), cluster(HTTPS, name="my-web", mode=ClusterMode.MULTICAST, number=30)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_files_of_a_member(name: str, same_as: SameAs) -> None:
    files = _files(name)
    for path, (text, _mode) in files.items():
        (HERE / name).mkdir(parents=True, exist_ok=True)
        same_as(HERE / name / path.rsplit("/", 1)[1], text)
    assert {p.name for p in (HERE / name).iterdir()} == {p.rsplit("/", 1)[1] for p in files}


def test_every_folder_has_its_case() -> None:
    assert {path.name for path in HERE.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_only_the_boot_step_and_health_checks_are_programs(name: str) -> None:
    steps = {f"/etc/labctl/boot.d/20-cluster-{c.name}" for c in CASES[name].clusters}
    checks = {path for path in _files(name) if path.endswith(".check")}
    assert {path for path, (_text, mode) in _files(name).items() if mode & 0o111} == steps | checks
    assert len(checks) == sum(bool(rule.health) for c in CASES[name].clusters for rule in c.port_rules)


@pytest.mark.parametrize("name", CASES)
def test_a_shell_takes_the_boot_step(name: str) -> None:
    for path, (text, _mode) in _files(name).items():
        if "/boot.d/" in path:
            subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_a_node_in_no_cluster_has_no_files_and_no_digest() -> None:
    spec = CASES["unicast"]
    bystander = NodeSpec("dc", "dc.lab.test", "micro", (), 256, 1, spec.nodes[0].nics)
    assert member_files(spec, bystander) == {}
    assert cluster_digest(spec, bystander) == ""


def test_members_differ_only_in_who_they_are() -> None:
    spec = CASES["unicast"]
    first, second = (member_files(spec, node)["/etc/labctl/cluster/mail.nft"][0] for node in spec.nodes)
    rules = re.compile(r"chain rule_443_tcp \{.*?\}\n", re.DOTALL)
    assert rules.findall(first) == rules.findall(second) != []
    assert re.findall("rules \\{ 0x.*", first) == re.findall("rules \\{ 0x.*", second) != []
    assert first != second


@pytest.mark.parametrize("name", CASES)
def test_no_two_instances_share_an_address(name: str) -> None:
    # keepalived ignores the second one, and VRRPv3 then refuses its instance.
    addresses = re.findall(r"[\d.]+/32 dev lo", _files(name)["/etc/keepalived/keepalived.conf"][0])
    assert len(set(addresses)) == len(addresses) == ADDRESSES * len(CASES[name].clusters)


@pytest.mark.parametrize("name", [n for n in CASES if n != "unicast"])
def test_the_digest_tells_clusters_apart(name: str) -> None:
    one, other = CASES["unicast"], CASES[name]
    assert cluster_digest(one, one.nodes[0]) != cluster_digest(other, other.nodes[0])


# -- nft ---------------------------------------------------------------------------------------------------------------

needs_nft = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="nft --check needs nft, and root for a network namespace"
)


def _check(ruleset: str, nics: list[str], folder: Path) -> str:
    """What nft says of a ruleset; empty when it takes it. Nothing is loaded."""
    said, _held = _in_namespace(ruleset, nics, folder, "nft --check --file FILE")
    return said


def _in_namespace(ruleset: str, nics: list[str], folder: Path, script: str) -> tuple[str, str]:
    """(standard error, standard output) of a script in a network namespace of its own, which has those NICs; the host's
    packet filter is out of its reach."""
    file = folder / "filter.nft"
    file.write_text(ruleset)
    devices = "\n".join(f"ip link add {nic} type bridge" for nic in nics)
    script = f"set -e\n{devices}\n{script.replace('FILE', shlex.quote(str(file)))}"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    return done.stderr or f"exit code {done.returncode}" * bool(done.returncode), done.stdout


@needs_nft
@pytest.mark.parametrize("name", CASES)
def test_nft_takes_the_packet_filters(name: str, tmp_path: Path) -> None:
    nics = [nic.name for nic in CASES[name].nodes[0].nics]
    filters = [text for path, (text, _mode) in _files(name).items() if path.endswith(".nft")]
    assert _check("\n".join(filters), nics, tmp_path) == ""


@needs_nft
def test_nft_takes_the_packet_filter_of_32_members(tmp_path: Path) -> None:
    spec = lab(cluster(HTTPS, members=tuple(f"n{number}" for number in range(1, 33))))
    text, _mode = member_files(spec, spec.nodes[0])["/etc/labctl/cluster/mail.nft"]
    assert _check(text, ["cluster"], tmp_path) == ""


@needs_nft
@pytest.mark.parametrize(
    ("sound", "broken"),
    [("@alive goto decide", "@dead goto decide"), ("hook egress device", "hook sideways device")],
    ids=["a set that is not there", "a hook that is not there"],
)
def test_nft_refuses_a_broken_packet_filter(sound: str, broken: str, tmp_path: Path) -> None:
    text, _mode = _files("unicast")["/etc/labctl/cluster/mail.nft"]
    assert "Error" in _check(text.replace(sound, broken), ["cluster"], tmp_path)


@needs_nft
def test_loading_a_packet_filter_again_replaces_rules_and_keeps_who_is_alive(tmp_path: Path) -> None:
    text, _mode = _files("unicast")["/etc/labctl/cluster/mail.nft"]
    script = """
        nft --file FILE
        nft add element ip labctl_mail alive '{ 2 timeout 10m }'
        nft add rule ip labctl_mail decide counter
        nft --file FILE
        nft list table ip labctl_mail
    """
    said, held = _in_namespace(text, ["cluster"], tmp_path, script)
    assert said == ""
    assert "0x00000002 timeout 10m" in held
    assert held.count("counter packets 0 bytes 0 accept") == text.count("counter accept")
    assert not re.search(r"counter packets 0 bytes 0$", held, re.MULTILINE)


@needs_nft
@pytest.mark.parametrize(("was", "is_now"), [("ipv6", "unicast"), ("unicast", "ipv6"), ("ipv6", "two-addresses")])
def test_what_another_form_of_a_cluster_has_left_is_taken_away_and_the_rest_stays(
    was: str, is_now: str, tmp_path: Path
) -> None:
    before, after = (CASES[name].clusters[0] for name in (was, is_now))
    had, has = ({f"{a}/{a.max_prefixlen}" for a in c.addresses} for c in (before, after))
    script = tmp_path / "leftovers"
    script.write_text(leftovers(CASES[is_now], CASES[is_now].nodes[0]))
    (tmp_path / "now").write_text(_files(is_now)["/etc/labctl/cluster/mail.nft"][0])
    added = "\n".join(f"ip address add {a} dev cluster{' nodad' * (':' in a)}" for a in sorted(had | has))
    run = f"""
        ip address add 10.77.0.1/16 dev cluster
        {added}
        nft --file FILE
        nft --file {shlex.quote(str(tmp_path / "now"))}
        sh {shlex.quote(str(script))}
        sh {shlex.quote(str(script))}
        ip -brief address show dev cluster scope global
        nft list tables
    """
    said, held = _in_namespace(_files(was)["/etc/labctl/cluster/mail.nft"][0], ["cluster"], tmp_path, run)
    assert said == ""
    shown, *tables = held.splitlines()
    assert set(shown.split()[2:]) == has | {"10.77.0.1/16"}
    assert set(tables) == {f"table {table_of(after)}", "table netdev labctl_mail"}


def _files(name: str) -> dict[str, tuple[str, int]]:
    return member_files(CASES[name], CASES[name].nodes[0])
