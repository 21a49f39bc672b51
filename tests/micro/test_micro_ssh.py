"""People's own tools into a tiny guest, over its channels: ssh, scp, rsync and forwarded ports."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl.clock import Deadline, wait_until

pytestmark = pytest.mark.lab(topology="micro")


@contextmanager
def running(labctl, *arguments):
    """`labctl` with its ends in our hands, once it has said its first line; killed at the end."""
    process = subprocess.Popen(
        labctl.argv(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=labctl.environment,
    )
    try:
        first = process.stdout.readline().decode()
        assert first, process.stderr.read().decode()
        yield process, first
    finally:
        process.kill()
        process.communicate(timeout=60)


def session(labctl):
    """A session that lasts until its input ends, and no longer."""
    return running(labctl, "ssh", "client", "echo begun; read -r line; echo $line")


def wait_for_no_sshd(guest, clock):
    """Wait until nothing of any session is left in the guest."""

    def probe():
        left = guest.run(["sh", "-c", "pgrep -a sshd; fuser /dev/virtio-ports/labctl.ssh.* 2>&1"]).text
        return (not left) or None, left

    wait_until("client: no sshd is left, and nobody at a channel", probe, Deadline.within(60, clock))


@pytest.fixture
def ssh_config(labctl, tmp_path) -> Path:
    """The lab's configuration for OpenSSH, in a file."""
    told = labctl("ssh-config")
    assert told.returncode == 0
    file = tmp_path / "lab.ssh"
    file.write_bytes(told.stdout)
    return file


def tool(*argv: str | Path) -> str:
    """Run one of the host's programs as a script would, with nobody there to answer a question."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_ssh_passes_everything_on_and_leaves_nothing_behind(labctl, guest, micro, record_property):
    data = os.urandom(200_000)
    began_s = micro.clock.now_s()
    done = labctl("ssh", "client", "hostname >&2; cat; exit 7", stdin=data)
    record_property("one command over ssh", f"{micro.clock.now_s() - began_s:.2f} s")
    assert (done.returncode, done.stdout, done.stderr) == (7, data, b"client\n")
    wait_for_no_sshd(guest, micro.clock)


def test_ssh_gives_the_options_of_a_command_to_the_command(labctl):
    assert labctl("ssh", "client", "printf", "%s.", "-l", "--lab", "-c").stdout == b"-l.--lab.-c."


def test_what_is_copied_arrives_every_time(ssh_config, tmp_path, guest):
    # One of thirty did not while sshd polled its channel by two descriptors; see session.sh.
    guest.shell("mkdir /root/many; cd /root/many; for n in $(seq 200); do head -c $((n * 300)) /dev/urandom >$n; done")
    for number in range(3):
        tool("scp", "-q", "-F", ssh_config, "-r", "client:/root/many", tmp_path / f"{number}")
        assert len(list((tmp_path / f"{number}").iterdir())) == 200
    guest.shell("rm -r /root/many")


def test_scp_and_rsync_copy_both_ways(ssh_config, tmp_path, guest, micro):
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    for number in range(20):
        (there / f"{number}").write_bytes(os.urandom(10_000 * number))
    tool("scp", "-q", "-F", ssh_config, "-r", there, "client:/root/by-scp")
    tool("rsync", "-a", "-e", f"ssh -F {ssh_config}", f"client.{micro.name}:/root/by-scp/", back)
    assert {f.name: f.read_bytes() for f in back.iterdir()} == {f.name: f.read_bytes() for f in there.iterdir()}
    guest.shell("rm -r /root/by-scp")


def test_what_is_said_comes_back_at_once_every_time(labctl):
    # Each is lost when whoever waits for it is not woken; see session.sh.
    with running(labctl, "ssh", "client", "echo begun; cat") as (process, _):
        for number in range(200):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 60)
            assert ready, f"answer {number} did not come within 60 s"
            assert process.stdout.readline() == b"%d\n" % number


def test_a_second_session_does_not_disturb_the_first(labctl):
    with session(labctl) as (first, _), session(labctl) as (second, _):
        for process in (second, first):
            said, _ = process.communicate(b"still there\n", timeout=60)
            assert (process.returncode, said) == (0, b"still there\n")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", ["ssh", "what carries its bytes"])
def test_a_session_that_is_ended_leaves_its_channel_to_the_next(labctl, guest, micro, victim, how):
    with session(labctl) as (process, _):
        carrier = int(tool("pgrep", "-P", str(process.pid)))
        os.kill(process.pid if victim == "ssh" else carrier, how)
        assert process.wait(60) == (-signal.SIGKILL if (victim, how) == ("ssh", signal.SIGKILL) else 255)
        # At once, while the one that was ended may still be there in the guest. Its ends of the channel are not, and
        # sshd has none of its own to poll.
        seen = labctl("ssh", "client", "pgrep -xc cat; readlink /proc/$PPID/fd/*").stdout
        assert seen.startswith(b"2\n")
        assert b"vport" not in seen
    wait_for_no_sshd(guest, micro.clock)


def test_ssh_works_in_a_lab_that_was_just_restored(clean_lab, labctl):
    assert labctl("ssh", "m2", "hostname").stdout == b"m2\n"


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
        return answer.read().decode()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_forwarded_ports_serve_many_at_once_until_ctrl_c(labctl, guest, micro):
    one, two = free_ports(2)
    ports = [f"{one}:web.micro.test:80", f"{two}:10.78.0.22:80"]
    with running(labctl, "forward", "client", *ports) as (process, first):
        assert first == f"127.0.0.1:{one} is web.micro.test:80 of client; Ctrl-C ends it\n"
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(get, [one, two] * 8))
        assert all("served by m" in page for page in answers[::2])
        assert all("served by m2" in page for page in answers[1::2])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 255  # what ssh makes of it
        assert process.stderr.read() == b""
    wait_for_no_sshd(guest, micro.clock)


def test_ports_that_can_not_be_forwarded_are_named_with_the_next_step(labctl):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = labctl("forward", "m1", "80", "--local", str(port))
    assert (refused.returncode, refused.stdout) == (3, b"")
    assert f"local port {port}: something else listens there" in refused.stderr.decode()
    refused = labctl("forward", "m1", f"{port}:8080")
    assert (refused.returncode, refused.stdout) == (3, b"")
    assert b"m1: nobody listens on port 8080: Connection refused\n  next: labctl exec m1 -- ss -ltn" in refused.stderr
