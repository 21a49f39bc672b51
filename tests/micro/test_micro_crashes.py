"""labctl dies, or runs twice at once: what it leaves can be gone on with, and can be removed."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from conftest import IMPORTS_S, CommandLine

from labctl.inventory import Inventory
from labctl.lab import Lab, inventory
from labctl.state.kept import discard_state, states, sweep
from topologies import one_node

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(900)]

NAME = "test-crash"
SEED = 20070811
KILLS = 10
FRESH = ["--fresh", "--no-save"]


@pytest.fixture
def crashing(micro, tmp_path):
    """`labctl` on a lab of one node that is not there yet, and the lab's topology."""
    run = CommandLine(micro.hypervisor.uri, NAME)
    yield run, str(one_node(tmp_path / "one.yaml", NAME))
    assert run("destroy").returncode == 0
    for state in states(micro.hypervisor):
        if state.lab == NAME:
            discard_state(micro.hypervisor, state.key)
    sweep(micro.hypervisor, now_s=time.time(), lab=NAME)
    assert inventory(micro.hypervisor).of(NAME) == Inventory()


def test_two_ups_of_a_lab_at_once_do_its_work_once(crashing):
    run, topology = crashing
    both = [run.start("up", topology, *FRESH), run.start("up", topology, *FRESH)]
    said = [process.communicate(timeout=300)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("create node other" in text for text in said) == [False, True], said
    second = next(text for text in said if "create node other" not in text)
    assert f"another labctl works on lab {NAME}: waiting for it" in second
    assert f"lab {NAME} is up; there is nothing to do" in second


def test_what_a_killed_up_leaves_can_be_brought_up_and_can_be_destroyed(crashing, micro):
    run, topology = crashing
    lab = Lab.from_topology(topology, hypervisor=micro.hypervisor)
    making_s, restoring_s = timed_up(lab), timed_up(lab)
    chance = random.Random(SEED)
    print(f"seed {SEED}; the lab was made in {making_s:.1f} s and restored in {restoring_s:.1f} s")
    for number, options in zip(range(KILLS), itertools.cycle([FRESH, [], ["--fresh"]])):
        moment_s = IMPORTS_S + chance.uniform(0, making_s if options else restoring_s)
        said = run.killed_after(moment_s, "up", topology, *options)
        print(f"killed `up {' '.join(options)}` after {moment_s:.2f} s, it said:\n{said}")
        if number % 2:
            print(f"brought up again:\n{lab.up()}")
            assert not lab.plan()
            assert [node.state for node in lab.status()] == ["ready"]
            assert lab.guest("other").shell("hostname") == "other"
        lab.destroy()
        assert inventory(micro.hypervisor).of(NAME) == Inventory()


def timed_up(lab: Lab) -> float:
    """Seconds that it takes to bring the lab up from nothing, whereupon it is removed again."""
    began_s = lab.clock.now_s()
    lab.up()
    took_s = lab.clock.now_s() - began_s
    lab.destroy()
    return took_s
