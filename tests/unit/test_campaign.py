"""Campaigns: what is drawn repeats itself, and a failing sequence becomes short."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from lab_bench import lab_spec, node_spec, pair

from labctl.campaign import draw, shrunk
from labctl.errors import InputError
from labctl.faults.text import dump
from labctl.topology.load import find_topology, load_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, LabSpec


def micro() -> LabSpec:
    return resolve(load_topology(find_topology("micro")), lab=None, accelerator=Accelerator.TCG)


def test_a_seed_repeats_itself_and_another_does_not() -> None:
    assert draw(7, 20, micro()) == draw(7, 20, micro())
    assert draw(7, 20, micro()) != draw(8, 20, micro())


def test_a_step_is_the_same_however_many_there_are() -> None:
    assert draw(7, 30, micro())[:10] == draw(7, 10, micro())


def test_many_steps_have_faults_of_many_kinds_on_every_member() -> None:
    steps = draw(1, 200, micro())
    assert len({step.fault.NAME for step in steps}) >= 10
    assert {"m1", "m2"} <= {node for step in steps for node in step.fault.nodes}
    assert all(dump(step.fault) for step in steps)
    assert all(3 <= step.lasts_s <= 12 for step in steps)


def test_a_lab_without_a_cluster_or_a_client_is_refused() -> None:
    for lab in (lab_spec(node_spec("a", 1)), pair()):
        with pytest.raises(InputError, match="a campaign needs a cluster"):
            draw(1, 1, lab)


@pytest.mark.parametrize("culprits", [{3}, {8}, {1}, {2, 7}, {1, 2, 3}])
def test_a_failing_sequence_becomes_as_short_as_it_gets(culprits: set[int]) -> None:
    def fails(part: Sequence[int]) -> bool:
        return culprits <= set(part)

    assert set(shrunk(range(1, 9), fails, most_tries=100)) == culprits


def test_the_tries_are_bounded_and_what_is_left_still_fails() -> None:
    tried: list[list[int]] = []

    def fails(part: Sequence[int]) -> bool:
        tried.append(list(part))
        return {2, 7} <= set(part)

    left = shrunk(range(1, 33), fails, most_tries=5)
    assert len(tried) <= 5
    assert {2, 7} <= set(left)


def test_a_single_step_is_short_enough() -> None:
    assert shrunk([4], lambda _part: pytest.fail("nothing is to be tried")) == (4,)
