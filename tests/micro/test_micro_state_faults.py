"""What goes wrong while the state of a lab is saved or restored, and what is wrong with a saved state."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import IMPORTS_S, CommandLine, Said

import labctl as package
from labctl.errors import InputError, LabError, causes
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import Inventory
from labctl.lab import Lab, inventory
from labctl.plan import Verb
from labctl.ready import find_ready
from labctl.saveimage import HEADER_BYTES
from labctl.state.kept import Manifest, State, discard_state, state_users, states, sweep, write_manifest
from labctl.state.save import Inside, save_state
from labctl.store import shipped
from topologies import two_nodes

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(900)]

NAME = "test-faults"
SEED = 20101004
KILLS = 8


@pytest.fixture(scope="module")
def kept(micro) -> Iterator[None]:
    """What is kept of the lab from one test to the next, so that it is not provisioned for each; gone afterwards."""
    yield
    discard(micro.hypervisor, lambda _manifest: True)


@pytest.fixture
def own(micro, kept, tmp_path) -> Iterator[Lab]:
    """A lab of two nodes, a member and another one, with its ready state; that alone is left for the next test."""
    topology = two_nodes(tmp_path / "two.yaml", NAME)
    topology.write_text(topology.read_text().replace("m1: {", "m1: {roles: [web-server], "))
    lab = Lab.from_topology(topology, hypervisor=micro.hypervisor)
    try:
        lab.up()
        yield lab
    finally:
        lab.destroy()
        discard(lab.hypervisor, lambda manifest: bool(manifest.name))
    assert inventory(lab.hypervisor).of(NAME) == Inventory()


def discard(hypervisor: Hypervisor, which: Callable[[Manifest], bool]) -> None:
    """Of the states of the lab, those that are not to be there for the next test."""
    for manifest in states(hypervisor):
        if manifest.lab == NAME and which(manifest):
            discard_state(hypervisor, manifest.key)
    sweep(hypervisor, now_s=time.time(), lab=NAME)


def ready_state(lab: Lab) -> State:
    state = find_ready(lab.blueprint.workshop(lab.hypervisor.ensure_pool(), Said()))
    assert state is not None
    return state


def assert_ready(lab: Lab) -> None:
    assert not lab.plan()
    assert {s.state for s in lab.status()} == {"ready"}
    assert lab.look(lab.cluster()).converged
    assert [lab.guest(n.name).shell("hostname") for n in lab.spec.nodes] == [n.name for n in lab.spec.nodes]


def kept_of(lab: Lab) -> set[str]:
    """The keys of all that lies in the pool of this lab's snapshots, whole or not."""
    return {v.name.split(".")[1] for v in lab.hypervisor.volumes() if v.name.startswith(f"state.snap_{NAME}_")}


# -- what dies in between ----------------------------------------------------------------------------------------------


def test_labctl_may_be_killed_at_any_point_of_save_and_restore(own):
    run, chance = CommandLine(own.hypervisor.uri, NAME), random.Random(SEED)
    took_s = {}
    for verb in ("save", "restore"):
        began_s = time.monotonic()
        assert run("snapshot", verb, "mine").returncode == 0
        took_s[verb] = time.monotonic() - began_s
    print(f"seed {SEED}; {took_s}")
    for verb in itertools.islice(itertools.cycle(took_s), KILLS):
        moment_s = IMPORTS_S + chance.uniform(0, took_s[verb])
        said = run.killed_after(moment_s, "snapshot", verb, "mine")
        print(f"killed `snapshot {verb}` after {moment_s:.2f} s, it said:\n{said}")
        print(own.up(keep=False))
        assert_ready(own)
        sweep(own.hypervisor, now_s=time.time(), lab=NAME)
        assert [m.name for m in states(own.hypervisor) if m.lab == NAME].count("mine") == 1
    own.restore_snapshot("mine")
    assert_ready(own)
    # Of what was replaced or cut short only disks are left, and those only while something stands on them.
    volumes = own.hypervisor.volumes()
    for key in kept_of(own) - {m.key for m in states(own.hypervisor)}:
        assert state_users(volumes, key)
        assert {v.name.rsplit(".", 1)[1] for v in volumes if v.name.startswith(f"state.{key}.")} == {"qcow2"}


