"""The plan: what must be done, from whatever is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from lab_bench import MADE, all_up, digests, lab_spec, node_spec, pair

from labctl.inventory import DomainInfo, DomainState, Inventory, Mark, NetworkInfo, Stage, VolumeInfo
from labctl.plan import Plan, plan_destroy, plan_up
from labctl.render.names import record_name
from labctl.topology.spec import LabSpec

LAB = pair()


def plan(there: Inventory, lab: LabSpec = LAB, *, missing_images: tuple[str, ...] = ()) -> Plan:
    """The way to `lab`, whose nodes are all made from the same digests."""
    networks = {n.name: "network" for n in lab.networks}
    return plan_up(lab, there, nodes=digests(lab), networks=networks, missing_images=missing_images)


def lines(there: Inventory) -> list[str]:
    """The plan for the pair, one action a line."""
    return str(plan(there)).splitlines()


def with_domain(**changes: object) -> Inventory:
    """All up, but m1's domain differs."""
    there = all_up(LAB)
    return replace(there, domains=(replace(there.domains[0], **changes), *there.domains[1:]))


def with_mark(**changes: object) -> Inventory:
    """All up, but m1's mark differs."""
    mark = all_up(LAB).domains[0].mark
    assert mark is not None
    return with_domain(mark=replace(mark, **changes))


def with_network(**changes: object) -> Inventory:
    """All up, but the network differs."""
    there = all_up(LAB)
    return replace(there, networks=(replace(there.networks[0], **changes),))


def test_nothing_is_to_be_done_for_a_lab_that_is_up() -> None:
    assert not plan(all_up(LAB))


NEW_M1 = [
    "create node m1: linked clone of micro",
    "start node m1: new",
    "specialise m1: new",
    "apply roles m1: web-server",
    "join cluster m1: web",
]

ONE_NODE_DIFFERS: dict[str, tuple[Inventory, list[str]]] = {
    "its image, hardware or roles changed": (
        with_mark(digest="other"),
        ["remove node lab.m1: its image, hardware or roles have changed", *NEW_M1],
    ),
    "its identity changed": (
        with_mark(identity="other"),
        ["specialise m1: names or addresses have changed"],
    ),
    "its cluster files changed": (with_mark(cluster="other"), ["join cluster m1: web"]),
    "it never joined": (with_mark(cluster=""), ["join cluster m1: web"]),
    "it is paused": (with_domain(state=DomainState.PAUSED), ["resume node m1: it is paused"]),
    "it is shut off": (with_domain(state=DomainState.SHUT_OFF), ["start node m1: it is shut off"]),
    "it crashed": (with_domain(state=DomainState.CRASHED), ["restart node m1: it is crashed"]),
    "it was interrupted when defined": (
        with_mark(stage=Stage.DEFINED, identity="", cluster=""),
        ["specialise m1: new", "apply roles m1: web-server", "join cluster m1: web"],
    ),
    "it was interrupted when it had no NICs yet": (
        with_domain(state=DomainState.PAUSED, nics=(), mark=Mark("lab", "m1", MADE.machine)),
        ["remove node lab.m1: it was not made to its end", *NEW_M1],
    ),
    "it lost its NICs": (with_domain(nics=()), ["restart node m1: its NICs are not all there"]),
    "it was interrupted before it was first started": (
        with_domain(state=DomainState.SHUT_OFF, mark=Mark("lab", "m1", MADE.machine)),
        ["start node m1: it is shut off", *NEW_M1[2:]],
    ),
    "it was interrupted when specialised": (
        with_mark(stage=Stage.SPECIALISED, cluster=""),
        ["apply roles m1: web-server", "join cluster m1: web"],
    ),
    "it was interrupted when specialised, and then renumbered": (
        with_mark(stage=Stage.SPECIALISED, identity="other", cluster=""),
        ["specialise m1: names or addresses have changed", "apply roles m1: web-server", "join cluster m1: web"],
    ),
}


@pytest.mark.parametrize(("there", "expected"), ONE_NODE_DIFFERS.values(), ids=ONE_NODE_DIFFERS)
def test_one_node_that_differs_is_put_right_and_no_other_is_touched(there: Inventory, expected: list[str]) -> None:
    assert lines(there) == expected


def test_a_pulled_cable_is_plugged_in() -> None:
    nic = replace(all_up(LAB).domains[0].nics[0], link_up=False)
    assert lines(with_domain(nics=(nic,))) == ["connect NIC m1.eth0: its cable is pulled"]


def test_a_node_without_a_disk_is_made_anew() -> None:
    there = all_up(LAB)
    assert lines(replace(there, volumes=there.volumes[1:])) == ["remove node lab.m1: its disk is gone", *NEW_M1]


def test_a_disk_without_a_node_goes_before_the_node_is_made() -> None:
    there = all_up(LAB)
    left = replace(there, domains=there.domains[1:])
    assert lines(left) == ["remove volume lab.lab.m1.qcow2: no node uses it", *NEW_M1]


# -- networks ----------------------------------------------------------------------------------------------------------


def off(there: Inventory) -> Inventory:
    """The same with all nodes off."""
    return replace(there, domains=tuple(replace(d, state=DomainState.SHUT_OFF) for d in there.domains))


STARTS = [f"start node {name}: it is shut off" for name in ("m1", "m2", "c")]


def test_a_network_that_is_gone_is_made_before_its_nodes_start() -> None:
    assert lines(off(replace(all_up(LAB), networks=()))) == ["create network lan: not there yet", *STARTS]


