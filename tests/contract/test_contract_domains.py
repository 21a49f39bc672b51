"""Domains: what holds of every hypervisor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from contract_bench import LAB, MAC, Bench

from labctl.errors import AgentGone, ChannelTaken, HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import DomainInfo, DomainState, FaultMark, Stage
from labctl.render.names import domain_name, overlay_name


def _info(hypervisor: Hypervisor, name: str) -> DomainInfo:
    info = hypervisor.domain(name)
    assert info is not None
    return info


def test_a_new_domain_is_off_and_carries_its_mark(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    info = _info(hypervisor, name)
    assert (info.name, info.state, info.mark) == (domain_name(LAB, "n1"), DomainState.SHUT_OFF, bench.mark("n1"))
    assert len(info.uuid) == 36


def test_a_domain_is_listed_as_it_is_looked_up(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    assert _info(hypervisor, name) in hypervisor.domains()


def test_a_domain_names_the_volumes_it_uses(bench: Bench, hypervisor: Hypervisor) -> None:
    path = bench.disk("n1")
    hypervisor.define_domain(bench.domain_xml("n1", path))
    assert path in _info(hypervisor, domain_name(LAB, "n1")).disks


def test_define_refuses_a_name_that_exists(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    before = _info(hypervisor, name)
    with pytest.raises(HypervisorError, match=f"domain {name}: .*exists"):
        hypervisor.define_domain(bench.domain_xml("n1", "/another/disk"))
    assert _info(hypervisor, name) == before


def test_somebody_elses_domain_has_no_mark(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.define_domain(bench.foreign_domain_xml())
    assert _info(hypervisor, f"{LAB}-foreign").mark is None


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_a_mark_is_replaced_and_outlives_the_power(bench: Bench, hypervisor: Hypervisor, on: bool) -> None:
    name = bench.node("n1")
    if on:
        hypervisor.start_domain(name)
    mark = replace(bench.mark("n1"), stage=Stage.READY, identity="id", cluster='<"&>')
    hypervisor.mark_domain(name, mark)
    assert _info(hypervisor, name).mark == mark
    hypervisor.power_off(name)
    assert _info(hypervisor, name).mark == mark


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_marks_of_faults_are_replaced_outlive_the_power_and_leave_the_domains_own_mark_alone(
    bench: Bench, hypervisor: Hypervisor, on: bool
) -> None:
    name = bench.node("n1")
    if on:
        hypervisor.start_domain(name)
    assert _info(hypervisor, name).faults == ()
    hypervisor.mark_faults(name, ())  # nothing to remove is fine
    marks = (FaultMark("power-off", "n1", '{"<&>": "\'"}'), FaultMark("loss lan", "n1", "{}", '{"a": "b"}', "now"))
    for wanted in (marks[:1], marks):
        hypervisor.mark_faults(name, wanted)
        assert _info(hypervisor, name).faults == wanted
    hypervisor.mark_domain(name, bench.mark("n1"))
    hypervisor.power_off(name)
    assert (_info(hypervisor, name).faults, _info(hypervisor, name).mark) == (marks, bench.mark("n1"))
    hypervisor.mark_faults(name, ())
    assert _info(hypervisor, name).faults == ()


def test_a_domain_that_is_not_there_is_none(hypervisor: Hypervisor, bench: Bench) -> None:
    assert hypervisor.domain(f"{LAB}-nobody") is None


def test_removing_a_domain_twice_is_fine(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.remove_domain(name)
    hypervisor.remove_domain(name)
    assert hypervisor.domain(name) is None


def test_removing_a_domain_that_is_on_powers_it_off(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name)
    hypervisor.remove_domain(name)
    assert hypervisor.domain(name) is None


def test_a_domain_starts_and_refuses_to_start_again(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name)
    assert _info(hypervisor, name).state is DomainState.RUNNING
    with pytest.raises(HypervisorError, match=f"domain {name}: start: .*already"):
        hypervisor.start_domain(name)


@pytest.mark.needs("paused start")
def test_a_domain_starts_paused_and_is_resumed(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name, paused=True)
    assert _info(hypervisor, name).state is DomainState.PAUSED
    hypervisor.resume(name)
    assert _info(hypervisor, name).state is DomainState.RUNNING


def test_power_off_twice_is_fine(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name)
    hypervisor.power_off(name)
    hypervisor.power_off(name)
    assert _info(hypervisor, name).state is DomainState.SHUT_OFF


def test_suspend_and_resume_twice_are_fine(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name)
    for _ in range(2):
        hypervisor.suspend(name)
        assert _info(hypervisor, name).state is DomainState.PAUSED
    for _ in range(2):
        hypervisor.resume(name)
        assert _info(hypervisor, name).state is DomainState.RUNNING


def test_reset_leaves_a_domain_running(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name)
    hypervisor.reset(name)
    assert _info(hypervisor, name).state is DomainState.RUNNING


@pytest.mark.parametrize("verb", ["suspend", "resume"])
def test_a_domain_that_is_off_is_not_suspended_or_resumed(bench: Bench, hypervisor: Hypervisor, verb: str) -> None:
    name = bench.node("n1")
    with pytest.raises(HypervisorError, match=f"domain {name}"):
        getattr(hypervisor, verb)(name)


VERBS: dict[str, Callable[[Hypervisor, str, Bench], object]] = {
    "start": lambda h, name, _: h.start_domain(name),
    "power off": lambda h, name, _: h.power_off(name),
    "suspend": lambda h, name, _: h.suspend(name),
    "resume": lambda h, name, _: h.resume(name),
    "reset": lambda h, name, _: h.reset(name),
    "mark": lambda h, name, bench: h.mark_domain(name, bench.mark("nobody")),
    "faults": lambda h, name, _: h.mark_faults(name, ()),
    "detach": lambda h, name, _: h.detach_nic(name, MAC),
    "link": lambda h, name, _: h.set_link(name, MAC, up=False),
    "agent": lambda h, name, _: h.agent(name, {"execute": "guest-ping"}, 1),
    "console": lambda h, name, _: h.open_console(name),
    "channel": lambda h, name, _: h.open_channel(name, "labctl.ssh.0"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_error_names_the_domain_that_is_missing(bench: Bench, hypervisor: Hypervisor, verb: str) -> None:
    with pytest.raises(HypervisorError, match=f"domain {LAB}-nobody: .*not found"):
        VERBS[verb](hypervisor, f"{LAB}-nobody", bench)


@pytest.mark.parametrize("xml", ["", "no XML", "<domain/>", "<domain><name>a/b</name></domain>"])
def test_a_definition_without_a_good_name_is_refused(bench: Bench, hypervisor: Hypervisor, xml: str) -> None:
    with pytest.raises(HypervisorError, match="a definition"):
        hypervisor.define_domain(xml)


# -- NICs --------------------------------------------------------------------------------------------------------------


def test_a_nic_has_a_tap_only_while_its_domain_is_on(bench: Bench, hypervisor: Hypervisor) -> None:
    network = bench.network()
    name = bench.node("n1", network)
    (nic,) = _info(hypervisor, name).nics
    assert (nic.mac, nic.network, nic.tap, nic.link_up) == (MAC, network, "", True)
    hypervisor.start_domain(name)
    assert _info(hypervisor, name).nics[0].tap
    hypervisor.power_off(name)
    assert not _info(hypervisor, name).nics[0].tap


@pytest.mark.needs("links")
@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_a_pulled_cable_is_seen_and_outlives_the_power(bench: Bench, hypervisor: Hypervisor, on: bool) -> None:
    name = bench.node("n1", bench.network())
    if on:
        hypervisor.start_domain(name, paused=True)
    before = _info(hypervisor, name)
    for up in (False, False, True, False):
        hypervisor.set_link(name, MAC.upper(), up=up)
        (nic,) = _info(hypervisor, name).nics
        assert nic == replace(before.nics[0], link_up=up)
    hypervisor.power_off(name)
    assert not _info(hypervisor, name).nics[0].link_up


def test_a_cable_of_no_nic_names_the_domain_and_the_mac(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1", bench.network())
    with pytest.raises(HypervisorError, match=f"domain {name}: .*52:54:00:00:00:99"):
        hypervisor.set_link(name, "52:54:00:00:00:99", up=False)


@pytest.mark.needs("networks")
def test_a_domain_does_not_start_without_its_network(bench: Bench, hypervisor: Hypervisor) -> None:
    network = bench.network(start=False)
    name = bench.node("n1", network)
    with pytest.raises(HypervisorError, match=f"domain {name}: start: .*{network}.* not active"):
        hypervisor.start_domain(name)


@pytest.mark.needs("bytes")
def test_a_domain_does_not_start_without_its_disk(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    volume = overlay_name(LAB, "n1")
    hypervisor.remove_volume(volume)
    with pytest.raises(HypervisorError, match=f"domain {name}: start: .*{volume}"):
        hypervisor.start_domain(name)


@pytest.mark.needs("unplugging")
def test_an_unplugged_nic_is_gone_and_comes_back_with_the_power(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1", bench.network())
    hypervisor.start_domain(name)
    hypervisor.detach_nic(name, MAC.upper())
    assert _info(hypervisor, name).nics == ()
    with pytest.raises(HypervisorError, match=f"domain {name}: has no NIC with the MAC {MAC}"):
        hypervisor.detach_nic(name, MAC)
    hypervisor.power_off(name)
    assert [nic.mac for nic in _info(hypervisor, name).nics] == [MAC]


# -- the guest ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("agent")
@pytest.mark.parametrize("power", ["off", "paused", "on"])
def test_an_agent_that_can_not_answer_is_gone(bench: Bench, hypervisor: Hypervisor, power: str) -> None:
    name = bench.node("n1")
    if power != "off":
        hypervisor.start_domain(name, paused=power == "paused")
    with pytest.raises(AgentGone, match=f"domain {name}: agent: guest-ping: "):
        hypervisor.agent(name, {"execute": "guest-ping"}, 0.5)


@pytest.mark.needs("streams")
@pytest.mark.parametrize("channel", [None, "labctl.ssh.0"])
def test_closing_a_console_wakes_who_reads_from_it(bench: Bench, hypervisor: Hypervisor, channel: str | None) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name, paused=True)
    console = hypervisor.open_channel(name, channel) if channel else hypervisor.open_console(name)
    console.write(b"typed")
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.append(console.read()), daemon=True)
    reader.start()
    console.close()
    console.close()
    reader.join(10)
    assert seen == [b""]


@pytest.mark.needs("streams")
def test_a_channel_is_for_whoever_has_it_open_until_it_is_let_go(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name, paused=True)
    for _ in range(2):
        mine = hypervisor.open_channel(name, "labctl.ssh.0")
        with pytest.raises(ChannelTaken, match=f"domain {name}: channel labctl.ssh.0"):
            hypervisor.open_channel(name, "labctl.ssh.0")
        another = hypervisor.open_channel(name, "labctl.ssh.1")
        another.close()
        mine.close()


@pytest.mark.needs("streams")
def test_a_console_ends_when_its_domain_is_powered_off(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name, paused=True)
    console = hypervisor.open_console(name)
    hypervisor.power_off(name)
    assert console.read() == b""
    console.close()


@pytest.mark.needs("streams")
def test_a_domain_that_is_off_has_no_console(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    with pytest.raises(HypervisorError, match=f"domain {name}"):
        hypervisor.open_console(name)


@pytest.mark.needs("streams")
def test_a_channel_that_is_not_there_is_named(bench: Bench, hypervisor: Hypervisor) -> None:
    name = bench.node("n1")
    hypervisor.start_domain(name, paused=True)
    with pytest.raises(HypervisorError, match=f"domain {name}: channel no.such.0"):
        hypervisor.open_channel(name, "no.such.0")