@contextmanager
def tiny_file_system(pool: str, mib: int) -> Iterator[str]:
    """A directory with that much room, and no more, where QEMU may write."""
    place = Path(pool, "tiny")
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", place], check=True)
        yield str(place)
    finally:
        # Lazily: the QEMU whose save failed still holds the file that it wrote to.
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def test_a_full_disk_fails_the_save_loudly_and_the_lab_runs_on(own):
    manifest = replace(ready_state(own).manifest, key=f"snap_{NAME}_full-1", name="full", saved_at=time.time())
    own.guest("other").shell("echo kept > /root/mark; echo $$ > /run/mark")
    nothing = Inside(lambda _node: None, lambda _node: None)
    with (
        tiny_file_system(own.hypervisor.ensure_pool(), 40) as full,
        pytest.raises((LabError, ExceptionGroup)) as failed,
    ):
        save_state(own.hypervisor, manifest, full, nothing)
    assert "No space left on device" in causes(failed.value)
    assert_ready(own)
    assert own.guest("other").shell("cat /root/mark /run/mark").startswith("kept\n")  # it was not booted anew
    assert not [v.name for v in own.hypervisor.volumes() if manifest.key in v.name]
    assert "full" not in [m.name for m in states(own.hypervisor)]


def restart_libvirtd() -> None:
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "libvirtd"], check=True)
        return
    pid = int(Path("/run/libvirtd.pid").read_text())
    os.kill(pid, 15)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").is_dir() and Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd":
        assert time.monotonic() < deadline, "libvirtd does not end"
        time.sleep(0.05)
    subprocess.run([Path(__file__).parents[2] / "bootstrap", "true"], check=True)


@pytest.mark.parametrize("verb", ["save", "restore"])
def test_libvirtd_may_be_restarted_in_between(own, verb):
    run = CommandLine(own.hypervisor.uri, NAME)
    assert run("snapshot", "save", "mine").returncode == 0
    process = run.start("snapshot", verb, "mine")
    time.sleep(1.5)  # in the middle of it: both take longer
    restart_libvirtd()
    said, _ = process.communicate(timeout=200)
    print(f"exit code {process.returncode}: {said.decode()}")
    print(own.up(keep=False))
    assert_ready(own)
    own.restore_snapshot("mine")
    assert_ready(own)


# -- what is wrong with a saved state ----------------------------------------------------------------------------------


def cut_short(lab: Lab, state: State) -> None:
    ram = state.machines["m1"].ram
    os.truncate(ram.path, HEADER_BYTES + state.machines["m1"].header.room_bytes + (1 << 20))


def of_another_machine_type(lab: Lab, state: State) -> None:
    header = state.machines["m1"].header
    kind = header.xml.split("machine='", 1)[1].split("'", 1)[0]
    changed = header.with_xml(header.xml.replace(f"machine='{kind}'", "machine='pc-q35-1.0'"))
    lab.hypervisor.write_volume(state.machines["m1"].ram.name, 0, changed)


@pytest.mark.parametrize("spoil", [cut_short, of_another_machine_type])
def test_ram_that_cannot_be_used_is_thrown_away_with_a_word_and_the_disks_are_booted(own, spoil):
    said, state = Said(), ready_state(own)
    own.destroy()
    spoil(own, state)
    done = own.up(said)
    print(said.notes)
    assert Verb.RESTORE_NODE in {a.verb for a in done.actions}
    assert any("ready state can't be restored, so its RAM is thrown away" in note for note in said.notes)
    assert [n for n in said.notes if "so it is booted from its layer" in n]
    assert_ready(own)
    assert ready_state(own).manifest.key != state.manifest.key  # it was saved anew


