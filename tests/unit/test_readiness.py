"""Waiting until a role serves."""

from __future__ import annotations

import pytest
from scripted_guest import ManualClock, Said, ScriptedGuest

from labctl.clock import Deadline
from labctl.errors import AgentGone, DeadlineExceeded
from labctl.guest.agent import Guest
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import Mark
from labctl.readiness import failing, wait_ready
from labctl.render.xml import DomainPlan, domain_xml
from labctl.roles.role import ReadyCheck
from labctl.topology.spec import Accelerator

HTTP = ReadyCheck("HTTP answers", "curl http://m1/")
DNS = ReadyCheck("DNS answers", "dig m1")


class Machine:
    """A guest whose time is the test's."""

    def __init__(self) -> None:
        self.inside, self.clock, self.hypervisor = ScriptedGuest(), ManualClock(), FakeHypervisor()
        self.hypervisor.define_domain(
            domain_xml(DomainPlan(Mark("lab", "m1", ""), 1, 1, Accelerator.TCG, "/d", "root"))
        )
        self.hypervisor.start_domain("lab.m1")
        self.hypervisor.agents["lab.m1"] = self.inside
        self.told: list[str] = []
        self.guest = Guest(self.hypervisor, "m1", "lab.m1", clock=self.clock)

    def fails_until(self, time_s: float, command: str) -> None:
        """Let a check fail until then."""

        def answer(_argv: list[str], _stdin: bytes) -> Said:
            return Said() if self.clock.time_s >= time_s else Said(7, err=b"refused\n")

        self.inside.on("/bin/sh", "-c", command, does=answer)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_role_whose_checks_pass_is_ready_at_once(machine: Machine) -> None:
    wait_ready(machine.guest, "web", [HTTP, DNS], Deadline.within(10.0, machine.clock), machine.told.append)
    assert machine.clock.now_s() == 1000


def test_a_role_without_checks_is_ready(machine: Machine) -> None:
    wait_ready(machine.guest, "web", [], Deadline.within(0.0, machine.clock), machine.told.append)


def test_a_role_is_waited_for_check_by_check(machine: Machine) -> None:
    machine.fails_until(1003, "curl")
    machine.fails_until(1005, "dig")
    wait_ready(machine.guest, "web", [HTTP, DNS], Deadline.within(10.0, machine.clock), machine.told.append)
    assert 1005 <= machine.clock.now_s() < 1006


def test_a_check_that_never_passes_is_named_with_what_it_last_said(machine: Machine) -> None:
    machine.fails_until(9999, "dig")
    with pytest.raises(DeadlineExceeded) as late:
        wait_ready(machine.guest, "web", [HTTP, DNS], Deadline.within(10.0, machine.clock), machine.told.append)
    assert str(late.value) == "m1: web: DNS answers: not within 10.0 s; last seen: exit code 7: refused"


@pytest.mark.parametrize(
    ("out", "err", "why"), [(b"out", b"err", "exit code 1: err"), (b"out\n", b"", "exit code 1: out")]
)
def test_why_a_check_fails_is_what_it_said(machine: Machine, out: bytes, err: bytes, why: str) -> None:
    machine.inside.says("/bin/sh", "-c", "curl", exit_code=1, out=out, err=err)
    assert failing(machine.guest, HTTP) == why


def test_a_check_that_hangs_fails_and_is_tried_again(machine: Machine) -> None:
    def hang(_argv: list[str], _stdin: bytes) -> Said:
        machine.clock.sleep(20.0)
        return Said(signal=9)

    machine.inside.on("/bin/sh", "-c", "curl", does=hang)
    assert "still running after 20 s, killed" in failing(machine.guest, HTTP)


def test_an_agent_that_goes_away_is_no_matter_of_waiting(machine: Machine) -> None:
    machine.hypervisor.power_off("lab.m1")
    with pytest.raises(AgentGone):
        wait_ready(machine.guest, "web", [HTTP], Deadline.within(10.0, machine.clock), machine.told.append)