def test_a_network_that_stopped_is_started_before_its_nodes() -> None:
    assert lines(off(with_network(active=False))) == ["start network lan: it is stopped", *STARTS]


@pytest.mark.parametrize("there", [replace(all_up(LAB), networks=()), with_network(active=False)], ids=["gone", "off"])
def test_nodes_that_ran_while_their_network_went_are_restarted(there: Inventory) -> None:
    # The kernel took their taps off the bridge; libvirt puts them on a new one only when a domain starts.
    restarts = [f"restart node {name}: its network had gone" for name in ("m1", "m2", "c")]
    assert lines(there)[1:] == restarts


def test_a_network_that_changed_is_made_anew_with_all_its_nodes() -> None:
    done = lines(with_network(mark=Mark("lab", "lan", "other")))
    assert done[:5] == [
        "remove node lab.m1: its network has changed",
        "remove node lab.m2: its network has changed",
        "remove node lab.c: its network has changed",
        "remove network lab.lan: its spec has changed",
        "create network lan: changed",
    ]
    assert [line for line in done[5:] if line.startswith("create")] == [
        f"create node {name}: linked clone of micro" for name in ("m1", "m2", "c")
    ]


# -- what the topology no longer names ---------------------------------------------------------------------------------


def test_a_node_that_the_topology_no_longer_names_goes() -> None:
    there = all_up(lab_spec(*LAB.nodes, node_spec("old", 7), clusters=LAB.clusters))
    assert lines(there) == ["remove node lab.old: not in the topology"]


def test_a_network_that_the_topology_no_longer_names_goes() -> None:
    there = all_up(LAB)
    old = NetworkInfo("lab.old", "", True, "br", Mark("lab", "old", "network"))
    assert lines(replace(there, networks=(*there.networks, old))) == ["remove network lab.old: not in the topology"]


@pytest.mark.parametrize("name", ["lab.lab.old.qcow2", "lab.lab.old.console.log", "lab.lab.old.console.log.0"])
def test_a_stray_volume_goes(name: str) -> None:
    there = all_up(LAB)
    stray = VolumeInfo(name, "", 1, 1)
    assert lines(replace(there, volumes=(*there.volumes, stray))) == [f"remove volume {name}: no node uses it"]


@pytest.mark.parametrize("name", [record_name("lab"), "lab.lab.m1.console.log", "lab.lab.m1.console.log.1"])
def test_what_the_lab_still_needs_stays(name: str) -> None:
    there = all_up(LAB)
    assert not plan(replace(there, volumes=(*there.volumes, VolumeInfo(name, "", 1, 1))))


# -- order and destroy -------------------------------------------------------------------------------------------------


def test_a_missing_parent_disk_is_built_first() -> None:
    done = str(plan(Inventory(), missing_images=("micro",))).splitlines()
    assert done[:2] == ["build image micro: no parent disk of this recipe yet", "create network lan: not there yet"]


def test_a_node_without_roles_says_so() -> None:
    assert "apply roles c: none" in lines(Inventory())


def test_the_actions_of_a_node_are_found_by_its_name() -> None:
    assert [str(a) for a in plan(Inventory()).of_node("m1")] == NEW_M1


def test_destroy_takes_nodes_then_volumes_then_networks() -> None:
    assert str(plan_destroy(all_up(LAB))).splitlines() == [
        "remove node lab.m1: destroy",
        "remove node lab.m2: destroy",
        "remove node lab.c: destroy",
        "remove volume lab.lab.m1.qcow2: destroy",
        "remove volume lab.lab.m2.qcow2: destroy",
        "remove volume lab.lab.c.qcow2: destroy",
        "remove network lab.lan: destroy",
    ]


def foreign() -> Inventory:
    """Somebody else's domain, network and volume, another lab's of the same node names, and a parent disk."""
    other = all_up(replace(LAB, name="other"))
    return Inventory(
        (DomainInfo("lab.m9", "", DomainState.RUNNING, None), *other.domains),
        (NetworkInfo("lab.default", "", True, "virbr0", None), *other.networks),
        (
            VolumeInfo("debian.qcow2", "", 1, 1),
            VolumeInfo("lab.qcow2", "", 1, 1),
            VolumeInfo("parent.debian-13.0123456789ab.qcow2", "", 1, 1),
            *other.volumes,
        ),
    )


PLANS: dict[str, Callable[[Inventory], Plan]] = {"up": plan, "destroy": plan_destroy}


@pytest.mark.parametrize("planned", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("own", [Inventory(), all_up(LAB)], ids=["beside nothing", "beside the lab"])
def test_what_the_lab_does_not_own_is_never_in_its_plan(own: Inventory, planned: Callable[[Inventory], Plan]) -> None:
    both = Inventory(
        (*foreign().domains, *own.domains), (*foreign().networks, *own.networks), (*foreign().volumes, *own.volumes)
    )
    assert planned(both.of("lab")) == planned(own)


def test_a_node_to_be_replaced_is_made_anew_and_the_others_are_left_alone() -> None:
    networks = {n.name: "network" for n in LAB.networks}
    todo = plan_up(LAB, all_up(LAB), nodes=digests(LAB), networks=networks, replace=["m1"])
    assert {a.node for a in todo.actions} == {"m1"}
    assert str(todo).startswith(f"remove node {LAB.name}.m1: to be replaced\ncreate node m1: ")
