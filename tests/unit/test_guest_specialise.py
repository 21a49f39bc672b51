"""A clone's own identity: what it is made of, when it has to be made again, and that its scripts do what they say."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest
from lab_bench import cluster_spec, lab_spec, node_spec, pair
from scripted_guest import ScriptedGuest

from labctl.errors import CommandFailed
from labctl.guest.agent import Guest
from labctl.guest.specialise import identity_digest, specialise
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import Mark
from labctl.render.xml import DomainPlan, domain_xml
from labctl.secrets import Secrets
from labctl.topology.spec import Accelerator, LabSpec, NetworkSpec, NicSpec, NodeSpec

LAB = pair()
M1 = LAB.nodes[0]
NIC = M1.nics[0]
SECRETS = Secrets({"certificate-authority": {"ca_root_certificate": "ROOT\n", "ca_key": "KEY\n"}})

DIRECTORY = lab_spec(node_spec("m1", 1), node_spec("dc", 2, roles=("domain-controller",)))
AUTHORITY = lab_spec(node_spec("m1", 1), node_spec("dc", 2, roles=("certificate-authority",)))


def specialised(lab: LabSpec, node: NodeSpec, name: str = "lab") -> ScriptedGuest:
    """A guest after it was made `node` in a lab of that name."""
    guest, inside = _guest(node.name, name)
    specialise(guest, lab, node, SECRETS)
    return inside


def _guest(name: str, lab: str = "lab") -> tuple[Guest, ScriptedGuest]:
    hypervisor, inside = FakeHypervisor(), ScriptedGuest()
    hypervisor.define_domain(domain_xml(DomainPlan(Mark(lab, name, ""), 1, 1, Accelerator.TCG, "/disk", "root")))
    hypervisor.start_domain(f"{lab}.{name}")
    hypervisor.agents[f"{lab}.{name}"] = inside
    return Guest(hypervisor, name, f"{lab}.{name}"), inside


def test_a_node_gets_its_name_and_everybody_elses() -> None:
    files = specialised(LAB, M1).files
    assert files["/etc/hostname"] == b"m1\n"
    assert files["/etc/hosts"].decode().splitlines() == [
        "127.0.0.1 localhost",
        "10.9.0.1 m1.lab.test m1",
        "10.9.0.2 m2.lab.test m2",
        "10.9.0.9 c.lab.test c",
        "10.9.0.200 web.lab.test",
    ]


def test_with_ipv6_names_stand_for_both_kinds_of_address() -> None:
    m1 = replace(M1, nics=(replace(NIC, address6=IPv6Interface("fd00:9::1/64")),))
    cluster = replace(
        cluster_spec("m1", "m2"), more_addresses=(IPv4Interface("10.9.0.201/24"), IPv6Interface("fd00:9::c8/64"))
    )
    lab = lab_spec(m1, LAB.nodes[1], clusters=(cluster,))
    assert specialised(lab, m1).files["/etc/hosts"].decode().splitlines() == [
        "127.0.0.1 localhost",
        "10.9.0.1 m1.lab.test m1",
        "fd00:9::1 m1.lab.test m1",
        "10.9.0.2 m2.lab.test m2",
        "10.9.0.200 web.lab.test",
        "10.9.0.201 web.lab.test",
        "fd00:9::c8 web.lab.test",
    ]


def test_in_a_lab_with_a_directory_names_and_time_come_from_there() -> None:
    files = specialised(DIRECTORY, DIRECTORY.node("m1")).files
    assert files["/etc/hosts"].decode().splitlines() == ["127.0.0.1 localhost", "10.9.0.1 m1.lab.test m1"]
    assert b"nameserver 10.9.0.2\n" in files["/etc/resolv.conf"]
    assert b"server 10.9.0.2 iburst" in files["/etc/labctl/chrony.conf"]
    assert b"default_realm = LAB.TEST" in files["/etc/krb5.conf"]


def test_the_directory_itself_is_where_the_time_comes_from() -> None:
    files = specialised(DIRECTORY, DIRECTORY.node("dc")).files
    assert b"allow 10.9.0.0/24" in files["/etc/labctl/chrony.conf"]
    assert b"server" not in files["/etc/labctl/chrony.conf"]


def test_without_a_directory_nobody_is_asked() -> None:
    files = specialised(LAB, M1).files
    assert {files[f"/etc/{name}"] for name in ("resolv.conf", "krb5.conf", "labctl/chrony.conf")} == {b""}


def test_a_node_trusts_the_root_and_gets_no_key() -> None:
    inside = specialised(AUTHORITY, AUTHORITY.node("m1"))
    assert inside.files["/usr/local/share/ca-certificates/labctl-root.crt"] == b"ROOT\n"
    assert not any(b"KEY" in content for content in inside.files.values())


def test_an_authority_asks_for_the_identity_again() -> None:
    nobody = lab_spec(node_spec("m1", 1), node_spec("dc", 2))
    assert identity_digest(AUTHORITY, AUTHORITY.node("m1")) != identity_digest(nobody, nobody.node("m1"))


def test_the_script_runs_after_the_files_are_there_and_stays_in_the_guest() -> None:
    inside = specialised(LAB, M1)
    assert [argv[0] for argv in inside.ran if argv[0] != "/bin/rm"] == ["/bin/tar", "/etc/labctl/specialise"]
    assert inside.modes["/etc/labctl/specialise"] == inside.modes["/etc/labctl/boot.d/10-network"] == 0o755


def test_a_node_of_another_lab_makes_machine_id_and_host_keys_anew() -> None:
    scripts = {specialised(LAB, M1, name).files["/etc/labctl/specialise"] for name in ("lab-1", "lab-2")}
    assert len(scripts) == 2
    assert b'!= "lab-1.m1"' in min(scripts)


def test_a_script_that_fails_says_what_it_said() -> None:
    guest, inside = _guest("m1")
    inside.says("/etc/labctl/specialise", exit_code=1, err=b"network: no NIC has the address 52:54:00:00:00:01\n")
    with pytest.raises(CommandFailed, match="m1: /etc/labctl/specialise: exit code 1\nnetwork: no NIC has the address"):
        specialise(guest, LAB, M1, SECRETS)


def with_m1(**changes: object) -> LabSpec:
    """The lab with another m1."""
    return replace(LAB, nodes=(replace(M1, **changes), *LAB.nodes[1:]))


CHANGES: dict[str, LabSpec] = {
    "its address": with_m1(nics=(replace(NIC, address=IPv4Interface("10.9.0.77/24")),)),
    "its prefix": with_m1(nics=(replace(NIC, address=IPv4Interface("10.9.0.1/16")),)),
    "its NIC's name": with_m1(nics=(replace(NIC, name="eth1"),)),
    "one more address": with_m1(nics=(replace(NIC, extra_addresses=(IPv4Address("10.9.0.78"),)),)),
    "an IPv6 address": with_m1(nics=(replace(NIC, address6=IPv6Interface("fd00:9::1/64")),)),
    "IPv6 on its network": replace(LAB, networks=(replace(LAB.networks[0], subnet6=IPv6Network("fd00:9::/64")),)),
    "one more NIC": with_m1(nics=(NIC, NicSpec("eth1", "lan", "52:54:00:00:01:01", IPv4Interface("10.9.0.79/24")))),
    "another node's address": replace(LAB, nodes=(M1, LAB.nodes[1], node_spec("c", 10))),
    "one more node": replace(LAB, nodes=(*LAB.nodes, node_spec("d", 11))),
    "the cluster's name": replace(LAB, clusters=(replace(cluster_spec("m1", "m2"), fqdn="other.lab.test"),)),
    "the time zone": replace(LAB, time_zone="Europe/Berlin"),
}


@pytest.mark.parametrize("lab", CHANGES.values(), ids=CHANGES)
def test_what_changes_an_identity_asks_for_it_again(lab: LabSpec) -> None:
    assert identity_digest(lab, lab.nodes[0]) != identity_digest(LAB, M1)


@pytest.mark.parametrize("change", [{"memory_mib": 512}, {"roles": ()}, {"image": "debian-13"}], ids=str)
def test_what_is_no_part_of_an_identity_leaves_it_alone(change: dict[str, object]) -> None:
    lab = with_m1(**change)
    assert identity_digest(lab, lab.nodes[0]) == identity_digest(LAB, M1)


def test_no_two_nodes_have_the_same_identity() -> None:
    assert len({identity_digest(LAB, node) for node in LAB.nodes}) == len(LAB.nodes)


@pytest.mark.parametrize("file", ["/etc/labctl/specialise", "/etc/labctl/boot.d/10-network"])
@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("lab", [CHANGES["one more NIC"], DIRECTORY, AUTHORITY], ids=["NICs", "directory", "authority"])
def test_a_shell_takes_the_scripts(file: str, node: int, lab: LabSpec) -> None:
    script = specialised(lab, lab.nodes[node]).files[file]
    subprocess.run(["sh", "-n"], input=script, check=True)


# -- the network script, really run ------------------------------------------------------------------------------------

needs_namespace = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")

MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


def two_nics(first: str, second: str) -> NodeSpec:
    """A node whose NICs are to have those names; the kernel calls them eth0 and eth1."""
    extra = (IPv4Address("10.9.0.51"), IPv4Address("10.9.0.52"))
    nics = (
        NicSpec(first, "lan", MACS[0], IPv4Interface("10.9.0.1/24"), extra),
        NicSpec(second, "lan", MACS[1], IPv4Interface("10.9.0.2/24")),
    )
    return replace(node_spec("m1", 1), nics=nics)


def addresses_after_two_runs(
    node: NodeSpec, folder: Path, *, lab: LabSpec | None = None, between: str = "true", show: str = "-4"
) -> list[str]:
    """NICs with their addresses after the boot step has run twice, in a network namespace of its own."""
    script = folder / "10-network"
    script.write_bytes(specialised(lab or lab_spec(node), node).files["/etc/labctl/boot.d/10-network"])
    devices = "".join(f"ip link add eth{i} address {mac} type bridge; " for i, mac in enumerate(MACS))
    commands = f"set -e; mount -t sysfs sysfs /sys; {devices} sh {script}; {between}; sh {script}"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", f"{commands}; ip {show} -brief address show up"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [" ".join([row.split()[0], *row.split()[2:]]) for row in done.stdout.splitlines()]


@needs_namespace
@pytest.mark.parametrize(
    ("first", "second"),
    [("host", "cluster"), ("eth0", "eth1"), ("eth1", "eth0"), ("eth1", "eth2"), ("cluster", "eth0")],
)
def test_nics_get_their_names_and_addresses(first: str, second: str, tmp_path: Path) -> None:
    assert sorted(addresses_after_two_runs(two_nics(first, second), tmp_path)) == sorted(
        [f"{first} 10.9.0.1/24 10.9.0.51/24 10.9.0.52/24", f"{second} 10.9.0.2/24"]
    )


@needs_namespace
def test_nics_have_ipv6_where_their_network_has_and_what_was_added_since_stays(tmp_path: Path) -> None:
    bare = two_nics("host", "cluster")
    extra = (IPv6Address("fd00:9::51"),)
    host = replace(bare.nics[0], address6=IPv6Interface("fd00:9::1/64"), extra_addresses6=extra)
    node = replace(bare, nics=(host, replace(bare.nics[1], network="old")))
    lan = NetworkSpec("lan", IPv4Network("10.9.0.0/24"), IPv6Network("fd00:9::/64"))
    lab = replace(lab_spec(node), networks=(lan, NetworkSpec("old", IPv4Network("10.8.0.0/24"))))
    virtual = "ip address add fd00:9::20/128 dev host nodad preferred_lft 0"
    shown = addresses_after_two_runs(node, tmp_path, lab=lab, between=virtual, show="-6")
    assert [sorted(row.split()) for row in shown] == [["fd00:9::1/64", "fd00:9::20/128", "fd00:9::51/64", "host"]]
