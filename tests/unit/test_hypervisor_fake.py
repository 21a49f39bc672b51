"""The fake: what tests can plug into it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from labctl.errors import AgentGone, GuestError, HypervisorError
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import Mark
from labctl.render.xml import DomainPlan, domain_xml
from labctl.topology.spec import Accelerator


@pytest.fixture
def fake() -> FakeHypervisor:
    """A fake with one domain, `lab.n1`, that runs."""
    fake = FakeHypervisor()
    fake.define_domain(domain_xml(DomainPlan(Mark("lab", "n1", ""), 1, 1, Accelerator.TCG, "/disk", "root")))
    fake.start_domain("lab.n1")
    return fake


def test_an_agent_answers_commands(fake: FakeHypervisor) -> None:
    fake.agents["lab.n1"] = lambda command: {"asked": command["execute"]}
    assert fake.agent("lab.n1", {"execute": "guest-ping"}, 1) == {"asked": "guest-ping"}


@pytest.mark.parametrize("verb", ["suspend", "power_off"])
def test_an_agent_is_gone_while_its_guest_does_not_run(fake: FakeHypervisor, verb: str) -> None:
    fake.agents["lab.n1"] = lambda _: {}
    getattr(fake, verb)("lab.n1")
    with pytest.raises(AgentGone):
        fake.agent("lab.n1", {"execute": "guest-ping"}, 1)


def test_an_agent_may_raise(fake: FakeHypervisor) -> None:
    def refuse(command: Mapping[str, Any]) -> object:
        raise GuestError(f"no {command['execute']}")

    fake.agents["lab.n1"] = refuse
    with pytest.raises(GuestError, match="no guest-exec"):
        fake.agent("lab.n1", {"execute": "guest-exec"}, 1)


def test_a_method_fails_as_long_as_it_is_told_to(fake: FakeHypervisor) -> None:
    fake.fail_on["power_off"] = HypervisorError("broken")
    with pytest.raises(HypervisorError, match="broken"):
        fake.power_off("lab.n1")
    fake.fail_on.clear()
    fake.power_off("lab.n1")


def test_a_console_hears_the_test_and_is_heard(fake: FakeHypervisor) -> None:
    console = fake.open_console("lab.n1")
    guest = fake.consoles["lab.n1", ""]
    threading.Timer(0.01, lambda: guest.feed(b"login: ")).start()
    assert console.read(4) == b"logi"
    assert console.read() == b"n: "
    console.write(b"root\n")
    assert guest.typed == b"root\n"
