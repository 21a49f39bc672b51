"""A cluster as tests take hold of it: what is told is told to the members that are meant, and taken back."""
# ruff: noqa: F811 -- fixtures are imported from where they are

from __future__ import annotations

import pytest
from lab_bench import Bench
from test_cli import Labctl, bench, file, run, small  # noqa: F401
from test_cluster_control import Filters, filters  # noqa: F401

from labctl.cluster.handle import Cluster
from labctl.cluster.membership import MemberState
from labctl.errors import DeadlineExceeded, GuestError, InputError
from labctl.lab import Lab


@pytest.fixture
def cluster(small: Bench, filters: Filters) -> Cluster:
    lab = Lab.existing(small.hypervisor, "small")
    spec = lab.cluster()
    return Cluster(spec, lab.members(spec), lab.clock)


def states(cluster: Cluster) -> list[MemberState]:
    view = cluster.look()
    return [view.state_of(m) for m in view.members]


SERVES, OUT = MemberState.CONVERGED, MemberState.STOPPED


def test_a_member_that_is_told_to_stop_is_out_until_it_is_taken_back(cluster: Cluster) -> None:
    cluster.tell("stop", "m1")
    assert states(cluster) == [OUT, SERVES]
    cluster.serve_again()
    assert states(cluster) == [SERVES, SERVES]


def test_whatever_members_were_told_is_taken_back(cluster: Cluster) -> None:
    cluster.tell("drain", "m2", port="80")
    cluster.tell("suspend", "m1")
    cluster.tell("stop", "m2")
    assert states(cluster) == [MemberState.SUSPENDED, OUT]
    cluster.serve_again()
    assert states(cluster) == [SERVES, SERVES]
    assert cluster.look().owned["80/tcp"] == {"m1": 30, "m2": 30}


def test_who_was_told_nothing_is_told_nothing(cluster: Cluster, filters: Filters) -> None:
    filters.told[1]["disabled"][0] = "stopped 1800000000"
    filters.beat()
    cluster.serve_again()
    assert states(cluster) == [OUT, SERVES]


def test_without_a_name_all_members_are_meant(cluster: Cluster) -> None:
    cluster.tell("stop")
    assert states(cluster) == [OUT, OUT]


def test_a_member_that_ignores_it_is_an_error_with_its_reason(cluster: Cluster) -> None:
    cluster.tell("suspend", "m1")
    with pytest.raises(GuestError, match="m1: it is suspended, and ignores all but resume"):
        cluster.tell("stop", "m1")


def test_who_is_no_member_is_refused_before_anybody_is_told(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="cluster web has no member m3"):
        cluster.tell("stop", "m1", "m3")
    assert states(cluster) == [SERVES, SERVES]


def test_a_drained_member_is_stopped_once_its_connections_have_ended(cluster: Cluster, filters: Filters) -> None:
    filters.connections(1)
    cluster.drain_and_stop("m1")
    assert states(cluster) == [OUT, SERVES]


def test_a_member_that_can_not_be_drained_in_time_goes_on_draining(cluster: Cluster, filters: Filters) -> None:
    filters.connections(1, "10.9.0.77:40000")
    with pytest.raises(DeadlineExceeded, match="m1: 1 connection left"):
        cluster.drain_and_stop("m1", within_s=1.0)
    assert states(cluster) == [MemberState.DRAINING, SERVES]
