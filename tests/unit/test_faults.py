"""Faults as data, and their life: marked, done, confirmed, recorded, healed, and found by whoever comes after."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from lab_bench import Bench, pair
from scripted_guest import ManualClock, Said

from labctl.clock import Deadline, wait_until
from labctl.errors import AgentGone as NoAnswer
from labctl.errors import DeadlineExceeded, HypervisorError, InputError
from labctl.faults import (
    KINDS,
    AgentGone,
    CertificateExpired,
    ClockJump,
    Corrupt,
    CpuHog,
    Delay,
    Direction,
    DiskErrors,
    DnsOutage,
    Duplicate,
    Fault,
    FillDisk,
    FreezeProcess,
    Ground,
    KillProcess,
    LinkDown,
    Loss,
    MemoryHog,
    Partition,
    Pause,
    PowerOff,
    Rate,
    RebootGuest,
    Reorder,
    Reset,
    StopService,
    Timed,
    Unplug,
    active,
    confirm,
    heal,
    heal_all,
    inject,
    injected,
    injected_together,
    load,
    parse,
)
from labctl.faults.network_ways import netem_arguments
from labctl.faults.text import dump, slug
from labctl.history import Event, FaultEvent, FaultPhase
from labctl.inventory import DomainState, Stage
from labctl.lab import Lab
from labctl.plan import Verb
from labctl.render.names import domain_name

EXAMPLES: tuple[Fault, ...] = (
    PowerOff("m1"),
    Reset("m1"),
    RebootGuest("m1"),
    Pause("m1"),
    AgentGone("m1", lasts_s=60),
    DiskErrors("m1"),
    LinkDown("m1", "eth0"),
    Unplug("m1", "eth0"),
    Loss("m1", "eth0", 30.0, Direction.OUT, seed=7),
    Delay("m1", "eth0", 100.0, jitter_ms=20.0),
    Duplicate("m1", "eth0", 5.0),
    Reorder("m1", "eth0", 25.0, ms=50.0),
    Corrupt("m1", "eth0", 1.0),
    Rate("m1", "eth0", 512),
    Partition((("m1",), ("m2", "c")), one_way=True),
    DnsOutage("m1"),
    StopService("m1", "nginx"),
    KillProcess("m1", "nginx", service="web"),
    FreezeProcess("m1", "keepalived"),
    FillDisk("m1", "/srv"),
    CpuHog("m1", workers=2),
    MemoryHog("m1", leave_mib=16),
    ClockJump("m1", by_s=-3600.0),
    CertificateExpired("m1", port=993),
)


@dataclass
class Kept:
    """A history in memory."""

    events: list[Event] = field(default_factory=list)

    def append(self, *events: Event) -> None:
        self.events.extend(events)

    @property
    def phases(self) -> list[str]:
        return [str(e.phase) for e in self.events if isinstance(e, FaultEvent)]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.parent()
    return bench


@pytest.fixture
def lab(bench: Bench) -> Lab:
    """A lab of two members and a client that is up, on a clock that moves only when somebody waits."""
    lab = bench.lab(pair())
    lab.up(boot=True, keep=False)
    lab.clock = ManualClock()
    return lab


@pytest.fixture
def ground(lab: Lab) -> Ground:
    return lab.ground()


@pytest.fixture
def kept() -> Kept:
    return Kept()


def state(ground: Ground, node: str) -> DomainState:
    domain = ground.hypervisor.domain(domain_name(ground.lab.name, node))
    assert domain is not None
    return domain.state


# -- as data -----------------------------------------------------------------------------------------------------------


def test_there_is_an_example_of_every_kind() -> None:
    assert [type(fault) for fault in EXAMPLES] == list(KINDS.values())
    assert len({fault.kind for fault in EXAMPLES}) == len(EXAMPLES)
    assert len({slug(fault) for fault in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize("fault", EXAMPLES, ids=lambda f: f.NAME)
def test_a_fault_comes_back_from_its_mark_as_it_was(fault: Fault) -> None:
    assert load(dump(fault)) == fault


@pytest.mark.parametrize(
    ("typed", "fault"),
    [
        (("power-off", "m1"), PowerOff("m1")),
        (("loss", "m1", "nic=eth0", "percent=30", "direction=in"), Loss("m1", "eth0", 30.0, Direction.IN)),
        (("stop-service", "m1", "service=nginx"), StopService("m1", "nginx")),
        (("clock-jump", "m1", "by_s=-90"), ClockJump("m1", -90.0)),
        (("partition", "m1/m2,c", "heartbeat_only=yes"), Partition((("m1",), ("m2", "c")), heartbeat_only=True)),
    ],
    ids=lambda v: v[0] if isinstance(v, tuple) else "",
)
def test_what_is_typed_is_understood(typed: tuple[str, ...], fault: Fault) -> None:
    name, target, *parameters = typed
    assert parse(name, target, dict(p.split("=") for p in parameters)) == fault


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (("explosion", "m1"), "there is no fault explosion"),
        (("loss", "m1"), "loss: nic: Field required; percent: Field required"),
        (("loss", "m1", "nic=eth0", "percent=much"), "loss: percent: .*valid number"),
        (("power-off", "m1", "hard=yes"), "power-off has no parameter hard"),
    ],
    ids=["kind", "missing", "no number", "unknown"],
)
def test_what_can_not_be_understood_is_named(typed: tuple[str, ...], complaint: str) -> None:
    name, target, *parameters = typed
    with pytest.raises(InputError, match=complaint):
        parse(name, target, dict(p.split("=") for p in parameters))


def test_a_mark_of_a_newer_labctl_is_an_error_with_its_name() -> None:
    with pytest.raises(InputError, match="'meteor' is marked"):
        load(json.dumps({"name": "meteor", "node": "m1"}))


def test_impairments_of_a_nic_add_up_to_one_netem() -> None:
    faults = [
        Delay("m1", "eth0", 100.0, jitter_ms=10.0),
        Reorder("m1", "eth0", 25.0, ms=50.0),
        Loss("m1", "eth0", 30.0, seed=7),
        Rate("m1", "eth0", 512),
    ]
    assert " ".join(netem_arguments(faults)) == "delay 150ms 10ms loss 30% reorder 25% rate 512000bit seed 7"
    assert netem_arguments([]) == []


def test_later_groups_of_a_one_way_partition_do_not_hear_earlier_ones() -> None:
    both = Partition((("a",), ("b", "c"), ("d",)))
    one = Partition((("a",), ("b", "c"), ("d",)), one_way=True)
    assert {n: both.unheard(n) for n in both.nodes} == {
        "a": ("b", "c", "d"), "b": ("a", "d"), "c": ("a", "d"), "d": ("a", "b", "c")
    }  # fmt: skip
    assert {n: one.unheard(n) for n in one.nodes} == {"b": ("a",), "c": ("a",), "d": ("a", "b", "c")}


# -- their life --------------------------------------------------------------------------------------------------------


def test_a_fault_is_marked_while_it_lasts_and_recorded(ground: Ground, kept: Kept) -> None:
    with injected(PowerOff("m1"), ground, kept):
        assert state(ground, "m1") is DomainState.SHUT_OFF
        assert [(m.kind, m.target) for m in active(ground)] == [("power-off", "m1")]
    assert state(ground, "m1") is DomainState.RUNNING
    assert active(ground) == ()
    assert kept.phases == ["injected", "confirmed", "healed", "heal_confirmed"]


def test_a_fault_is_marked_before_anything_is_done(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.hypervisor.fail_on["suspend"] = HypervisorError("libvirt says no")
    with pytest.raises(HypervisorError, match="libvirt says no"):
        inject(Pause("m1"), ground, kept)
    assert [m.kind for m in active(ground)] == ["pause"]


def test_a_fault_that_could_not_be_done_is_healed_all_the_same(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.hypervisor.fail_on["suspend"] = HypervisorError("libvirt says no")
    with pytest.raises(HypervisorError, match="libvirt says no"), injected(Pause("m1"), ground, kept):
        pytest.fail("the block was entered")
    assert active(ground) == ()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_fault_is_healed_however_the_block_ends(ground: Ground, kept: Kept, error: type[BaseException]) -> None:
    with pytest.raises(error), injected(Pause("m1"), ground, kept):
        raise error
    assert state(ground, "m1") is DomainState.RUNNING
    assert kept.phases[-1] == "heal_confirmed"


def test_a_fault_that_takes_no_effect_is_recorded_as_unconfirmed(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.hypervisor.suspend = lambda name: None  # type: ignore[method-assign]
    inject(Pause("m1"), ground, kept)
    seen, what = confirm(Pause("m1"), ground, kept)
    assert not seen
    assert "last seen: the domain is running" in what
    assert kept.phases == ["injected", "unconfirmed"]


def test_a_heal_that_fails_is_told_and_the_mark_stays(bench: Bench, ground: Ground, kept: Kept) -> None:
    inject(Pause("m1"), ground, kept)
    bench.hypervisor.fail_on["resume"] = HypervisorError("libvirt says no")
    with pytest.raises(HypervisorError):
        heal(Pause("m1"), ground, kept)
    assert kept.phases[-1] == "heal_failed"
    assert [m.kind for m in active(ground)] == ["pause"]


def test_a_heal_that_takes_no_effect_is_told_and_the_mark_stays(bench: Bench, ground: Ground, kept: Kept) -> None:
    inject(Pause("m1"), ground, kept)
    bench.hypervisor.resume = lambda name: None  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded, match="m1: pause could not be healed"):
        heal(Pause("m1"), ground, kept)
    assert kept.phases[-1] == "heal_failed"
    assert [m.kind for m in active(ground)] == ["pause"]


def test_a_heal_that_fails_does_not_hide_why_the_block_ended(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.hypervisor.fail_on["resume"] = HypervisorError("libvirt says no")
    with pytest.raises(ValueError, match="the verdict") as caught, injected(Pause("m1"), ground, kept):
        raise ValueError("the verdict")
    assert caught.value.__notes__ == ["and pause of m1 could not be healed: libvirt says no"]


def test_the_same_fault_twice_is_refused(ground: Ground, kept: Kept) -> None:
    with injected(Pause("m1"), ground, kept):
        with pytest.raises(InputError, match="m1: pause is in effect already"):
            inject(Pause("m1"), ground, kept)
        assert [m.kind for m in active(ground)] == ["pause"]


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (PowerOff("m7"), "has no node m7"),
        (LinkDown("m1", "wlan0"), "node m1 has no NIC wlan0"),
        (Loss("m1", "eth0", 0.0), "loss eth0 of m1 of nothing is no fault"),
        (Partition((("m1", "m2"),)), "expected two groups or more"),
        (Partition((("m1",), ("m1",))), "each node in one"),
        (FreezeProcess("m1", "qemu-ga"), "nobody could heal it"),
        (ClockJump("m1", 1.0), "can't be told from none"),
        (KillProcess("m1", "nginx"), "there is no process nginx"),
    ],
    ids=lambda v: v.NAME if not isinstance(v, str) else "",
)
def test_what_can_not_be_broken_is_refused_and_leaves_no_mark(
    ground: Ground, kept: Kept, fault: Fault, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint), injected(fault, ground, kept):
        pytest.fail("the block was entered")
    assert active(ground) == ()
    assert kept.events == []


def test_a_service_that_does_not_run_can_not_be_stopped(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.guests["m1"].says(
        "/bin/sh", "-c", "\nif [ -d /run/systemd/system ]; then exec systemctl is-active", exit_code=3
    )
    with pytest.raises(InputError, match="m1: service nginx does not run"):
        inject(StopService("m1", "nginx"), ground, kept)
    assert active(ground) == ()


# -- who comes after ---------------------------------------------------------------------------------------------------


def test_faults_that_a_dead_harness_left_are_found_and_healed(lab: Lab, kept: Kept) -> None:
    for fault in (LinkDown("m2", "eth0"), Pause("m1"), PowerOff("c")):
        inject(fault, lab.ground(), kept)
    carrier(lab, "1")
    later = lab.ground()
    assert [m.kind for m in active(later)] == ["pause", "link-down eth0", "power-off"]
    assert [m.kind for m in heal_all(later)] == ["pause", "link-down eth0", "power-off"]
    assert active(later) == ()
    assert {state(later, node) for node in ("m1", "m2", "c")} == {DomainState.RUNNING}


def carrier(lab: Lab, seen: str) -> None:
    """Let all guests see their NIC's carrier so."""
    for node in lab.spec.nodes:
        guest = lab.hypervisor.agents[domain_name(lab.name, node.name)]  # type: ignore[attr-defined]
        guest.says("/bin/cat", "/sys/class/net", out=seen.encode())