def test_a_ready_state_without_one_of_its_disks_is_not_used(own):
    state = ready_state(own)
    own.destroy()
    own.hypervisor.remove_volume(state.machines["m1"].disk.name)
    assert Verb.RESTORE_NODE not in {a.verb for a in own.plan().actions}
    own.up()
    assert_ready(own)


def test_ram_of_another_qemu_is_not_tried_and_the_disks_are_booted(own):
    said, manifest = Said(), ready_state(own).manifest
    own.destroy()
    write_manifest(own.hypervisor, replace(manifest, host="QEMU 9.0.0, libvirt 10.0.0", digest="other"))
    done = own.up(said)
    assert Verb.RESTORE_NODE not in {a.verb for a in done.actions}
    assert "m1: its RAM was saved under QEMU 9.0.0, libvirt 10.0.0, so it is booted from its layer" in said.notes
    assert_ready(own)


def test_an_image_whose_header_is_unknown_is_left_alone_and_the_node_is_booted(own):
    said, state = Said(), ready_state(own)
    own.destroy()
    ram = state.machines["m1"].ram
    own.hypervisor.write_volume(ram.name, 0, b"SomethingElse...")
    own.up(said, keep=False)
    assert "m1: its saved RAM can't be read, so it is booted from its layer" in said.notes
    assert not [note for note in said.notes if note.startswith("other: ")]  # that one's RAM is fine
    assert_ready(own)
    assert b"".join(own.hypervisor.download_volume(ram.name, length=16)) == b"SomethingElse..."
    own.destroy()
    discard_state(own.hypervisor, state.manifest.key)


def test_a_snapshot_whose_parent_is_gone_is_refused_before_anything_is_touched(own):
    own.save_snapshot("mine")
    own.guest("other").shell("echo $$ > /run/mark")
    below = Path(ready_state(own).machines["other"].disk.backing_path)
    aside = below.with_suffix(".aside")
    below.rename(aside)
    try:
        with pytest.raises(InputError, match=r"snapshot mine can't be restored: .*is gone"):
            own.restore_snapshot("mine")
    finally:
        aside.rename(below)
    assert_ready(own)
    assert own.guest("other").shell("cat /run/mark")


# -- what depends on what ----------------------------------------------------------------------------------------------


@pytest.fixture
def edited(tmp_path) -> CommandLine:
    """`labctl` with another template of the role `web-server` than the one that made the lab."""
    copy = tmp_path / "edited" / "labctl"
    shutil.copytree(Path(package.__file__).parent, copy)
    for kind in ("images", "topologies"):
        shutil.copytree(shipped(kind), copy / "data" / kind, symlinks=True)
    template = copy / "roles" / "library" / "web-server" / "apply.sh.j2"
    template.write_text(template.read_text() + "echo edited > /root/edited\n")
    return CommandLine("qemu:///system", NAME, {"PYTHONPATH": str(copy.parent)})


def test_a_changed_template_makes_only_that_roles_node_anew(own, edited):
    topology = own.record.file
    plan = edited("plan", topology)
    planned = plan.stdout.decode()
    assert plan.returncode == 0, plan.stderr.decode()
    assert "remove node" in planned
    assert "apply roles m1: web-server" in planned
    assert " other" not in planned
    before = own.hypervisor.domain(own.guest("other").domain).uuid
    said = edited("up", topology, "--no-save", within_s=300)
    assert said.returncode == 0, said.stderr.decode()
    assert own.guest("m1").shell("cat /root/edited") == "edited"
    assert own.hypervisor.domain(own.guest("other").domain).uuid == before
    own.destroy()
    planned = edited("plan", topology).stdout.decode()
    assert "create node other: from its layer, with its roles applied" in planned
    assert "apply roles m1" in planned
    assert "apply roles other" not in planned
    said = edited("up", topology, "--no-save", within_s=300)
    assert said.returncode == 0, said.stderr.decode()
    assert own.guest("m1").shell("cat /root/edited") == "edited"
    assert own.guest("other").shell("hostname") == "other"
