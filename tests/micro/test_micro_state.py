"""The state of a lab on real tiny guests: saved, restored, forked, and thrown away when it is no good."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from labctl.lab import Lab
from labctl.plan import Verb
from labctl.state.kept import discard_state, states

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]


def nodes(lab):
    return [n.name for n in lab.spec.nodes]


def identity(lab, node):
    """What a machine must not share with another, and random bytes drawn just now."""
    script = (
        "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; head -c 16 /dev/urandom | od -An -tx1"
    )
    return lab.guest(node).shell(script).splitlines()


def clock_error_s(lab, node):
    """How far a node's clock is from the host's; a lower bound, as the question takes time."""
    before = time.time()
    guest_s = lab.guest(node).clock_ns() / 1e9
    return max(0.0, before - guest_s, guest_s - time.time())


def test_a_reset_undoes_all_that_was_done_and_sets_the_clocks(clean_lab):
    lab = clean_lab
    lab.guest("m1").shell("echo changed > /root/mark; rm -rf /etc/nginx; date --utc --set=@1000000000")
    lab.hypervisor.power_off(lab.guest("m2").domain)
    lab.reset()
    assert lab.guest("m1").shell("ls /etc/nginx/nginx.conf; ls /root") == "/etc/nginx/nginx.conf"
    assert [s.state for s in lab.status()] == ["ready"] * 3
    assert lab.look(lab.cluster()).converged
    assert max(clock_error_s(lab, n) for n in nodes(lab)) < 1.0
    assert not lab.plan()


def test_nothing_random_is_drawn_twice_after_two_resets(clean_lab):
    drawn = []
    for _ in range(2):
        clean_lab.reset()
        drawn += [identity(clean_lab, n)[2] for n in nodes(clean_lab)]
    assert len(set(drawn)) == len(drawn)


def test_fifty_resets_in_a_row_end_converged_with_the_right_time(clean_lab):
    lab, took_s, errors_s = clean_lab, [], []
    for _ in range(50):
        began_s = time.monotonic()
        lab.reset()
        took_s.append(time.monotonic() - began_s)
        assert lab.look(lab.cluster()).converged
        errors_s.append(max(clock_error_s(lab, n) for n in nodes(lab)))
        assert errors_s[-1] < 1.0
    took_s.sort()
    print(f"resets took {took_s[0]:.2f} - {took_s[-1]:.2f} s, clocks were off by up to {max(errors_s):.3f} s")


def test_a_restored_lab_serves_through_its_virtual_address(clean_lab, client):
    ask = "curl -sS --max-time 10 --interface 10.78.1.$i http://web.micro.test/"
    answers = client.shell(f"for i in $(seq 1 16); do {ask}; done")
    assert set(answers.splitlines()) == {"served by m1", "served by m2"}


def test_a_destroyed_lab_comes_back_from_its_ready_state_and_keeps_its_identities(clean_lab):
    lab, before = clean_lab, [identity(clean_lab, n)[:2] for n in nodes(clean_lab)]
    lab.destroy()
    done = lab.up()
    assert [a.verb for a in done.actions] == [Verb.CREATE_NETWORK, *[Verb.RESTORE_NODE] * 3]
    assert [identity(lab, n)[:2] for n in nodes(lab)] == before


SERVER = """
import socket, time
connection, _ = socket.create_server(("10.78.0.21", 7000)).accept()
while True:
    connection.send(b"x")
    time.sleep(0.2)
"""
CLIENT = """
import socket
connection = socket.create_connection(("10.78.0.21", 7000), 30)
with open("/run/got", "ab", buffering=0) as got:
    while data := connection.recv(9):
        got.write(data)
"""


def test_a_connection_between_guests_outlives_a_snapshot_and_its_restore(clean_lab):
    lab = clean_lab
    for node, program in (("m1", SERVER), ("client", CLIENT)):
        lab.guest(node).write_file("/root/talk.py", program.encode())
    listening = "until ss -Hltn | grep -q :7000; do sleep 0.1; done"
    lab.guest("m1").shell(f"nohup setsid python3 /root/talk.py >/dev/null 2>&1 & {listening}")
    lab.guest("client").shell("nohup setsid python3 /root/talk.py >/dev/null 2>&1 &")
    grows(lab)
    try:
        lab.save_snapshot("talk")
        grows(lab)
        lab.restore_snapshot("talk")
        grows(lab)
    finally:
        lab.reset()
        for saved in states(lab.hypervisor):
            if saved.lab == lab.name and saved.name == "talk":
                discard_state(lab.hypervisor, saved.key)


def grows(lab, within_s=60.0):
    """Wait until the client has received more than now."""
    size = "stat -c %s /run/got 2>/dev/null || echo 0"
    before, deadline = int(lab.guest("client").shell(size)), time.monotonic() + within_s
    while int(lab.guest("client").shell(size)) <= before:
        assert time.monotonic() < deadline, "nothing more arrives on the connection"


def test_labs_of_other_names_stand_on_one_ready_state_side_by_side(clean_lab):
    labs = [Lab.from_topology("micro", hypervisor=clean_lab.hypervisor, name=f"test-side-{n}") for n in (1, 2, 3)]
    try:
        with ThreadPoolExecutor() as pool:
            done = list(pool.map(lambda lab: lab.up(), labs))
        assert all({a.verb for a in plan.actions} == {Verb.CREATE_NETWORK, Verb.RESTORE_NODE} for plan in done)
        same = [clean_lab, *labs]
        for node in nodes(clean_lab):
            seen = [identity(lab, node) for lab in same]
            for kind in range(3):
                assert len({s[kind] for s in seen}) == len(same), f"{node}: shared: {seen}"
        for lab in same:
            assert lab.guest("client").shell("curl -sS --max-time 10 http://web.micro.test/").startswith("served by m")
    finally:
        for lab in labs:
            lab.destroy()
