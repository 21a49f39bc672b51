"""labctl as a process: what goes in, what comes out, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import subprocess
import termios

import pytest

from labctl.clock import Deadline, wait_until

pytestmark = pytest.mark.lab(topology="micro")


def test_exec_passes_output_error_output_and_exit_code_on(labctl):
    done = labctl("exec", "client", "--", "sh", "-c", "echo this; echo that >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"this\n", b"that\n")


def test_exec_passes_standard_input_on(labctl):
    data = bytes(range(256)) * 40
    done = labctl("exec", "client", "--", "cat", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


def test_exec_leaves_the_options_of_the_command_alone(labctl):
    done = labctl("exec", "client", "--", "printf", "%s|", "--lab", "-c", "--help", "--", "-x")
    assert done.stdout == b"--lab|-c|--help|--|-x|"


def test_exec_passes_on_output_of_any_size(labctl):
    script = "cd /var/tmp; head -c 20000000 /dev/urandom > much; sha256sum < much >&2; cat much; rm much"
    done = labctl("exec", "client", "--", "sh", "-c", script)
    assert (done.returncode, len(done.stdout)) == (0, 20_000_000)
    assert hashlib.sha256(done.stdout).hexdigest() == done.stderr.decode().split()[0]


def test_exec_that_runs_out_of_time_is_a_deadline(labctl):
    done = labctl("exec", "--within", "1", "client", "--", "sleep", "60")
    assert done.returncode == 4
    assert b"labctl: client: sleep 60: still running after 1 s, killed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exec", "nobody", "--", "true"], "lab {lab} has no node nobody"),
        (["exec", "--lab", "nowhere", "client", "--", "true"], "there is no lab nowhere"),
        (["status", "--lab", "nowhere"], "there is no lab nowhere"),
        (["up", "no-such-topology"], "no-such-topology"),
        (["cp", "here", "there"], "one of the two must be NODE:PATH"),
        (["cp", "/no/such/file", "client:/root/"], "/no/such/file is not a file"),
        (["cp", "/etc/hostname", "client:relative"], "client:relative is not an absolute path"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_what_can_not_be_meant_is_bad_input(labctl, arguments, words):
    done = labctl(*arguments)
    assert done.returncode == 2
    assert words.format(lab=labctl.lab) in " ".join(done.stderr.decode().split())
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "--connect", "qemu:///nonsense"], "connection to qemu:///nonsense"),
        (["cp", "client:/no/such/file", "/tmp/labctl-never"], "/no/such/file"),
        (["cp", "/etc/hostname", "client:/proc/never"], "/proc/never"),
    ],
)
def test_what_the_environment_refuses_is_told(labctl, arguments, words):
    done = labctl(*arguments)
    assert done.returncode == 3
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_cp_copies_a_file_in_and_out(labctl, tmp_path):
    there, back = tmp_path / "some file", tmp_path / "back"
    there.write_bytes(os.urandom(300_000))
    there.chmod(0o750)
    back.mkdir()
    assert labctl("cp", str(there), "client:/root/copied/").returncode == 0
    listed = labctl("exec", "client", "--", "stat", "-c", "%a %s", "/root/copied/some file")
    assert listed.stdout == b"750 300000\n"
    assert labctl("cp", "client:/root/copied/some file", str(back)).returncode == 0
    assert (back / "some file").read_bytes() == there.read_bytes()
    assert labctl("exec", "client", "--", "rm", "-r", "/root/copied").returncode == 0


def test_status_tells_programs_all_about_the_lab(labctl, micro):
    told = json.loads(labctl("status", "--json").stdout)
    assert (told["lab"], [n["node"] for n in told["nodes"]]) == (micro.name, ["m1", "m2", "client"])
    assert {n["state"] for n in told["nodes"]} == {"ready"}
    cluster_nic = {n["name"]: n for n in told["nodes"][0]["nics"]}["cluster"]
    assert cluster_nic["address"] == "10.78.0.31/16"
    assert cluster_nic["mac"] == "02:01:0a:4e:00:14"
    assert cluster_nic["link_up"] is True
    cluster = told["clusters"][0]
    assert (cluster["fqdn"], cluster["address"], cluster["converged"]) == ("web.micro.test", "10.78.0.20", True)
    assert [(m["node"], m["sees"]) for m in cluster["members"]] == [("m1", [1, 2]), ("m2", [1, 2])]
    assert sum(cluster["buckets_owned"]["80/tcp"].values()) == 60


def test_status_shows_people_the_same(labctl):
    shown = labctl("status").stdout.decode()
    for words in (
        "m1",
        "web-server",
        "host 10.78.0.21",
        "ready",
        "cluster web: converged",
        "10.78.0.20",
        "80/tcp: 30",
    ):
        assert words in shown


def test_ls_lists_the_lab(labctl, micro):
    rows = {row["lab"]: row for row in json.loads(labctl("ls", "--json").stdout)}
    assert (rows[micro.name]["nodes"], rows[micro.name]["running"]) == (3, 3)
    assert micro.name in labctl("ls").stdout.decode()


def test_plan_and_up_of_a_lab_that_is_up_have_nothing_to_do(labctl):
    says = f"lab {labctl.lab} is up; there is nothing to do"
    planned = labctl("plan", "micro")
    assert (planned.returncode, planned.stdout.decode()) == (0, f"{says}\n")
    again = labctl("up", "micro")
    assert again.returncode == 0
    assert says in again.stderr.decode()


class Terminal:
    """`labctl console` on a terminal of its own."""

    def __init__(self, labctl, node: str) -> None:
        self.side, far_side = pty.openpty()
        self.before = termios.tcgetattr(far_side)
        self.seen = b""
        self.process = subprocess.Popen(
            labctl.argv("console", node),
            stdin=far_side,
            stdout=far_side,
            stderr=far_side,
            env=labctl.environment,
            start_new_session=True,
        )
        self.far_side = far_side

    def type(self, keys: bytes) -> None:
        os.write(self.side, keys)

    def wait_for_guest(self, clock) -> None:
        """Wait until keys go to the guest; what was typed before may be lost."""
        self.wait_for(rb"leaves it", clock)

        def raw() -> tuple[bool | None, str]:
            return (termios.tcgetattr(self.far_side) != self.before) or None, "the terminal is as it was"

        wait_until("labctl console takes the terminal", raw, Deadline.within(20, clock), every_s=0.05)

    def wait_for(self, pattern: bytes, clock, within_s: float = 30) -> None:
        """Wait until `pattern` is shown, after what was waited for before."""
        until_s = clock.now_s() + within_s
        while not (found := re.search(pattern, self.seen)):
            left_s = until_s - clock.now_s()
            assert left_s > 0, f"{pattern!r} did not come; seen: {self.seen!r}"
            if select.select([self.side], [], [], left_s)[0]:
                self.seen += os.read(self.side, 4096)
        self.seen = self.seen[found.end() :]

    def shows_prompt(self, clock) -> None:
        """Press Enter until the guest's prompt is there: one that is just logging in throws away what was typed."""
        deadline = Deadline.within(60, clock)
        while True:
            self.type(b"\r")
            try:
                return self.wait_for(rb"root@client:~# ", clock, within_s=5)
            except AssertionError:
                if deadline.expired:
                    raise

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.side)
        os.close(self.far_side)


