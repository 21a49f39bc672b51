"""Members: joining, what each of them sees, and waiting until they agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from lab_bench import HTTPS, Bench, cluster_spec, lab_spec, node_spec
from scripted_guest import ManualClock, Said, ScriptedGuest

from labctl.clock import Deadline
from labctl.cluster.knowledge import Knowledge
from labctl.cluster.membership import ClusterView, MemberState, MemberView, join, look, wait_converged, wait_settled
from labctl.errors import CommandFailed, DeadlineExceeded
from labctl.guest.agent import Guest
from labctl.inventory import Mark
from labctl.render.xml import DomainPlan, domain_xml
from labctl.topology.spec import Accelerator, Filtering, HealthCheck, PortRule, RuleProtocol

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

    def heartbeats_change(self) -> None:
        for inside in self.inside.values():
            inside.says("/bin/sh", "-c", "cmp", exit_code=1)

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
    members.heartbeats_change()
    join(members.guest("m2"), LAB, LAB.node("m2"))
    inside = members.inside["m2"]
    assert {
        "/etc/keepalived/keepalived.conf",
        "/etc/labctl/cluster/web.nft",
        "/etc/labctl/boot.d/20-cluster-web",
    } <= set(inside.files)
    commands = [argv for argv in inside.ran if argv[0] not in {"/bin/rm", "/bin/tar", "/bin/sh"}]
    assert commands[0] == ["/etc/labctl/boot.d/20-cluster-web"]
    assert commands[-1] == ["/usr/lib/labctl/service", "restart", "keepalived"]
    assert inside.ran.index(["/bin/sh"]) > inside.ran.index(commands[0])  # what it was before is taken away after that


def test_a_heartbeat_that_would_be_the_same_goes_on(members: Members) -> None:
    inside = members.inside["m2"]
    inside.on("/bin/sh", "-c", "cmp", does=lambda _argv, stdin: Said(int(b"vrrp_instance" not in stdin)))
    join(members.guest("m2"), LAB, LAB.node("m2"))
    assert ["/etc/labctl/boot.d/20-cluster-web"] in inside.ran
    assert not [argv for argv in inside.ran if "restart" in argv]


@pytest.mark.parametrize("step", ["/etc/labctl/boot.d/20-cluster-web", "/usr/sbin/keepalived"])
def test_a_step_that_fails_keeps_the_heartbeat_silent(members: Members, step: str) -> None:
    members.heartbeats_change()
    members.inside["m2"].says(step, exit_code=1, err=b"Error: syntax error\n")
    with pytest.raises(CommandFailed, match=r"m2: \S+.*: exit code 1\nError: syntax error"):
        join(members.guest("m2"), LAB, LAB.node("m2"))
    assert ["/usr/lib/labctl/service", "restart", "keepalived"] not in members.inside["m2"].ran


# -- looking -----------------------------------------------------------------------------------------------------------

SHARES = {"443/tcp": {"m1": 20, "m2": 20, "m3": 20}}


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
    assert view.serving == view.agreed == {1, 2}
    assert view.owned == {"443/tcp": {"m1": 30, "m2": 30}}


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


def test_every_rule_but_a_disabled_one_has_its_owners() -> None:
    rules = (
        PortRule(25, 25, RuleProtocol.TCP, Filtering.SINGLE_HOST, handling=("m2", "m1")),
        PortRule(53, 53, RuleProtocol.UDP, Filtering.DISABLED),
        HTTPS,
    )
    cluster = cluster_spec("m1", "m2", rules=rules)
    view = ClusterView(cluster, tuple(MemberView(f"m{n}", n, Knowledge(frozenset({1, 2}))) for n in (1, 2)))
    assert view.owned == {"25/tcp": {"m2": 1}, "443/tcp": {"m1": 30, "m2": 30}}


# -- states ------------------------------------------------------------------------------------------------------------


def states(members: Members) -> dict[str, str]:
    view = members.look()
    return {m.node: view.state_of(m) for m in view.members}


def told(word: str, *, why: str = "") -> str:
    return f'0x00000000 comment "{word} 1800000000{why}"'


@pytest.mark.parametrize(
    ("sets", "state"),
    [
        ({"disabled": told("stopped")}, MemberState.STOPPED),
        ({"disabled": told("suspended")}, MemberState.SUSPENDED),
        ({"disabled": told("refused", why=" 10.9.0.200 is answered by 52:54:00:11:22:33")}, MemberState.REFUSED),
        ({"disabled": "0x00000000"}, MemberState.STOPPED),
        ({"draining": told("draining")}, MemberState.DRAINING),
        ({"strangers": "0x00000000 timeout 500ms expires 300ms, 0x00000001 timeout 500ms"}, MemberState.REFUSED),
        ({"draining": told("draining"), "disabled": told("suspended")}, MemberState.SUSPENDED),
    ],
    ids=lambda of: str(of)[:50],
)
def test_a_member_that_was_told_to_stay_out_is_in_a_state_of_its_own(
    members: Members, sets: dict[str, str], state: MemberState
) -> None:
    members.inside["m1"].sees(2, 3)
    members.inside["m2"].sees(2, 3)
    members.inside["m3"].sees(2, 3)
    members.inside["m1"].sees(2, 3, **sets)
    view = members.look()
    assert states(members) == {"m1": state, "m2": MemberState.CONVERGED, "m3": MemberState.CONVERGED}
    assert view.serving == view.agreed == {2, 3}
    assert view.owned == {"443/tcp": {"m2": 30, "m3": 30}}
    assert view.converged is (state is not MemberState.REFUSED)


def test_why_a_member_is_refused_is_part_of_the_answer(members: Members) -> None:
    members.inside["m1"].sees(disabled=told("refused", why=" 10.9.0.200 is answered by 52:54:00:11:22:33"))
    members.inside["m3"].sees(strangers="0x00000000, 0x00000002")
    said = str(members.look())
    assert "m1: 10.9.0.200 is answered by 52:54:00:11:22:33" in said
    assert "m3: its rules are not those of m2" in said


def test_members_that_do_not_see_what_they_should_are_converging(members: Members) -> None:
    members.inside["m1"].sees(1)
    assert set(states(members).values()) == {MemberState.CONVERGING, MemberState.CONVERGED}
    assert states(members)["m1"] is MemberState.CONVERGING


def test_members_with_different_rules_never_converge(members: Members) -> None:
    members.inside["m1"].sees(1, 2, 3, rules="0x0000cafe")
    view = members.look()
    assert not view.converged
    assert set(states(members).values()) == {MemberState.CONVERGING}
    assert view.digests == {"m1": 0xCAFE, "m2": 0xBEEF, "m3": 0xBEEF}


def test_a_member_that_is_off_is_unreachable_and_the_others_have_converged(members: Members) -> None:
    members.bench.hypervisor.power_off("lab.m3")
    for name in ("m1", "m2"):
        members.inside[name].sees(1, 2)
    assert states(members) == {
        "m1": MemberState.CONVERGED,
        "m2": MemberState.CONVERGED,
        "m3": MemberState.UNREACHABLE,
    }


def test_a_rule_that_a_member_does_not_serve_belongs_to_the_others(members: Members) -> None:
    held = {"held_443_tcp": "0x00000003 timeout 2s500ms expires 2s"}
    for name in ("m1", "m2"):
        members.inside[name].sees(1, 2, 3, **held)
    members.inside["m3"].sees(1, 2, 3, **held, disabled='0x000601bb comment "disabled 1800000000"')
    assert members.look().owned == {"443/tcp": {"m1": 30, "m2": 30}}


CHECKED = cluster_spec("m1", "m2", "m3", rules=(replace(HTTPS, health=HealthCheck("true", 2, 2, 2)),))


def test_a_member_whose_check_fails_is_no_disagreement_and_owns_nothing_of_that_rule(members: Members) -> None:
    for name in ("m1", "m2", "m3"):
        members.inside[name].sees(1, 2, 3, held_443_tcp="0x00000002 timeout 2s500ms expires 2s")
    view = look(CHECKED, members.guests)
    assert view.converged
    assert [m.fails(CHECKED.port_rules[0]) for m in view.members] == [False, True, False]
    assert view.owned == {"443/tcp": {"m1": 30, "m3": 30}}


def test_a_member_whose_check_fails_is_not_settled_until_all_know(members: Members) -> None:
    members.inside["m2"].sees(1, 2, 3, held_443_tcp="0x00000002 timeout 2s500ms expires 2s")
    assert not look(CHECKED, members.guests).settled


def test_a_member_knows_since_when_it_has_been_in_its_state(members: Members) -> None:
    members.inside["m1"].sees(
        1,
        2,
        joined="0x00000001 timeout 24d expires 23d23h59m48s, 0x00000002 timeout 24d expires 23d23h50m",
        heard="0x00000001 timeout 24d expires 23d23h59m59s, 0x00000003 timeout 24d expires 23d23h59m55s500ms",
    )
    members.inside["m2"].sees(1, 2, joined="0x00000001 timeout 24d expires 23d23h59m48s")
    members.inside["m3"].sees(1, 2, disabled=told("stopped"))
    view = members.look()
    since_s = [view.since_s(m, now_s=1_800_000_007.0) for m in view.members]
    assert since_s == [pytest.approx(4.5), pytest.approx(12.0), pytest.approx(7.0)]


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


def test_members_settle_without_those_that_cannot_be_asked(members: Members) -> None:
    members.bench.hypervisor.power_off("lab.m3")
    members.inside["m2"].sees(1, 2)
    members.clock.alarms.append((1004.0, lambda: members.inside["m1"].sees(1, 2)))
    view = wait_settled(CLUSTER, members.guests, Deadline.within(10.0, members.clock))
    assert view.agreed == {1, 2}
    assert 1004 <= members.clock.now_s() < 1005
