"""A lab converges to its topology from wherever it is, and touches nothing that is not its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest

from labctl.inventory import Inventory
from labctl.lab import Lab, inventory
from labctl.plan import Verb
from labctl.render.names import bridge_name
from labctl.render.xml import base_xml
from topologies import two_nodes

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

NAME = "test-life"


@dataclass(frozen=True)
class Bystanders:
    """Objects of somebody else whose names look like the lab's; `before` is what they were like at first."""

    now: Callable[[], list[str]]
    before: list[str]


@pytest.fixture(scope="module")
def bystanders(micro) -> Iterator[Bystanders]:
    connection = libvirt.open(micro.hypervisor.uri)
    names = [NAME, f"{NAME}.m1x", f"{NAME}-m1"]
    volumes = [NAME, f"{NAME}.m1.qcow2", f"lab.{NAME}x.m1.qcow2", f"lab.{NAME}"]
    for name in names:
        connection.defineXML(_foreign_domain(name))
        connection.networkDefineXML(f"<network><name>{name}</name></network>")
    for name in volumes:
        micro.hypervisor.create_volume(base_xml(name, 1 << 20, "raw"))
    running = connection.createXML(_foreign_domain(f"{NAME}.running"), libvirt.VIR_DOMAIN_START_PAUSED)

    def now() -> list[str]:
        found = [i for i in (*connection.listAllDomains(), *connection.listAllNetworks()) if i.name().startswith(NAME)]
        descriptions = [i.XMLDesc() for i in found if "labctl.test" not in i.XMLDesc()]
        return [*sorted(descriptions), *(str(micro.hypervisor.volume(v)) for v in volumes)]

    before = now()
    assert len(before) == 4 + 3 + 4
    yield Bystanders(now, before)
    running.destroy()
    for name in names:
        connection.lookupByName(name).undefine()
        connection.networkLookupByName(name).undefine()
    for name in volumes:
        micro.hypervisor.remove_volume(name)
    connection.close()


def _foreign_domain(name: str) -> str:
    return f"<domain type='qemu'><name>{name}</name><memory>8192</memory><os><type>hvm</type></os></domain>"


@dataclass(frozen=True)
class Life:
    """A lab that tests may change."""

    make: Callable[..., Lab]
    hypervisor: object

    def up(self, *, boot: bool = False, **changes) -> tuple[Lab, list[str]]:
        """Bring it up with a changed topology; the lab, and what was done."""
        lab = self.make(**changes)
        return lab, [str(action) for action in lab.up(boot=boot, fresh=True, keep=False).actions]

    @property
    def held(self) -> Inventory:
        return inventory(self.hypervisor).of(NAME)


@pytest.fixture(scope="module")
def life(micro, bystanders, tmp_path_factory) -> Iterator[Life]:
    file = tmp_path_factory.mktemp("life") / "life.yaml"
    hypervisor = micro.hypervisor

    def make(**changes) -> Lab:
        return Lab.from_topology(two_nodes(file, NAME, **changes), hypervisor=hypervisor)

    yield Life(make, hypervisor)
    make().destroy()


def uptime_s(lab: Lab, node: str) -> float:
    return float(lab.guest(node).shell("cut -d' ' -f1 /proc/uptime"))


def test_labs_with_the_same_addresses_work_side_by_side(life, micro):
    lab, _ = life.up()
    lab.guest("m1").shell("mkdir -p /srv/w && echo the other lab > /srv/w/index.html")
    lab.guest("m1").shell("cd /srv/w && setsid nohup python3 -m http.server 80 >/dev/null 2>&1 </dev/null &")
    ask = "curl -sS --retry 10 --retry-connrefused --retry-delay 1 --max-time 10 http://10.78.0.21/"
    assert lab.guest("other").shell(ask) == "the other lab"
    assert micro.guest("client").shell(ask) == "served by m1"
    assert {n.state for n in (*lab.status(), *micro.status())} == {"ready"}


def test_nodes_have_the_time_zone_of_the_topology(life):
    lab, _ = life.up()
    assert lab.guest("other").shell("date -d @0 +%H:%M%z; cat /etc/timezone") == "01:00+0100\nEurope/Berlin"