def test_up_heals_what_a_dead_harness_left(lab: Lab, kept: Kept) -> None:
    inject(Pause("m1"), lab.ground(), kept)
    planned = lab.plan().actions
    assert [(a.verb, a.node, a.detail) for a in planned] == [(Verb.HEAL_FAULTS, "m1", "pause")]
    lab.up()
    assert not lab.plan()
    assert state(lab.ground(), "m1") is DomainState.RUNNING


def test_every_fault_is_healed_though_one_can_not_be(bench: Bench, lab: Lab, kept: Kept) -> None:
    inject(Pause("m1"), lab.ground(), kept)
    inject(PowerOff("m2"), lab.ground(), kept)
    bench.hypervisor.fail_on["resume"] = HypervisorError("libvirt says no")
    with pytest.raises(ExceptionGroup, match="faults could not be healed"):
        heal_all(lab.ground())
    assert state(lab.ground(), "m2") is DomainState.RUNNING
    assert [m.kind for m in active(lab.ground())] == ["pause"]


def test_a_fault_on_a_node_that_is_gone_can_be_forgotten(lab: Lab, kept: Kept) -> None:
    fault = Partition((("m1",), ("m2",)))
    inject(fault, lab.ground(), kept)
    assert [m.target for m in active(lab.ground())] == ["m1/m2"]
    heal_scripted(lab)
    heal(fault, lab.ground(), kept)
    assert active(lab.ground()) == ()


