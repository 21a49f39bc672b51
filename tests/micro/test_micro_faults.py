"""Every fault on a real guest: it is seen where it has its effect, it goes when it is healed, and none is lost."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from labctl.clock import Deadline, wait_until
from labctl.faults import (
    AgentGone,
    ClockJump,
    Corrupt,
    CpuHog,
    Delay,
    DiskErrors,
    DnsOutage,
    Duplicate,
    FillDisk,
    FreezeProcess,
    KillProcess,
    LinkDown,
    Loss,
    MemoryHog,
    Partition,
    Rate,
    RebootGuest,
    Reorder,
    Reset,
    StopService,
    Timed,
    Unplug,
    Unrecorded,
    active,
    heal_all,
)
from labctl.faults import inject as begin

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

M1, M2 = "10.78.0.21", "10.78.0.22"


@pytest.fixture
def outcome(history):
    """What the history says of the faults so far: kind and phase."""
    return lambda: [(e.fault, str(e.phase)) for e in history.read().faults()]


def gone_through(kind):
    return [(kind, phase) for phase in ("injected", "confirmed", "healed", "heal_confirmed")]


def pinged(client, address, *options, count=40):
    """What ping says of many small packets in the end."""
    done = client.run(["ping", "-q", "-i", "0.02", "-c", str(count), "-W", "1", *options, address], within_s=120)
    return done.text


def lost_percent(said):
    return float(re.search(r"([0-9.]+)% packet loss", said)[1])


def least_ms(said):
    return float(re.search(r"rtt min/avg/max/mdev = ([0-9.]+)/", said)[1])


# -- bad cables: seen by somebody else than who injected them ----------------------------------------------------------


def test_frames_are_lost(lab, client, inject, outcome):
    assert lost_percent(pinged(client, M1)) == 0  # now its MAC is known; the answer to who has it could be lost, too
    with inject(Loss("client", "host", 50.0, seed=1)):
        assert 40 < lost_percent(pinged(client, M1)) < 98  # half on the way there, half of the rest on the way back
    assert lost_percent(pinged(client, M1)) == 0
    assert outcome() == gone_through("loss host")


def test_frames_are_late(client, inject):
    with inject(Delay("client", "host", 100.0)):
        assert least_ms(pinged(client, M1, count=5)) >= 200  # there and back
    assert least_ms(pinged(client, M1, count=5)) < 100


def test_frames_come_twice(client, inject):
    with inject(Duplicate("client", "host", 100.0, "out")):
        said = pinged(client, M1, count=10)
        assert int(re.search(r"\+(\d+) duplicates", said)[1]) >= 8, said
    assert "duplicates" not in pinged(client, M1, count=10)


def test_frames_are_corrupted(client, inject):
    with inject(Corrupt("client", "host", 100.0, "in")):
        assert lost_percent(pinged(client, M1, count=20)) > 50  # a wrong checksum, if the bit is not in the padding
    assert lost_percent(pinged(client, M1, count=20)) == 0


def test_frames_overtake_each_other_and_a_cable_is_slow_at_the_same_time(client, inject, outcome):
    both = [Reorder("client", "host", 50.0, ms=80.0, direction="out"), Rate("client", "host", 64, direction="out")]
    with inject(*both):
        shown = json.loads(client.succeed(["tc", "-json", "qdisc", "show", "dev", "host", "root"]))[0]["options"]
        assert (shown["reorder"]["reorder"], shown["rate"]["rate"], shown["delay"]["delay"]) == (0.5, 8000, 0.08)
        assert least_ms(pinged(client, M1, count=20)) < 80  # those that overtook
    assert "netem" not in client.succeed(["tc", "qdisc", "show", "dev", "host"])
    assert [o for o in outcome() if o[1] == "heal_confirmed"] == [
        ("rate host", "heal_confirmed"),
        ("reorder host", "heal_confirmed"),
    ]


def test_a_cable_is_slow(client, inject):
    with inject(Rate("client", "host", 64, "out")):
        assert least_ms(pinged(client, M1, "-s", "1400", count=3)) > 150  # 1442 bytes at 8000 bytes a second


# -- nodes that don't hear each other ----------------------------------------------------------------------------------


def test_a_one_way_partition_cuts_one_way(lab, client, inject, outcome):
    with inject(Partition((("m1",), ("client",)), one_way=True)):
        assert lost_percent(pinged(client, M1, count=2)) == 100
        assert lost_percent(pinged(client, M2, count=2)) == 0
        assert int(lab.guest("m1").shell("grep -c . /proc/net/arp")) > 1  # it heard the client ask
    assert lost_percent(pinged(client, M1, count=2)) == 0
    assert outcome() == gone_through("partition")


def test_a_partition_holds_also_where_the_cable_is_bad(lab, client, inject):
    with inject(Partition((("m1",), ("client",))), Delay("m1", "host", 20.0), Delay("client", "host", 20.0)):
        assert lost_percent(pinged(client, M1, count=2)) == 100
        assert least_ms(pinged(client, M2, count=2)) >= 40
    # That nobody has the address its kernel remembers for a while.
    waited(lab, lambda: lost_percent(pinged(client, M1, count=2)) == 0, "m1 is found again")


def test_without_their_heartbeat_two_members_each_take_all(lab, inject, watch, history):
    with inject(Partition((("m1",), ("m2",)), heartbeat_only=True)):
        cluster = lab.spec.clusters[0]
        waited(lab, lambda: all(len(m.alive or ()) == 1 for m in lab.look(cluster).members), "each is alone")
    lab.wait_converged(30)


def waited(lab, claim, what):
    wait_until(what, lambda: (claim() or None, "not yet"), Deadline.within(30, lab.clock), every_s=0.5)


def test_no_dns_gets_out(client, inject, outcome):
    with inject(DnsOutage("client")):
        asked = client.run(["python3", "-c", "import socket; socket.socket(type=2).sendto(b'?', ('10.78.0.21', 53))"])
        assert b"Operation not permitted" in asked.stderr
    assert outcome() == gone_through("dns-outage")


# -- inside a guest ----------------------------------------------------------------------------------------------------


def test_a_service_stops_and_its_process_dies_and_freezes(lab, inject, outcome):
    guest = lab.guest("m1")
    with inject(StopService("m1", "nginx"), FreezeProcess("m1", "keepalived")):
        assert guest.run(["pgrep", "-x", "nginx"]).exit_code == 1
        assert set(guest.shell("ps -o stat= -C keepalived").split()) <= {"T", "Ts", "T<s", "T<", "T<Ls", "TLs", "TL"}
    with inject(KillProcess("m1", "nginx")):
        pass
    assert guest.run(["pgrep", "-x", "nginx"]).exit_code == 0
    assert outcome()[-4:] == gone_through("kill-process nginx")
    lab.wait_converged(60)


def test_disk_cpu_and_memory_are_taken_and_the_clock_is_wrong(lab, guest, inject, outcome):
    faults = [
        FillDisk("client"),
        CpuHog("client", workers=2),
        MemoryHog("client", leave_mib=32),
        ClockJump("client", 7200.0),
    ]
    with inject(*faults):
        assert (
            "No space left"
            in guest.run(["/bin/dd", "if=/dev/zero", "of=/root/full", "bs=64k", "count=1"]).stderr.decode()
        )
        assert float(guest.succeed(["cat", "/proc/loadavg"]).split()[3].split("/")[0]) >= 2
        assert int(guest.shell("awk '/^MemAvailable/ {print $2}' /proc/meminfo")) < 48 * 1024
        assert guest.clock_ns() - time.time_ns() > 7000e9
    guest.shell("rm -f /root/full; dd if=/dev/zero of=/root/fine bs=64k count=1 2>&1; rm /root/fine")
    assert int(guest.shell("awk '/^MemAvailable/ {print $2}' /proc/meminfo")) > 64 * 1024
    assert abs(guest.clock_ns() - time.time_ns()) < 5e9
    assert sorted(k for k, phase in outcome() if phase == "heal_confirmed") == [
        "clock-jump", "cpu-hog", "fill-disk /var", "memory-hog"
    ]  # fmt: skip


def test_an_agent_that_is_gone_comes_back_over_the_console_and_the_node_served_meanwhile(lab, client, inject, outcome):
    with inject(AgentGone("m1")):
        assert lab.guest("m1").answers()
        assert lost_percent(pinged(client, M1, count=2)) == 0
    assert not lab.guest("m1").answers()
    assert outcome() == gone_through("agent-gone")


def test_an_agent_that_is_gone_comes_back_by_itself_when_nobody_brings_it(lab, injects_only):
    guest, inject_only = injects_only
    inject_only(AgentGone("client", lasts_s=3))
    waited(lab, guest.answers, "the agent goes")
    waited(lab, lambda: not guest.answers(), "the agent comes back")


@pytest.fixture
def injects_only(lab, guest):
    """Injects without a heal that follows; what is left is healed in the end."""
    yield guest, lambda fault: begin(fault, lab.ground(), Unrecorded())
    heal_all(lab.ground())


# -- the machine -------------------------------------------------------------------------------------------------------


def test_a_nic_is_taken_out_and_put_in_again(lab, inject, outcome):
    guest = lab.guest("m1")
    with inject(Unplug("m1", "cluster")):
        assert guest.run(["test", "-e", "/sys/class/net/cluster"]).exit_code == 1
    assert "10.78.0.20" in guest.succeed(["ip", "-brief", "address", "show", "dev", "cluster"])
    lab.wait_converged(60)
    assert outcome() == gone_through("unplug cluster")
    assert not lab.plan()


def test_a_machine_whose_disk_died_comes_back_with_its_disk(lab, inject, watch, history, outcome):
    lab.guest("m1").shell("echo kept > /root/kept; sync")
    with inject(DiskErrors("m1")):
        assert lab.guest("m1").answers() == ""
    assert lab.guest("m1").shell("cat /root/kept; rm /root/kept") == "kept"
    assert outcome() == gone_through("disk-errors")
    lab.wait_converged(120)


@pytest.mark.parametrize("fault", [Reset("m2"), RebootGuest("m2")], ids=lambda f: f.NAME)
def test_a_machine_boots_again(fault, lab, inject, outcome):
    with inject(fault):
        pass
    assert outcome() == gone_through(fault.kind)
    lab.wait_converged(120)
    assert lab.guest("m2").shell("hostname") == "m2"


def test_a_timed_fault_comes_and_goes(lab, client, inject, outcome, history):
    began_s = lab.clock.now_s()
    with inject(Timed(Loss("client", "host", 100.0, "in"), after_s=1.0, lasts_s=2.0)):
        waited(lab, lambda: outcome() == gone_through("loss host"), "it is over")
        assert lost_percent(pinged(client, M1, count=2)) == 0
    times = [e.at_s - began_s for e in history.read().faults()]
    assert times[0] >= 1.0
    assert times[2] - times[1] >= 2.0


# -- a harness that dies -----------------------------------------------------------------------------------------------

_DIES = """
import os, sys
from labctl.faults import LinkDown, Loss, Pause, StopService, Unrecorded, injected_together
from labctl.lab import Lab, open_hypervisor
with open_hypervisor(sys.argv[1]) as hypervisor:
    lab = Lab.existing(hypervisor, sys.argv[2])
    faults = [Loss("m2", "host", 30), StopService("m1", "nginx"), LinkDown("m1", "cluster"), Pause("m1")]
    with injected_together(faults, lab.ground(), Unrecorded()):
        os.kill(os.getpid(), 9)
