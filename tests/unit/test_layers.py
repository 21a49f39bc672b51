"""Layers: where a lab differs from a saved one, only what differs is made anew, and what depends on that follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab_bench import Bench, Heard, all_up, digests, lab_spec, node_spec

from labctl.errors import HypervisorError, InputError, causes
from labctl.inventory import Inventory, Stage
from labctl.lab import Lab, destroy_lab
from labctl.plan import Plan, plan_up
from labctl.roles.role import wanted_secrets
from labctl.secrets import Secrets
from labctl.state.kept import MOST_LAYERS, states
from labctl.topology.spec import LabSpec
from labctl.vault import load_secrets, save_secrets

NODES = (
    node_spec("cas", 1, roles=("certificate",)),
    node_spec("dc", 2, roles=("certificate-authority",)),
    node_spec("web", 3, roles=("web-server",)),
)
SPEC = lab_spec(*NODES)


def lab(bench: Bench, spec: LabSpec = SPEC) -> Lab:
    """A lab in which one node's role waits for another's, and both have secrets."""
    return bench.lab(spec)


def with_more_memory(node: str) -> LabSpec:
    """The lab, in which one node is made from something else."""
    return replace(SPEC, nodes=tuple(replace(n, memory_mib=512) if n.name == node else n for n in NODES))


def applied(bench: Bench) -> dict[str, list[str]]:
    """The roles whose scripts ran, by node."""
    prefix = "/etc/labctl/roles/"
    ran = {
        node: [a[0].removeprefix(prefix) for a in g.ran if a[0].startswith(prefix)] for node, g in bench.guests.items()
    }
    return {node: roles for node, roles in ran.items() if roles}


@pytest.fixture
def bench() -> Bench:
    """A hypervisor that holds the saved state of the lab, and no lab."""
    bench = Bench()
    bench.parent()
    lab(bench).up()
    destroy_lab(bench.hypervisor, "lab")
    return bench


# -- the plan ----------------------------------------------------------------------------------------------------------


def plan(there: Inventory, *layered: str, provides: dict[str, list[str]], spec: LabSpec = SPEC) -> list[str]:
    """What is done to nodes, where all of a lab has layers but for nodes that are there."""
    marks = {d.mark.name: d.mark for d in all_up(spec).domains if d.mark and d.mark.name in layered}
    networks = {"lan": "network"}
    todo: Plan = plan_up(spec, there, nodes=digests(spec), networks=networks, layers=marks, providers=provides)
    return [str(a) for a in todo.actions]


def without(*nodes: str) -> Inventory:
    """All up, but for those nodes."""
    there = all_up(SPEC)
    return replace(
        there,
        domains=tuple(d for d in there.domains if not (d.mark and d.mark.name in nodes)),
        volumes=tuple(v for v in there.volumes if v.name.split(".")[2] not in nodes),
    )


def test_a_node_with_a_layer_is_made_from_it_and_started() -> None:
    expected = ["create node web: from its layer, with its roles applied", "start node web: new"]
    assert plan(without("web"), "web", provides={}) == expected


def test_roles_are_applied_again_where_what_they_depend_on_is_made_anew() -> None:
    todo = plan(without("dc"), provides={"cas": ["dc"]})
    assert todo[-1] != "apply roles cas: certificate, again: what they depend on is made anew"
    assert "apply roles cas: certificate, again: what they depend on is made anew" in todo
    assert not [line for line in todo if " web" in line]


def test_layers_fit_each_other_and_need_nothing() -> None:
    assert not [a for a in plan(without("cas", "dc"), "cas", "dc", provides={"cas": ["dc"]}) if "apply" in a]


@pytest.mark.parametrize("layered", ["cas", "dc"])
def test_a_layer_is_not_trusted_to_fit_what_is_there(layered: str) -> None:
    todo = plan(without(layered), layered, provides={"cas": ["dc"]})
    assert [a for a in todo if "apply" in a] == [
        "apply roles cas: certificate, again: what they depend on is made anew"
    ]


def test_what_is_applied_again_is_passed_on() -> None:
    todo = plan(without("dc"), provides={"cas": ["dc"], "web": ["cas"]})
    assert [a.split(":")[0] for a in todo if "again" in a] == ["apply roles cas", "apply roles web"]


def test_nodes_that_depend_on_each_other_end_the_search() -> None:
    assert not plan(all_up(SPEC), provides={"cas": ["web"], "web": ["cas"]})


# -- labs --------------------------------------------------------------------------------------------------------------


def test_only_the_node_that_differs_is_made_anew(bench: Bench) -> None:
    changed = lab(bench, with_more_memory("web"))
    done = changed.up()
    assert applied(bench) == {"web": ["web-server"]}
    assert "create node cas: from its layer, with its roles applied" in str(done)
    assert not changed.plan()
    assert {s.state for s in changed.status()} == {"ready"}


def test_what_depends_on_the_node_that_differs_is_brought_in_line(bench: Bench) -> None:
    lab(bench, with_more_memory("dc")).up()
    assert applied(bench) == {"dc": ["certificate-authority"], "cas": ["certificate"]}


def test_a_lab_of_another_name_begins_with_the_same_layers_and_an_identity_of_its_own(bench: Bench) -> None:
    lab(bench, replace(with_more_memory("web"), name="other")).up()
    assert applied(bench) == {"web": ["web-server"]}
    assert ["/etc/labctl/specialise"] in bench.guests["cas"].ran


def test_the_lab_that_came_from_layers_is_saved_and_the_older_state_goes_with_it(bench: Bench) -> None:
    lab(bench, with_more_memory("web")).up()
    assert len(states(bench.hypervisor)) == 1
    destroy_lab(bench.hypervisor, "lab")
    again = lab(bench, with_more_memory("web"))
    assert {str(a.verb) for a in again.up().actions} == {"create network", "restore node"}


@pytest.mark.parametrize("how", [{"fresh": True}, {"boot": True}], ids=str)
def test_no_layer_is_used_when_told_so(bench: Bench, how: dict[str, bool]) -> None:
    lab(bench).up(**how)
    assert set(applied(bench)) == {"cas", "dc", "web"}


def test_a_replaced_node_is_made_from_nothing_and_what_depends_on_it_follows(bench: Bench) -> None:
    lab(bench).up()
    again = lab(bench)
    again.up(replace=["dc"])
    assert applied(bench) == {"dc": ["certificate-authority"], "cas": ["certificate"]}


def test_ram_that_cannot_be_restored_is_thrown_away_and_the_disks_are_booted(bench: Bench) -> None:
    heard, again = Heard(), lab(bench)
    bench.hypervisor.fail_on["restore_domain"] = HypervisorError("save image: cut short")
    again.up(heard, keep=False)
    assert any("its RAM is thrown away: " in line and "cut short" in line for line in heard.lines)
    assert "web: its RAM was saved under conditions that are gone, so it is booted from its layer" in heard.lines
    assert applied(bench) == {}
    assert not [v.name for v in bench.hypervisor.volumes() if v.name.startswith("state.") and v.name.endswith(".ram")]


def test_ram_of_another_qemu_is_not_tried_and_the_disks_are_booted(bench: Bench) -> None:
    heard, again = Heard(), lab(bench)
    bench.hypervisor.facts = replace(bench.hypervisor.facts, hypervisor_version=(99, 0, 0))
    bench.hypervisor.fail_on["restore_domain"] = HypervisorError("must not be tried")
    again.up(heard, keep=False)
    assert any("its RAM was saved under QEMU 10" in line for line in heard.lines), heard.lines
    assert applied(bench) == {}


def test_a_disk_whose_parent_is_gone_is_no_layer(bench: Bench) -> None:
    machine = next(v.name for v in bench.hypervisor.volumes() if v.name.startswith("machine.") and "qcow2" in v.name)
    bench.hypervisor.remove_volume(machine)
    lab(bench).up()
    assert set(applied(bench)) == {"cas", "dc", "web"}


def test_disks_do_not_pile_up_without_end(bench: Bench) -> None:
    made = []
    for size in range(MOST_LAYERS):
        web = replace(NODES[2], memory_mib=600 + size)
        lab(bench, replace(SPEC, nodes=(*NODES[:2], web))).up()
        made.append(set(applied(bench)))
        destroy_lab(bench.hypervisor, "lab")
    assert {"web"} in made
    assert {"cas", "dc", "web"} in made


# -- death in between --------------------------------------------------------------------------------------------------


def test_a_crash_before_roles_were_applied_again_does_not_make_it_forgotten(bench: Bench) -> None:
    lab(bench).up()
    again = lab(bench)
    bench.guests["dc"].says("/etc/labctl/roles/certificate-authority", exit_code=1)
    with pytest.raises(Exception, match="certificate-authority"):
        again.up(replace=["dc"])
    cas = bench.hypervisor.domain("lab.cas")
    assert cas is not None
    assert cas.mark is not None
    assert cas.mark.stage is Stage.SPECIALISED
    assert "apply roles cas" in str(lab(bench).plan())


# -- snapshots ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(bench: Bench) -> Lab:
    """The lab with a snapshot `mine`."""
    made = lab(bench)
    made.up()
    made.save_snapshot("mine")
    return made


def volume_of_snapshot(bench: Bench, end: str) -> str:
    key = next(m.key for m in states(bench.hypervisor) if m.name == "mine")
    return f"state.{key}.{end}"


def other_qemu(bench: Bench) -> None:
    bench.hypervisor.facts = replace(bench.hypervisor.facts, hypervisor_version=(99, 0, 0))


def machine_gone(bench: Bench) -> None:
    machine = next(v.name for v in bench.hypervisor.volumes() if v.name.startswith("machine.") and "qcow2" in v.name)
    bench.hypervisor.remove_volume(machine)


REFUSED = {
    "saved under QEMU 10": other_qemu,
    "machine.*, on which the disk of cas stands, is gone": machine_gone,
    "the RAM of web is gone": lambda b: b.hypervisor.remove_volume(volume_of_snapshot(b, "web.ram")),
    "the disk of web is gone": lambda b: b.hypervisor.remove_volume(volume_of_snapshot(b, "web.qcow2")),
    "of a kind unknown to us": lambda b: b.hypervisor.write_volume(volume_of_snapshot(b, "web.ram"), 0, b"x" * 16),
}


@pytest.mark.parametrize(("why", "spoil"), REFUSED.items(), ids=REFUSED)
def test_a_snapshot_that_cannot_be_restored_is_refused_before_anything_is_touched(
    bench: Bench, saved: Lab, why: str, spoil: object
) -> None:
    spoil(bench)  # type: ignore[operator]
    before = (bench.hypervisor.domains(), bench.hypervisor.volumes())
    with pytest.raises(InputError, match=f"snapshot mine.*{why}"):
        saved.restore_snapshot("mine")
    assert (bench.hypervisor.domains(), bench.hypervisor.volumes()) == before


def test_a_snapshot_of_another_topology_is_refused(bench: Bench, saved: Lab) -> None:
    with pytest.raises(InputError, match="snapshot mine was made from another topology"):
        lab(bench, with_more_memory("web")).restore_snapshot("mine")


def test_a_snapshot_that_is_not_there_is_refused(saved: Lab) -> None:
    with pytest.raises(InputError, match="lab lab has no snapshot yours"):
        saved.restore_snapshot("yours")


def test_a_save_that_fails_leaves_the_older_snapshot_of_that_name(bench: Bench, saved: Lab) -> None:
    bench.hypervisor.fail_on["save_domain"] = HypervisorError("no space left")
    with pytest.raises(ExceptionGroup) as failed:
        saved.save_snapshot("mine")
    assert "no space left" in causes(failed.value)
    assert [m.name for m in states(bench.hypervisor)].count("mine") == 1
    saved.restore_snapshot("mine")


def test_a_save_replaces_the_snapshot_of_that_name(bench: Bench, saved: Lab) -> None:
    before = volume_of_snapshot(bench, "")
    saved.restore_snapshot("mine")
    saved.save_snapshot("mine")
    assert volume_of_snapshot(bench, "") != before
    assert [m.name for m in states(bench.hypervisor)].count("mine") == 1


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_lab_that_begins_with_layers_takes_over_the_secrets_that_are_on_them(bench: Bench) -> None:
    saved = states(bench.hypervisor)[0].secrets
    assert saved.root_certificates
    lab(bench, with_more_memory("web")).up()
    assert load_secrets(bench.hypervisor, "lab") == saved


def test_a_lab_that_has_other_secrets_takes_no_layers(bench: Bench) -> None:
    wanted = wanted_secrets(SPEC)
    save_secrets(bench.hypervisor, "lab", Secrets().completed(wanted, (), "lab.test"))
    other = lab(bench, with_more_memory("web"))
    assert not [a for a in other.plan().actions if "from its layer" in a.detail]