def heal_scripted(lab: Lab) -> None:
    """Let all guests say that there is no table in their packet filter."""
    for node in lab.spec.nodes:
        guest = lab.hypervisor.agents[domain_name(lab.name, node.name)]  # type: ignore[attr-defined]
        guest.says("/usr/sbin/nft", "--json", "list", "table", exit_code=1)


def test_up_heals_a_partition_from_both_its_sides_at_once(lab: Lab, kept: Kept) -> None:
    inject(Partition((("m1",), ("m2",))), lab.ground(), kept)
    heal_scripted(lab)
    assert [str(a) for a in lab.plan().actions] == ["heal m1: partition", "heal m2: partition"]
    lab.up()
    assert not lab.plan()


def test_a_lab_that_is_set_back_has_no_faults(lab: Lab, kept: Kept) -> None:
    lab.save_snapshot("clean")
    inject(Pause("m1"), lab.ground(), kept)
    lab.restore_snapshot("clean")
    assert active(lab.ground()) == ()
    assert {d.mark.stage for d in lab.hypervisor.domains() if d.mark} == {Stage.READY}


# -- several at once ---------------------------------------------------------------------------------------------------


def test_faults_at_once_are_healed_in_turn(ground: Ground, kept: Kept) -> None:
    with injected_together([Pause("m1"), PowerOff("m2")], ground, kept):
        assert {m.kind for m in active(ground)} == {"pause", "power-off"}
    assert active(ground) == ()
    assert kept.phases.count("heal_confirmed") == 2