"""


def test_what_a_killed_harness_left_is_found_and_healed_by_the_next_command(lab, labctl):
    died = subprocess.run(
        [sys.executable, "-c", _DIES, lab.hypervisor.uri, lab.name], capture_output=True, check=False, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    rows = json.loads(labctl("fault", "ls", "--json").stdout)
    assert {(r["kind"], r["target"]) for r in rows} == {
        ("loss host", "m2"), ("stop-service nginx", "m1"), ("link-down cluster", "m1"), ("pause", "m1")
    }  # fmt: skip
    planned = [str(a) for a in lab.plan().actions]
    assert "heal m1: stop-service nginx, link-down cluster, pause" in planned
    assert "heal m2: loss host" in planned
    said = labctl("fault", "heal", "--all")
    assert said.returncode == 0, said.stderr.decode()
    assert b"stop-service nginx of m1 is healed" in said.stderr
    assert active(lab.ground()) == ()
    lab.wait_converged(60)
    assert not lab.plan()
    assert "netem" not in lab.guest("m2").succeed(["tc", "qdisc", "show", "dev", "host"])


def test_a_lab_that_is_set_back_has_no_fault_left(lab, labctl):
    assert labctl("fault", "inject", "link-down", "m1", "nic=cluster").returncode == 0
    lab.reset()
    assert active(lab.ground()) == ()
    assert not lab.plan()
    lab.hypervisor.power_off(lab.guest("m1").domain)
    off = lab.hypervisor.domain(lab.guest("m1").domain)
    assert [nic.link_up for nic in off.nics] == [True, True]  # nor would it come back with the next boot
    lab.reset()


def test_a_fault_that_can_not_be_done_is_bad_input(labctl):
    refused = labctl("fault", "inject", "stop-service", "m1", "service=dovecot")
    assert refused.returncode == 2
    assert b"service dovecot does not run" in refused.stderr
    assert labctl("fault", "heal").returncode == 2
    assert labctl("fault", "heal", "loss", "m1").returncode == 2


def test_link_down_is_seen_by_the_guest(lab, inject, outcome):
    with inject(LinkDown("m1", "host")):
        assert lab.guest("m1").shell("cat /sys/class/net/host/carrier") == "0"
    assert outcome() == gone_through("link-down host")