@pytest.fixture
def terminal(labctl):
    opened = Terminal(labctl, "client")
    yield opened
    opened.close()


def test_console_takes_what_is_typed_and_puts_the_terminal_back(terminal, micro):
    terminal.wait_for_guest(micro.clock)
    terminal.shows_prompt(micro.clock)
    terminal.type(b"echo $((6 * 7)) on $(hostname) as $(id -un)\r")
    terminal.wait_for(rb"42 on client as root", micro.clock)
    terminal.type(b"\x1d")
    terminal.wait_for(rb"left the console", micro.clock)
    assert terminal.process.wait(20) == 0
    assert termios.tcgetattr(terminal.far_side) == terminal.before


def test_console_passes_ctrl_c_on_to_the_guest(terminal, guest, micro):
    terminal.wait_for_guest(micro.clock)
    terminal.shows_prompt(micro.clock)
    terminal.type(b"sleep 98754\r")

    def sleeping():
        return guest.run(["pgrep", "-x", "sleep"]).exit_code == 0 or None, "no process sleep"

    wait_until("client: what was typed runs", sleeping, Deadline.within(30, micro.clock))
    terminal.wait_for(rb"sleep 98754", micro.clock)
    terminal.type(b"\x03")
    terminal.wait_for(rb"root@client:~# ", micro.clock)
    assert guest.run(["pgrep", "-x", "sleep"]).exit_code == 1
    assert terminal.process.poll() is None
    terminal.type(b"\x1d")
    assert terminal.process.wait(20) == 0


def test_console_belongs_to_whoever_opened_it_last(terminal, labctl, micro):
    terminal.wait_for_guest(micro.clock)
    later = Terminal(labctl, "client")
    try:
        later.wait_for_guest(micro.clock)
        terminal.wait_for(rf"labctl: domain {micro.name}\.client: console: ".encode(), micro.clock)
        assert terminal.process.wait(20) == 3
        assert termios.tcgetattr(terminal.far_side) == terminal.before
        later.type(b"\x1d")
        assert later.process.wait(20) == 0
    finally:
        later.close()
