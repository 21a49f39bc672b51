"""A guest that does not answer is an error within a bound, with its console's last lines, and serves again later."""

from __future__ import annotations

import threading

import pytest

from labctl.clock import Deadline, wait_until
from labctl.errors import AgentGone, DeadlineExceeded, GuestError

pytestmark = pytest.mark.lab(topology="micro")

SAID = "this is what the console said last"
CONSOLE = rf"last lines of client's console:\n(?:  \| .*\n)*  \| .*{SAID}"


@pytest.fixture(autouse=True)
def console_says_something(guest):
    guest.shell(f"echo {SAID} > /dev/ttyS0")


def gone(guest, lab):
    """Wait until the agent does not answer."""

    def probe():
        return guest.answers() or None, "it answers"

    return wait_until("client: the agent stops answering", probe, Deadline.within(20, lab.clock))


@pytest.fixture
def serves_again(guest):
    """Afterwards the guest is as good as before."""
    yield
    guest.wait_for_agent(Deadline.within(60))
    assert guest.run(["/bin/echo", "still here"]).text == "still here"


@pytest.fixture
def suspended(micro, guest, serves_again):
    micro.hypervisor.suspend(guest.domain)
    yield
    micro.hypervisor.resume(guest.domain)


@pytest.fixture
def thawed(micro, guest, serves_again):
    """Brings the agent back by way of the console, where root is logged in."""
    yield
    console = micro.hypervisor.open_console(guest.domain)
    console.write(b"\x03\rpkill -CONT -x qemu-ga; sv up /etc/labctl/service/qemu-ga\r")
    guest.wait_for_agent(Deadline.within(30))
    console.close()


def test_a_paused_guest_is_an_error_at_once(suspended, guest, micro):
    began_s = micro.clock.now_s()
    with pytest.raises(AgentGone, match=rf"(?s)client: .*{CONSOLE}"):
        guest.run(["/bin/true"])
    assert micro.clock.now_s() - began_s < 5


def test_waiting_for_a_paused_guest_ends_at_the_deadline(suspended, guest, micro):
    began_s = micro.clock.now_s()
    with pytest.raises(
        DeadlineExceeded, match=rf"(?s)client: the guest agent answers: not within 1\.\d s; .*{CONSOLE}"
    ):
        guest.wait_for_agent(Deadline.within(1))
    assert micro.clock.now_s() - began_s < 5


def test_a_guest_that_is_paused_while_a_command_runs_is_an_error(serves_again, guest, micro):
    pause = threading.Timer(1.0, micro.hypervisor.suspend, [guest.domain])
    pause.start()
    try:
        began_s = micro.clock.now_s()
        with pytest.raises(AgentGone, match=CONSOLE):
            guest.run(["/bin/sleep", "30"], within_s=60)
        assert micro.clock.now_s() - began_s < 15
    finally:
        pause.join()
        micro.hypervisor.resume(guest.domain)


def test_a_frozen_agent_is_an_error_within_a_bound(thawed, guest, micro, in_background):
    in_background("sleep 1; pkill -STOP -x qemu-ga")
    gone(guest, micro)
    began_s = micro.clock.now_s()
    with pytest.raises(AgentGone, match=rf"(?s)client: .*guest-ping.*{CONSOLE}"):
        guest.command("guest-ping", within_s=2)
    assert micro.clock.now_s() - began_s < 8


def test_a_stopped_agent_is_an_error_at_once(thawed, guest, micro, in_background):
    in_background("sleep 1; sv down /etc/labctl/service/qemu-ga")
    gone(guest, micro)
    began_s = micro.clock.now_s()
    with pytest.raises(AgentGone, match=rf"(?s)client: .*not connected.*{CONSOLE}"):
        guest.run(["/bin/true"])
    assert micro.clock.now_s() - began_s < 3


def test_an_agent_that_was_started_again_does_not_know_the_command_and_that_is_an_error(
    serves_again, guest, micro, in_background
):
    in_background("sleep 2; sv restart /etc/labctl/service/qemu-ga")
    began_s = micro.clock.now_s()
    with pytest.raises(GuestError, match=r"client: .*guest-exec-status"):
        guest.run(["/bin/sleep", "60"], within_s=60)
    assert micro.clock.now_s() - began_s < 30
