"""Members: joining, what each of them sees, and waiting until they agree."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from lab_bench import HTTPS, Bench, cluster_spec, lab_spec, node_spec
from scripted_guest import ManualClock, ScriptedGuest

from labctl.clock import Deadline
from labctl.cluster.membership import ClusterView, MemberView, join, look, wait_converged
from labctl.errors import CommandFailed, DeadlineExceeded
from labctl.guest.agent import Guest
from labctl.inventory import Mark
from labctl.render.xml import DomainPlan, domain_xml
from labctl.topology.spec import Accelerator, Filtering, PortRule, RuleProtocol

CLUSTER = cluster_spec("m1", "m2", "m3")
LAB = lab_spec(*(node_spec(f"m{n}", n) for n in (1, 2, 3)), clusters=(CLUSTER,))


class Members:
    """Three guests that run, and see what they are told to."""

    def __init__(self) -> None:
        self.bench, self.clock = Bench(), ManualClock()
        self.bench.guests_of(LAB)
        for node in LAB.nodes:
            plan = DomainPlan(Mark("lab", node.name, ""), 1, 1, Accelerator.TCG, "/disk", "root")
            self.bench.hypervisor.define_domain(domain_xml(plan))
            self.bench.hypervisor.start_domain(f"lab.{node.name}")
        self.inside: dict[str, ScriptedGuest] = self.bench.guests

    def guest(self, node: str) -> Guest:
        return Guest(self.bench.hypervisor, node, f"lab.{node}", clock=self.clock)

    @property
    def guests(self) -> dict[str, Callable[[], Guest]]:
        return {node: (lambda node=node: self.guest(node)) for node in self.inside}

    def look(self) -> ClusterView:
        return look(CLUSTER, self.guests)


@pytest.fixture
def members() -> Members:
    return Members()


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_member_gets_its_files_runs_its_boot_step_and_starts_its_heartbeat(members: Members) -> None:
    join(members.guest("m2"), LAB, LAB.node("m2"))
    inside = members.inside["m2"]
    assert {
        "/etc/keepalived/keepalived.conf",
        "/etc/labctl/cluster/web.nft",
        "/etc/labctl/boot.d/20-cluster-web",
    } <= set(inside.files)
    commands = [argv for argv in inside.ran if argv[0] not in {"/bin/rm", "/bin/tar"}]
    assert commands[0] == ["/etc/labctl/boot.d/20-cluster-web"]
    assert commands[-1] == ["/usr/lib/labctl/service", "restart", "keepalived"]


@pytest.mark.parametrize("step", ["/etc/labctl/boot.d/20-cluster-web", "/usr/sbin/keepalived"])
def test_a_step_that_fails_keeps_the_heartbeat_silent(members: Members, step: str) -> None:
    members.inside["m2"].says(step, exit_code=1, err=b"Error: syntax error\n")
    with pytest.raises(CommandFailed, match=r"m2: \S+.*: exit code 1\nError: syntax error"):
        join(members.guest("m2"), LAB, LAB.node("m2"))
    assert ["/usr/lib/labctl/service", "restart", "keepalived"] not in members.inside["m2"].ran


# -- looking -----------------------------------------------------------------------------------------------------------

SHARES = {"443-443/tcp": {"m1": 20, "m2": 20, "m3": 20}}


def test_members_that_see_each_other_have_converged_and_share_the_buckets(members: Members) -> None:
    view = members.look()
    assert view.converged
    assert view.agreed == {1, 2, 3}
    assert view.owned == SHARES
    assert str(view) == "m1 sees [1, 2, 3]; m2 sees [1, 2, 3]; m3 sees [1, 2, 3]"


def test_the_survivors_share_what_the_dead_had(members: Members) -> None:
    members.bench.hypervisor.power_off("lab.m3")
    for name in ("m1", "m2"):
        members.inside[name].sees(1, 2)
    view = members.look()
    assert not view.converged
    assert view.reachable == view.agreed == {1, 2}
    assert view.owned == {"443-443/tcp": {"m1": 30, "m2": 30}}


def test_members_that_disagree_own_nothing_for_sure(members: Members) -> None:
    members.inside["m1"].sees(1)
    view = members.look()
    assert (view.converged, view.agreed, view.owned) == (False, None, {})
    assert "m1 sees [1];" in str(view)


def test_a_member_that_hears_nobody_says_so(members: Members) -> None:
    members.inside["m1"].sees()
    assert str(members.look()).startswith("m1 sees nobody;")


def test_a_member_that_is_still_taken_for_alive_though_it_is_gone_is_no_agreement(members: Members) -> None:
    members.bench.hypervisor.power_off("lab.m3")
    assert members.look().agreed is None


def test_a_member_that_cannot_be_asked_is_part_of_the_answer(members: Members) -> None:
    members.bench.hypervisor.power_off("lab.m3")
    member = members.look().members[2]
    assert (member.node, member.alive) == ("m3", None)
    assert "not connected" in member.why


def test_a_member_without_its_packet_filter_is_part_of_the_answer(members: Members) -> None:
    members.inside["m3"].says("/usr/sbin/nft", exit_code=1, err=b"Error: No such file or directory\n")
    member = members.look().members[2]
    assert member.alive is None
    assert member.why == "its packet filter is not loaded"


@pytest.mark.parametrize(
    "element", [1, {"elem": {"val": 1, "expires": 2}}, "0x00000001", {"elem": {"val": "0x00000001"}}], ids=str
)
def test_marks_are_read_as_nft_writes_them(members: Members, element: object) -> None:
    listed = {"nftables": [{"metainfo": {}}, {"set": {"elem": [element]}}]}
    members.inside["m1"].says("/usr/sbin/nft", out=json.dumps(listed).encode())
    assert members.look().members[0].alive == {1}


def test_every_rule_but_a_disabled_one_has_its_owners() -> None:
    rules = (
        PortRule(25, 25, RuleProtocol.TCP, Filtering.SINGLE_HOST, handling=("m2", "m1")),
        PortRule(53, 53, RuleProtocol.UDP, Filtering.DISABLED),
        HTTPS,
    )
    cluster = cluster_spec("m1", "m2", rules=rules)
    view = ClusterView(cluster, tuple(MemberView(f"m{n}", n, frozenset({1, 2})) for n in (1, 2)))
    assert view.owned == {"25-25/tcp": {"m2": 1}, "443-443/tcp": {"m1": 30, "m2": 30}}


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_waiting_ends_when_all_see_all(members: Members) -> None:
    members.inside["m1"].sees(1)
    members.clock.alarms.append((1004.0, lambda: members.inside["m1"].sees(1, 2, 3)))
    view = wait_converged(CLUSTER, members.guests, Deadline.within(10.0, members.clock))
    assert view.converged
    assert 1004 <= members.clock.now_s() < 1006


def test_waiting_in_vain_says_what_each_member_saw_last(members: Members) -> None:
    members.inside["m1"].sees(1)
    with pytest.raises(DeadlineExceeded) as late:
        wait_converged(CLUSTER, members.guests, Deadline.within(10.0, members.clock))
    assert str(late.value) == (
        "cluster web: all members see each other: not within 10.0 s; "
        "last seen: m1 sees [1]; m2 sees [1, 2, 3]; m3 sees [1, 2, 3]"
    )
