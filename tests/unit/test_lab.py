"""A lab from the top, on the fake hypervisor: up, found again, looked at, and gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab_bench import Bench, Heard, cluster_spec, lab_spec, micro, node_spec, pair
from scripted_guest import ManualClock

from labctl import images
from labctl.errors import AgentGone, DeadlineExceeded, GuestError, HypervisorError, InputError
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import Mark, Stage
from labctl.lab import Lab, console_tail, default_lab, destroy_lab, inventory
from labctl.record import load_record
from labctl.render.names import record_name
from labctl.render.xml import base_xml
from labctl.secrets import Secrets
from labctl.topology.spec import Accelerator
from labctl.vault import load_secrets

TOPOLOGY = """\
lab: small
domain: small.test
image: micro
networks:
  lan: {subnet: 10.9.0.0/24}
nodes:
  m1: {nics: {eth0: {network: lan, address: 10.9.0.1}}}
  m2: {nics: {eth0: {network: lan, address: 10.9.0.2}}}
"""


@pytest.fixture
def bench() -> Bench:
    """A hypervisor with the parent disk of `micro`."""
    bench = Bench()
    bench.parent()
    return bench


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TOPOLOGY)
    return path


@pytest.fixture
def small(bench: Bench, topology: Path) -> Lab:
    """The lab of that file; nothing of it is there yet."""
    lab = Lab.from_topology(topology, hypervisor=bench.hypervisor, accelerator=Accelerator.TCG)
    bench.guests_of(lab.spec)
    return lab


# -- up ----------------------------------------------------------------------------------------------------------------


def test_up_brings_a_lab_up_from_nothing_and_then_has_nothing_to_do(bench: Bench) -> None:
    lab, again = bench.lab(pair()), Heard()
    assert len(lab.up(boot=True, keep=False).of_node("m1")) == 5
    assert {status.state for status in lab.status()} == {"ready"}
    assert not lab.plan()
    assert not lab.up(again, boot=True)
    assert again.lines == []


def test_up_ends_only_when_the_cluster_has_converged(bench: Bench) -> None:
    lab = bench.lab(pair())
    lab.clock = ManualClock()
    bench.guests["m1"].sees(1)
    with pytest.raises(DeadlineExceeded, match=r"cluster web: .* last seen: m1 sees \[1\]; m2 sees \[1, 2\]"):
        lab.up(boot=True, keep=False)


def test_a_plan_changes_nothing(bench: Bench) -> None:
    lab = bench.lab(pair())
    before = inventory(bench.hypervisor)
    assert lab.plan()
    assert inventory(bench.hypervisor) == before


def test_a_missing_parent_is_planned_once_for_all_the_images_on_its_disk() -> None:
    lab = Bench().lab(lab_spec(node_spec("m1", 1), node_spec("m2", 2, image="debian-13")))
    builds = [str(a) for a in lab.plan().actions if a.verb == "build image"]
    assert len(builds) == 1


def test_up_says_that_it_waits_for_another_labctl(bench: Bench, holder: subprocess.Popen[str]) -> None:
    lab, heard = bench.lab(lab_spec(node_spec("m1", 1))), Heard()
    noted = heard.note

    def note(text: str) -> None:
        noted(text)
        holder.kill()

    heard.note = note  # type: ignore[method-assign]
    lab.up(heard, boot=True)
    assert heard.lines[0] == "another labctl works on lab lab: waiting for it"


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that works on the lab `lab`."""
    script = (
        "import sys\nfrom labctl.store import locked\n"
        "with locked('lab-lab', lambda: None):\n    print(1, flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


# -- forks -------------------------------------------------------------------------------------------------------------


def test_new_nodes_are_forks_of_one_machine_that_is_booted_once(bench: Bench) -> None:
    lab, heard = bench.lab(pair()), Heard()
    lab.up(heard)
    assert [line for line in heard.lines if "booting" in line] == [
        "booting micro with 256 MiB once; nodes are forks of it"
    ]
    assert {status.state for status in lab.status()} == {"ready"}
    assert not lab.plan()
    backing = {v.backing_path for v in bench.hypervisor.volumes() if v.lab and v.name.endswith(".qcow2")}
    assert len(backing) == 1
    assert "/machine." in backing.pop()


def test_a_second_lab_is_forked_from_the_machine_that_is_there(bench: Bench) -> None:
    bench.lab(pair()).up()
    heard = Heard()
    bench.lab(replace(pair(), name="other")).up(heard)
    assert not [line for line in heard.lines if "boot" in line]


@pytest.mark.parametrize("method", ["save_domain", "restore_domain", "copy_volume", "attach_nic"])
def test_nodes_that_cannot_be_forked_are_booted_with_a_word_why(bench: Bench, method: str) -> None:
    bench.hypervisor.fail_on[method] = HypervisorError(f"{method}: not here")
    lab, heard = bench.lab(pair()), Heard()
    lab.up(heard)
    assert {status.state for status in lab.status()} == {"ready"}
    assert any("so it is booted" in line and f"{method}: not here" in line for line in heard.lines)


def test_destroy_takes_no_machine_that_others_are_forked_from(bench: Bench) -> None:
    lab = bench.lab(pair())
    lab.up()
    lab.destroy()
    assert inventory(bench.hypervisor).labs == ()
    assert [v.name for v in bench.hypervisor.volumes() if v.name.startswith("machine.")]
    assert images.find(bench.hypervisor, micro()) is not None


# -- the ready state ---------------------------------------------------------------------------------------------------


def authority_and_member(bench: Bench, name: str = "lab") -> Lab:
    """A lab in which one node's role waits for another's, and both have secrets."""
    nodes = (node_spec("cas", 1, roles=("certificate",)), node_spec("dc", 2, roles=("certificate-authority",)))
    return bench.lab(lab_spec(*nodes, name=name))


def roles_applied(bench: Bench) -> int:
    """How many scripts of roles have run in all guests."""
    return sum(argv[0].startswith("/etc/labctl/roles/") for guest in bench.guests.values() for argv in guest.ran)


def test_a_lab_that_was_made_once_is_restored_and_not_made_again(bench: Bench) -> None:
    authority_and_member(bench).up()
    destroy_lab(bench.hypervisor, "lab")
    lab = authority_and_member(bench)
    assert {str(a.verb) for a in lab.up().actions} == {"create network", "restore node"}
    assert roles_applied(bench) == 0
    assert {status.state for status in lab.status()} == {"ready"}
    assert not lab.plan()


def test_a_lab_of_another_name_stands_on_the_same_state_with_an_identity_of_its_own(bench: Bench) -> None:
    authority_and_member(bench).up()
    other = authority_and_member(bench, "other")
    other.up()
    assert roles_applied(bench) == 0
    assert ["/etc/labctl/specialise"] in bench.guests["cas"].ran
    assert not other.plan()


def test_a_lab_that_is_restored_takes_over_the_secrets_that_are_in_its_nodes(bench: Bench) -> None:
    authority_and_member(bench).up()
    made = load_secrets(bench.hypervisor, "lab")
    assert made.root_certificates
    authority_and_member(bench, "other").up()
    assert load_secrets(bench.hypervisor, "other") == made


def test_a_lab_that_is_made_again_has_other_secrets(bench: Bench) -> None:
    authority_and_member(bench).up()
    made = load_secrets(bench.hypervisor, "lab")
    destroy_lab(bench.hypervisor, "lab")
    assert load_secrets(bench.hypervisor, "lab") == Secrets()
    authority_and_member(bench).up(fresh=True)
    assert load_secrets(bench.hypervisor, "lab").roles.keys() == made.roles.keys()
    assert load_secrets(bench.hypervisor, "lab") != made


def test_a_node_that_is_made_anew_gets_the_secrets_that_the_lab_has(bench: Bench) -> None:
    lab = authority_and_member(bench)
    lab.up()
    key = load_secrets(bench.hypervisor, "lab").roles["certificate-authority"]["ca_key"].encode()
    bench.guests["dc"].files.clear()
    lab.up(replace=["dc"])
    assert bench.guests["dc"].files["/etc/labctl/ca/issuing-key.pem"] == key


@pytest.mark.parametrize("how", [{"fresh": True}, {"boot": True}], ids=str)
def test_a_lab_is_made_again_when_told_so(bench: Bench, how: dict[str, bool]) -> None:
    authority_and_member(bench).up()
    destroy_lab(bench.hypervisor, "lab")
    authority_and_member(bench).up(**how)
    assert roles_applied(bench) == 2


def test_a_state_that_cannot_be_restored_is_thrown_away_with_a_word_and_the_lab_is_made(bench: Bench) -> None:
    authority_and_member(bench).up()
    destroy_lab(bench.hypervisor, "lab")
    lab, heard = authority_and_member(bench), Heard()
    bench.hypervisor.fail_on["restore_domain"] = HypervisorError("save image: of another QEMU")
    lab.up(heard)
    assert any("thrown away: " in line and "of another QEMU" in line for line in heard.lines)
    assert {status.state for status in lab.status()} == {"ready"}


def test_another_topology_is_not_restored_from_this_ones_state(bench: Bench) -> None:
    authority_and_member(bench).up()
    destroy_lab(bench.hypervisor, "lab")
    assert "restore node" not in {a.verb for a in bench.lab(pair()).plan().actions}


def test_a_state_that_could_not_be_saved_fails_nothing(bench: Bench) -> None:
    lab, heard = bench.lab(pair()), Heard()
    bench.hypervisor.fail_on["save_domain"] = HypervisorError("no space left")
    lab.up(heard)
    assert any("could not be saved" in line and "no space left" in line for line in heard.lines)
    assert {status.state for status in lab.status()} == {"ready"}


@pytest.mark.parametrize("state", ["shut off", "paused", "crashed", "preparing"])
def test_reset_puts_every_node_back_into_the_ready_state(bench: Bench, state: str) -> None:
    lab = bench.lab(pair())
    lab.up()
    spoil(bench.hypervisor, state)
    lab.reset()
    assert {status.state for status in lab.status()} == {"ready"}
    assert not lab.plan()


def test_reset_needs_a_saved_state(bench: Bench) -> None:
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    with pytest.raises(InputError, match="lab lab has no saved ready state") as refused:
        lab.reset()
    assert refused.value.hint


STALE = {
    "more memory": lambda lab: replace(lab, nodes=(replace(lab.nodes[0], memory_mib=512), *lab.nodes[1:])),
    "another role": lambda lab: replace(lab, nodes=(replace(lab.nodes[0], roles=("client",)), *lab.nodes[1:])),
    "another accelerator": lambda lab: replace(lab, accelerator=Accelerator.KVM),
    "a cluster of its own": lambda lab: replace(lab, clusters=(cluster_spec("m1"),)),
    "another name for the cluster": lambda lab: replace(lab, clusters=(replace(lab.clusters[0], fqdn="x.lab.test"),)),
    "another heartbeat": lambda lab: replace(
        lab, clusters=(replace(lab.clusters[0], heartbeat=replace(lab.clusters[0].heartbeat, tolerance=9)),)
    ),
    "one more node": lambda lab: replace(lab, nodes=(*lab.nodes, node_spec("d", 10))),
}


@pytest.mark.parametrize("change", STALE.values(), ids=STALE)
def test_a_topology_that_changed_is_brought_about(bench: Bench, change: object) -> None:
    bench.lab(pair()).up(boot=True, keep=False)
    changed = bench.lab(change(pair()))  # type: ignore[operator]
    assert changed.plan()
    changed.up(boot=True, keep=False)
    assert not changed.plan()


def test_another_heartbeat_makes_no_node_anew(bench: Bench) -> None:
    bench.lab(pair()).up(boot=True, keep=False)
    changed = bench.lab(STALE["another heartbeat"](pair()))
    assert {a.verb for a in changed.plan().actions} == {"join cluster"}


# -- found again -------------------------------------------------------------------------------------------------------


def test_a_lab_is_found_by_its_name_as_it_was_brought_up(bench: Bench, small: Lab) -> None:
    small.up(boot=True, keep=False)
    found = Lab.existing(bench.hypervisor, "small")
    assert found.spec == small.spec
    assert not found.plan()


def test_a_lab_is_found_after_its_file_is_gone(bench: Bench, small: Lab, topology: Path) -> None:
    small.up(boot=True, keep=False)
    topology.unlink()
    assert Lab.existing(bench.hypervisor).spec == small.spec


def test_a_lab_has_another_name_when_told_so(bench: Bench, topology: Path) -> None:
    lab = Lab.from_topology(topology, hypervisor=bench.hypervisor, name="mine", accelerator=Accelerator.TCG)
    bench.guests_of(lab.spec)
    lab.up(boot=True, keep=False)
    assert Lab.existing(bench.hypervisor).name == "mine"
    assert {d.name for d in bench.hypervisor.domains()} == {"mine.m1", "mine.m2"}


def test_where_no_lab_is_there_is_none_to_be_found(bench: Bench) -> None:
    with pytest.raises(InputError, match="there is no lab") as refused:
        Lab.existing(bench.hypervisor)
    assert refused.value.hint == "labctl up brings one up"


def test_a_lab_that_is_not_there_is_refused_with_those_that_are(bench: Bench, small: Lab) -> None:
    small.up(boot=True, keep=False)
    with pytest.raises(InputError, match="there is no lab other") as refused:
        Lab.existing(bench.hypervisor, "other")
    assert refused.value.hint.endswith("small")


def test_a_lab_that_lost_its_record_can_still_be_destroyed(bench: Bench, small: Lab) -> None:
    small.up(boot=True, keep=False)
    bench.hypervisor.remove_volume(record_name("small"))
    with pytest.raises(InputError, match="there is no lab small that could be used"):
        Lab.existing(bench.hypervisor)
    destroy_lab(bench.hypervisor, "small")
    assert inventory(bench.hypervisor).labs == ()


@pytest.mark.parametrize(
    ("labs", "meant"), [(["a"], "a"), (["a", "exchange2007"], "exchange2007"), (["exchange2007"], "exchange2007")]
)
def test_the_lab_that_is_meant_is_the_default_one_or_the_only_one(labs: list[str], meant: str) -> None:
    assert default_lab(labs) == meant


def test_of_several_labs_one_has_to_be_named() -> None:
    with pytest.raises(InputError, match="which lab\\? There are a, b") as refused:
        default_lab(["a", "b"])
    assert refused.value.hint == "add --lab a"


def test_a_topology_with_problems_touches_nothing(bench: Bench, topology: Path) -> None:
    topology.write_text(TOPOLOGY.replace("10.9.0.2", "10.9.0.300"))
    before = inventory(bench.hypervisor)
    with pytest.raises(InputError):
        Lab.from_topology(topology, hypervisor=bench.hypervisor, accelerator=Accelerator.TCG)
    assert inventory(bench.hypervisor) == before


# -- looked at ---------------------------------------------------------------------------------------------------------


def spoil(hypervisor: FakeHypervisor, how: str) -> None:
    """Bring lab.m1 into a state that has a word."""
    match how:
        case "missing":
            hypervisor.remove_domain("lab.m1")
        case "shut off":
            hypervisor.power_off("lab.m1")
        case "paused":
            hypervisor.suspend("lab.m1")
        case "crashed":
            hypervisor.crash("lab.m1")
        case "hung":
            del hypervisor.agents["lab.m1"]
        case "preparing":
            hypervisor.mark_domain("lab.m1", Mark("lab", "m1", "x", Stage.SPECIALISED))


@pytest.mark.parametrize("state", ["missing", "shut off", "paused", "crashed", "hung", "preparing", "ready"])
def test_a_node_has_one_word_for_how_it_is(bench: Bench, state: str) -> None:
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    spoil(bench.hypervisor, state)
    assert [status.state for status in lab.status()] == [state, "ready", "ready"]


def test_a_cluster_is_looked_at_by_its_name_or_as_the_only_one(bench: Bench) -> None:
    lab = bench.lab(pair())
    assert lab.cluster() == lab.cluster("web") == lab.spec.clusters[0]
    with pytest.raises(InputError, match="which cluster\\? mail") as refused:
        lab.cluster("mail")
    assert refused.value.hint == "its clusters: web"


def test_a_guest_that_is_not_in_the_lab_is_refused_with_those_that_are(bench: Bench) -> None:
    with pytest.raises(InputError, match="lab lab has no node m9") as refused:
        bench.lab(pair()).guest("m9")
    assert refused.value.hint == "its nodes: m1, m2, c"


# -- evidence ----------------------------------------------------------------------------------------------------------

LOG = "lab.lab.m1.console.log"


def test_the_end_of_a_console_is_kept(bench: Bench) -> None:
    bench.hypervisor.add_file(LOG, b"first\n" + b"x" * 100 + b"\nlast \xff\n")
    assert console_tail(bench.hypervisor, "lab", "m1", size_bytes=8) == "\nlast �\n"
    assert console_tail(bench.hypervisor, "lab", "m1").startswith("first\n")


def test_a_console_of_which_nothing_was_kept_has_no_end(bench: Bench) -> None:
    assert console_tail(bench.hypervisor, "lab", "m1") == ""
    bench.hypervisor.add_file(LOG, b"")
    assert console_tail(bench.hypervisor, "lab", "m1") == ""


def test_a_guest_that_is_gone_shows_the_last_lines_of_its_console(bench: Bench) -> None:
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    bench.hypervisor.add_file(LOG, b"".join(b"line %d\r\n\n" % n for n in range(20)))
    spoil(bench.hypervisor, "hung")
    with pytest.raises(AgentGone) as gone:
        lab.guest("m1").succeed(["/bin/true"])
    assert str(gone.value).splitlines()[1:] == [
        "last lines of m1's console:",
        *(f"  | line {n}" for n in range(8, 20)),
    ]


def test_evidence_that_cannot_be_had_does_not_hide_the_failure(bench: Bench) -> None:
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    spoil(bench.hypervisor, "hung")
    bench.hypervisor.fail_on["volume"] = HypervisorError("pool labctl: gone")
    with pytest.raises(AgentGone, match=r"m1: .*not connected\n.*could not be read: pool labctl: gone"):
        lab.guest("m1").succeed(["/bin/true"])


# -- gone --------------------------------------------------------------------------------------------------------------


def test_destroy_leaves_nothing_of_the_lab_and_all_of_everybody_elses(bench: Bench) -> None:
    bench.lab(pair()).up(boot=True, keep=False)
    bench.lab(replace(pair(), name="other")).up(boot=True, keep=False)
    bench.hypervisor.add_file(f"{LOG}.0", b"turned over")
    destroy_lab(bench.hypervisor, "lab")
    left = inventory(bench.hypervisor)
    assert left.labs == ("other",)
    assert len(left.domains) == 3
    assert images.find(bench.hypervisor, micro()) is not None
    assert load_record(bench.hypervisor, "other") is not None


@pytest.mark.parametrize("state", ["missing", "shut off", "paused", "crashed", "hung", "preparing"])
def test_destroy_works_whatever_state_the_lab_is_in(bench: Bench, state: str) -> None:
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    spoil(bench.hypervisor, state)
    assert lab.destroy()
    assert inventory(bench.hypervisor).labs == ()


def test_destroying_what_is_not_there_does_nothing(bench: Bench) -> None:
    before = inventory(bench.hypervisor)
    assert not destroy_lab(bench.hypervisor, "no-such")
    assert not destroy_lab(bench.hypervisor, "../no/name")
    assert inventory(bench.hypervisor) == before


def test_destroy_tries_everything_and_tells_all_that_failed(bench: Bench) -> None:
    lab, heard = bench.lab(pair()), Heard()
    lab.up(boot=True, keep=False)
    bench.hypervisor.fail_on["remove_domain"] = HypervisorError("busy")
    with pytest.raises(ExceptionGroup, match="lab lab could not be removed whole") as group:
        lab.destroy(heard)
    assert len(group.value.exceptions) == 3
    assert bench.hypervisor.networks() == ()
    assert "done remove node lab.m1" not in heard.lines
    bench.hypervisor.fail_on.clear()
    lab.destroy()
    assert inventory(bench.hypervisor).labs == ()


def test_a_lab_that_was_cut_short_anywhere_can_be_destroyed(bench: Bench) -> None:
    lab = bench.lab(pair())
    bench.guests["m1"].fail["guest-exec"] = GuestError("gone")
    with pytest.raises(GuestError):
        lab.up(boot=True, keep=False)
    lab.destroy()
    assert inventory(bench.hypervisor).labs == ()


@pytest.mark.parametrize("name", ["lab.lab.m1.qcow2", record_name("lab")])
def test_a_single_left_over_volume_is_a_lab_that_can_be_destroyed(bench: Bench, name: str) -> None:
    bench.hypervisor.create_volume(base_xml(name, 1, "raw"))
    assert len(destroy_lab(bench.hypervisor, "lab").actions) == 1
    assert inventory(bench.hypervisor).labs == ()