def but_sizes(held: Inventory) -> Inventory:
    """All but how large its volumes are: guests that run write to their disks and consoles."""
    return replace(held, volumes=tuple(replace(v, capacity_bytes=0, allocation_bytes=0) for v in held.volumes))


def test_a_lab_that_is_up_is_left_alone(life):
    life.up()
    before = but_sizes(life.held)
    _, done = life.up()
    assert done == []
    assert but_sizes(life.held) == before


def test_what_was_switched_off_by_hand_is_what_up_mends(life):
    lab, _ = life.up()
    nic = lab.spec.node("other").nics[0]
    life.hypervisor.power_off(f"{NAME}.m1")
    life.hypervisor.set_link(f"{NAME}.other", nic.mac, up=False)
    life.hypervisor.suspend(f"{NAME}.other")
    wanted = [
        "start node m1: it is shut off",
        "connect NIC other.host: its cable is pulled",
        "resume node other: it is paused",
    ]
    assert [str(a) for a in lab.plan().actions] == wanted
    _, done = life.up()
    assert done == wanted
    assert not lab.plan()
    assert {n.state for n in lab.status()} == {"ready"}
    lab.guest("other").shell("ping -q -c 1 -W 5 m1")


def test_a_network_that_was_stopped_by_hand_is_started(life):
    lab, _ = life.up()
    connection = libvirt.open(life.hypervisor.uri)
    connection.networkLookupByName(f"{NAME}.lan").destroy()
    connection.close()
    assert "start network lan: it is stopped" in [str(a) for a in lab.plan().actions]
    life.up()
    assert not lab.plan()
    lab.guest("other").shell("ping -q -c 1 -W 5 m1")


def test_a_changed_port_rule_is_loaded_and_nothing_else_is_done(life):
    before, _ = life.up()
    booted_s = uptime_s(before, "m1")
    lab, done = life.up(port=8080)
    assert done == ["join cluster m1: web"]
    assert "dport 8080 goto" in lab.guest("m1").succeed(["/usr/sbin/nft", "list", "table", "ip", "labctl_web"])
    assert uptime_s(lab, "m1") >= booted_s


def test_a_node_whose_memory_changed_is_made_anew_and_the_others_run_on(life):
    before, _ = life.up()
    uuids = {d.name: d.uuid for d in life.held.domains}
    booted_s = uptime_s(before, "m1")
    machine_id = before.guest("other").shell("cat /etc/machine-id")
    lab, done = life.up(memory_mib=288, boot=True)  # booted, as a fork of that size would need a machine to be kept
    assert [a.split(":")[0] for a in done] == [
        f"remove node {NAME}.other",
        "create node other",
        "start node other",
        "specialise other",
        "apply roles other",
    ]
    assert {name for name, uuid in uuids.items() if life.held.domain(name.split(".")[1]).uuid != uuid} == {
        f"{NAME}.other"
    }
    assert uptime_s(lab, "m1") > booted_s
    assert lab.guest("other").shell("cat /etc/machine-id") != machine_id
    assert int(lab.guest("other").shell("awk '/MemTotal/ {print $2}' /proc/meminfo")) > 225_000


def test_a_node_that_left_the_topology_goes_away(life):
    life.up()
    lab, done = life.up(memory_mib=None)
    assert done[0] == f"remove node {NAME}.other: not in the topology"
    assert {a.split(":")[0] for a in done[1:]} == {"specialise m1"}
    assert [d.name for d in life.held.domains] == [f"{NAME}.m1"]
    assert not [v.name for v in life.held.volumes if ".other." in v.name]
    assert "other" not in lab.guest("m1").shell("cat /etc/hosts")


def test_destroy_leaves_nothing_of_the_lab_and_all_that_is_not_its_own(life, bystanders):
    lab, _ = life.up(memory_mib=None)
    life.hypervisor.suspend(f"{NAME}.m1")
    done = lab.destroy()
    assert {a.verb for a in done.actions} == {Verb.REMOVE_NODE, Verb.REMOVE_VOLUME, Verb.REMOVE_NETWORK}
    assert life.held == Inventory()
    assert not Path("/sys/class/net", bridge_name(NAME, "lan")).exists()
    assert not lab.destroy()
    assert bystanders.now() == bystanders.before
