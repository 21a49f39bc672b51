"""Definitions and names: what the golden files can't show."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from itertools import product
from xml.etree import ElementTree

import pytest

from labctl.errors import InputError
from labctl.inventory import Mark, Stage, lab_of_volume
from labctl.render.names import bridge_name, console_log_name, domain_name, network_name, overlay_name
from labctl.render.xml import DirectBoot, DomainPlan, NicPlan, base_xml, domain_xml, network_xml, overlay_xml, pool_xml
from labctl.topology.spec import Accelerator, NetworkSpec

ODD = """<a href='"&"'>"""
NICS = tuple(NicPlan(f"52:54:00:00:00:{n:02x}", "lab.lan") for n in range(12))
PLAN = DomainPlan(Mark("lab", "n1", "0123"), 256, 1, Accelerator.TCG, "/pool/disk", "root")


@pytest.mark.parametrize("stage", Stage)
def test_a_domains_mark_is_found_again(stage: Stage) -> None:
    mark = Mark(ODD, ODD, ODD, stage, ODD, ODD)
    assert Mark.find(domain_xml(replace(PLAN, mark=mark))) == mark


def test_a_networks_mark_is_found_again() -> None:
    network = NetworkSpec("lan", IPv4Network("192.0.2.0/24"))
    assert Mark.find(network_xml("lab", network, "0123")) == Mark("lab", "lan", "0123")


def test_libvirt_lets_ipv6_through_between_guests_where_the_network_has_it() -> None:
    without = NetworkSpec("lan", IPv4Network("192.0.2.0/24"))
    has = NetworkSpec("lan", without.subnet, IPv6Network("fd00::/64"))
    assert network_xml("lab", without, "").startswith("<network>\n")
    assert network_xml("lab", has, "").startswith('<network ipv6="yes">\n')


def test_odd_characters_do_not_leave_their_element() -> None:
    boot = DirectBoot(ODD, ODD, ODD)
    root = ElementTree.fromstring(domain_xml(replace(PLAN, boot=boot, console_log=ODD, disk_path=ODD)))
    assert [root.findtext(f"os/{tag}") for tag in ("kernel", "initrd", "cmdline")] == [ODD] * 3
    assert [root.find("devices/serial/log").get("file"), root.find("devices/disk/source").get("file")] == [ODD, ODD]


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_each_nic_has_a_port_of_its_own_and_four_are_spare(count: int) -> None:
    root = ElementTree.fromstring(domain_xml(replace(PLAN, nics=NICS[:count])))
    ports = [c.get("index") for c in root.iterfind("devices/controller[@model='pcie-root-port']")]
    buses = [str(int(a.get("bus"), 16)) for a in root.iterfind("devices/interface/address")]
    assert len(ports) == count + 4
    assert buses == ports[:count]


@pytest.mark.parametrize("name", ["", "a/b", "../a", "/etc/passwd"])
def test_a_volume_or_pool_never_leaves_its_directory(name: str) -> None:
    for make in (lambda: base_xml(name, 1, "raw"), lambda: overlay_xml(name, 1, "/a"), lambda: pool_xml(name, "/a")):
        with pytest.raises(InputError, match="can't name a pool or a volume"):
            make()


def test_a_bridge_name_is_its_networks_own_and_short_enough_for_the_kernel() -> None:
    names = [bridge_name(lab, network) for lab, network in product(["a", "b", "a-b"], ["lan", "x" * 60])]
    assert len(set(names)) == 6
    assert max(map(len, names)) <= 15
    assert names[0] == bridge_name("a", "lan")


@pytest.mark.parametrize("made", [domain_name, network_name])
def test_no_two_labs_share_a_name(made: type[str]) -> None:
    assert made("a-b", "c") != made("a", "b-c")


@pytest.mark.parametrize("suffix", ["", ".0", ".1"])
def test_volumes_belong_to_their_lab_also_when_their_log_was_rotated(suffix: str) -> None:
    assert lab_of_volume(overlay_name("micro", "m1")) == "micro"
    assert lab_of_volume(console_log_name("micro", "m1") + suffix) == "micro"
