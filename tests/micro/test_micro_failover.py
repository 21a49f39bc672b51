"""A member breaks: its clients come back within the bound, and a cluster that is broken is not called fine."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from failover import takeover

from labctl.checks import Result, summary
from labctl.errors import VerdictFailed
from labctl.faults import LinkDown, Loss, Pause, PowerOff

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

VICTIM, SURVIVOR = "m1", "m2"


FAULTS = {
    "power-off": PowerOff(VICTIM),
    "hang": Pause(VICTIM),
    "no link": LinkDown(VICTIM, "cluster"),
    "silent loss": Loss(VICTIM, "cluster", 100.0),  # the link is up, and nothing comes through
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_member_breaks_and_its_clients_come_back(fault, lab, probe, inject, history, watch, verdict):
    takeover(fault, lab).run(lab, probe, inject, history, verdict).require_pass()
    assert not lab.plan()


def never_rejoined(lab):
    """The scenario of a member that hangs, in a cluster that is broken: nobody waits long for it to be whole again."""
    return replace(takeover(Pause(VICTIM), lab), rejoin_within_s=8.0)


@pytest.fixture
def heartbeat_stopped(lab):
    """The victim has stopped its heartbeat, as a member does that leaves."""
    lab.guest(VICTIM).succeed(["sv", "-w", "20", "down", "/etc/labctl/service/keepalived"])
    yield
    lab.guest(VICTIM).succeed(["sv", "-w", "20", "up", "/etc/labctl/service/keepalived"])
    lab.wait_converged()


@pytest.fixture
def survivor_drops(lab):
    """The survivor drops all that it should accept."""
    lab.guest(SURVIVOR).succeed(["nft", "insert", "rule", "ip", "labctl_web", "decide", "drop"])
    yield
    lab.guest(SURVIVOR).succeed(["/etc/labctl/boot.d/20-cluster-web"])
    lab.wait_converged()


def test_a_member_that_was_out_before_it_broke_is_no_failover(
    heartbeat_stopped, lab, probe, inject, history, watch, verdict
):
    found = never_rejoined(lab).run(lab, probe, inject, history, verdict)
    assert found.result is Result.FAIL
    told = summary(found)
    assert f"{VICTIM} answered none of 20 clients" in told
    assert f"{SURVIVOR} sees {SURVIVOR}" in told
    with pytest.raises(VerdictFailed, match=f"{VICTIM} answered none"):
        found.require_pass()


def test_a_survivor_that_serves_nobody_is_no_failover(survivor_drops, lab, probe, inject, history, watch, verdict):
    found = never_rejoined(lab).run(lab, probe, inject, history, verdict)
    assert found.result is Result.FAIL
    reasons = {f.check: f.reason for f in found.findings if f.result is not Result.PASS}
    assert any(reason.startswith(f"{SURVIVOR} answered none of") for reason in reasons.values()), reasons
    (outage,) = (reason for check, reason in reasons.items() if f"s of pause of {VICTIM}" in check)
    assert re.match(r"the outage lasted .* failed: timeout\), the bound is 5\.400 s", outage), outage