def test_a_timed_fault_comes_and_goes_inside_the_block(ground: Ground, kept: Kept) -> None:
    with injected_together([Timed(Pause("m1"), lasts_s=0.0), Timed(PowerOff("m2"), after_s=3600.0)], ground, kept):
        settled(lambda: kept.phases[-1:] == ["heal_confirmed"] and active(ground) == ())
    assert kept.phases == ["injected", "confirmed", "healed", "heal_confirmed"]


def settled(claim: Callable[[], bool]) -> None:
    wait_until("the timed fault", lambda: (claim() or None, "not yet"), Deadline.within(10), every_s=0.01)


def test_what_a_timed_fault_runs_into_is_raised_at_the_end(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.hypervisor.fail_on["suspend"] = HypervisorError("libvirt says no")
    with pytest.raises(HypervisorError, match="libvirt says no"), injected_together([Timed(Pause("m1"))], ground, kept):
        settled(lambda: bool(kept.phases))


# -- single kinds ------------------------------------------------------------------------------------------------------


def test_another_boot_shows_that_a_reset_happened(bench: Bench, ground: Ground, kept: Kept) -> None:
    boot_id = "/proc/sys/kernel/random/boot_id"
    bench.guests["m1"].files[boot_id] = b"first\n"
    inject(Reset("m1"), ground, kept)
    bench.guests["m1"].files[boot_id] = b"second\n"
    assert confirm(Reset("m1"), ground, kept) == (True, "boot second")
    heal(Reset("m1"), ground, kept)


def test_a_reset_that_the_guest_did_not_notice_is_unconfirmed(bench: Bench, ground: Ground, kept: Kept) -> None:
    bench.guests["m1"].files["/proc/sys/kernel/random/boot_id"] = b"first\n"
    inject(Reset("m1"), ground, kept)
    assert not confirm(Reset("m1"), ground, kept)[0]


def test_an_agent_that_is_gone_is_brought_back_over_the_console(bench: Bench, ground: Ground, kept: Kept) -> None:
    inject(AgentGone("m1"), ground, kept)
    agent = bench.hypervisor.agents
    name = domain_name(ground.lab.name, "m1")
    guest = agent.pop(name)
    bench.hypervisor.agents[name] = silent
    assert confirm(AgentGone("m1"), ground, kept)[0]
    ground.clock.alarms.append((0.0, lambda: agent.update({name: guest})))  # type: ignore[attr-defined]
    heal(AgentGone("m1"), ground, kept)
    assert b"sh /run/labctl-fault.agent_gone/heal\r" in bench.hypervisor.consoles[name, ""].typed


def silent(_command: object) -> object:
    raise NoAnswer("nobody there")


def test_the_kernel_must_say_of_a_nic_what_was_asked_for(bench: Bench, ground: Ground, kept: Kept) -> None:
    fault = Loss("m1", "eth0", 30.0, Direction.OUT)
    seen = {"kind": "netem", "handle": "fa17:", "options": {"loss-random": {"loss": 0.2}}}

    def shows(_argv: list[str], _stdin: bytes) -> Said:
        return Said(out=json.dumps([seen]).encode())

    bench.guests["m1"].on("/bin/sh", "-c", "\ntc -json", does=shows)
    inject(fault, ground, kept)
    assert not confirm(fault, ground, kept)[0]
    seen["options"] = {"loss-random": {"loss": 0.3}}
    assert confirm(fault, ground, kept) == (True, "eth0: out: loss 0.3")
    seen["kind"] = "fq_codel"
    heal(fault, ground, kept)


def test_a_partition_that_drops_nothing_is_unconfirmed(bench: Bench, ground: Ground, kept: Kept) -> None:
    fault = Partition((("m1",), ("m2",)))
    packets = {"m1": 3, "m2": 0}
    for member in packets:

        def lists(_argv: list[str], _stdin: bytes, name: str = member) -> Said:
            rule = {"rule": {"expr": [{"counter": {"packets": packets[name], "bytes": 0}}]}}
            return Said(out=json.dumps({"nftables": [{"metainfo": {}}, rule]}).encode())

        bench.guests[member].on("/usr/sbin/nft", "--json", "list", "table", does=lists)
    inject(fault, ground, kept)
    seen, what = confirm(fault, ground, kept)
    assert not seen
    assert "m1 dropped 6, m2 dropped 0" in what  # of IP and of ARP
    packets["m2"] = 1
    assert confirm(fault, ground, kept) == (True, "m1 dropped 6, m2 dropped 2")
    assert [e.phase for e in kept.events if isinstance(e, FaultEvent)][-1] is FaultPhase.CONFIRMED
