"""A guest over the agent's channel: commands, files and time, and what is said when they fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from scripted_guest import ManualClock, Said, ScriptedGuest

from labctl.clock import Deadline
from labctl.errors import AgentGone, CommandFailed, DeadlineExceeded, GuestError
from labctl.guest.agent import READ_CHUNK_BYTES, WRITE_CHUNK_BYTES, Guest
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import Mark
from labctl.render.xml import DomainPlan, domain_xml
from labctl.topology.spec import Accelerator

FOREVER = 1 << 30
CONSOLE = "last lines of n1's console:\n  | Kernel panic"


@dataclass
class Machine:
    """A guest with both its sides: what labctl holds, and what answers."""

    inside: ScriptedGuest = field(default_factory=ScriptedGuest)
    hypervisor: FakeHypervisor = field(default_factory=FakeHypervisor)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        plan = DomainPlan(Mark("lab", "n1", ""), 1, 1, Accelerator.TCG, "/disk", "root")
        self.hypervisor.define_domain(domain_xml(plan))
        self.hypervisor.start_domain("lab.n1")
        self.hypervisor.agents["lab.n1"] = self.inside
        self.guest = Guest(self.hypervisor, "n1", "lab.n1", evidence=lambda: CONSOLE, clock=self.clock)

    def asked(self, execute: str) -> list[dict[str, object]]:
        """The arguments of every agent command of that name."""
        return [dict(c.get("arguments", {})) for c in self.inside.asked if c["execute"] == execute]


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_command_gives_its_code_and_both_outputs(machine: Machine) -> None:
    machine.inside.says("/bin/ls", exit_code=2, out=b" a\n", err=b"ls: b\n")
    done = machine.guest.run(["/bin/ls", "/"])
    assert (done.exit_code, done.stdout, done.stderr, done.text) == (2, b" a\n", b"ls: b\n", "a")
    assert machine.inside.ran[0] == ["/bin/ls", "/"]


def test_standard_input_reaches_the_command_whatever_is_in_it(machine: Machine) -> None:
    sent = bytes(range(256)) * 2000
    machine.inside.on("/bin/cat", does=lambda _argv, stdin: Said(out=stdin))
    assert machine.guest.run(["/bin/cat"], stdin=sent).stdout == sent


def test_a_command_without_input_reads_nothing_of_ours(machine: Machine) -> None:
    machine.guest.run(["/bin/true"])
    assert machine.asked("guest-file-write") == []


def test_output_of_any_size_comes_whole_and_in_pieces_that_libvirt_takes(machine: Machine) -> None:
    said = bytes(range(256)) * 4 * 5000 + b"the end"
    machine.inside.says("/bin/cat", out=said)
    assert machine.guest.run(["/bin/cat"]).stdout == said
    assert {read["count"] for read in machine.asked("guest-file-read")} == {READ_CHUNK_BYTES}


@pytest.mark.parametrize("stdin", [None, b"x"])
def test_a_command_leaves_no_files_in_the_guest(machine: Machine, stdin: bytes | None) -> None:
    machine.guest.run(["/bin/true"], stdin=stdin)
    assert machine.inside.files == {}


def test_a_command_that_fails_halfway_leaves_no_files_either(machine: Machine) -> None:
    machine.inside.fail["guest-exec-status"] = GuestError("agent: PID 100 does not exist")
    with pytest.raises(GuestError, match="n1: agent: PID 100 does not exist"):
        machine.guest.run(["/bin/true"])
    assert machine.inside.files == {}


def test_a_command_has_a_path_a_home_and_what_it_is_given(machine: Machine) -> None:
    machine.guest.run(["/bin/true"], environment={"LANG": "de_DE", "X": "a b"})
    given = machine.asked("guest-exec")[0]["env"]
    assert isinstance(given, list)
    assert {"HOME=/root", "LANG=de_DE", "X=a b"} < set(given)
    assert any(e.startswith("PATH=") and "/usr/sbin" in e for e in given)


def test_output_is_spooled_where_the_caller_wants(machine: Machine) -> None:
    machine.guest.run(["/bin/true"], spool="/var/tmp")
    assert all(str(a["path"]).startswith("/var/tmp/labctl-") for a in machine.asked("guest-file-open"))


def test_a_command_that_outlives_its_deadline_was_killed_and_is_named(machine: Machine) -> None:
    machine.inside.on("/bin/sleep", does=lambda _argv, _stdin: _killed_after(machine, 5.0))
    with pytest.raises(DeadlineExceeded, match=re.escape("n1: /bin/sleep 60: still running after 5 s, killed")):
        machine.guest.run(["/bin/sleep", "60"], within_s=5.0)
    assert "5.000" in _wrapped(machine)  # it is the guest that kills, agent or no agent


def _killed_after(machine: Machine, seconds: float) -> Said:
    machine.clock.sleep(seconds)
    return Said(signal=9)


def _wrapped(machine: Machine) -> list[str]:
    argument = machine.asked("guest-exec")[0]["arg"]
    assert isinstance(argument, list)
    return argument


def test_a_command_that_somebody_else_killed_did_not_outlive_its_deadline(machine: Machine) -> None:
    machine.inside.on("/bin/sleep", does=lambda _argv, _stdin: _killed_after(machine, 1.0))
    assert machine.guest.run(["/bin/sleep", "60"], within_s=5.0).exit_code == 137


def test_a_command_that_cannot_be_killed_is_not_waited_for_for_ever(machine: Machine) -> None:
    machine.inside.on("/bin/sleep", does=lambda _argv, _stdin: Said(polls=FOREVER))
    with pytest.raises(DeadlineExceeded, match="n1: /bin/sleep: still running after 5 s and could not be killed"):
        machine.guest.run(["/bin/sleep", "60"], within_s=5.0)
    assert machine.clock.now_s() < 1000 + 5 + 11


def test_a_command_that_takes_its_time_is_asked_less_and_less_often(machine: Machine) -> None:
    machine.inside.on("/bin/sleep", does=lambda _argv, _stdin: Said(polls=100))
    machine.guest.run(["/bin/sleep", "20"])
    assert 20 < machine.clock.now_s() - 1000 < 26


def test_output_is_passed_on_as_it_comes_and_not_kept(machine: Machine) -> None:
    machine.inside.on("/bin/ping", does=lambda _argv, _stdin: Said(3, err=b"!", polls=2, lines=(b"one\n", b"two\n")))
    heard: list[tuple[bytes, bytes]] = []
    done = machine.guest.run(["/bin/ping"], on_output=lambda out, err: heard.append((out, err)))
    assert heard == [(b"one\n", b"!"), (b"two\n", b"")]
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"", b"")


def test_succeed_gives_the_output_as_text(machine: Machine) -> None:
    machine.inside.says("/bin/hostname", out=b"n1\n")
    assert machine.guest.succeed(["/bin/hostname"]) == "n1"


@pytest.mark.parametrize(
    ("out", "err", "said"), [(b"out\n", b"err\n", "err"), (b"out\n", b"", "out"), (b"", b"\xff", "�")]
)
def test_a_failure_carries_what_the_command_said(machine: Machine, out: bytes, err: bytes, said: str) -> None:
    machine.inside.says("/bin/false", exit_code=7, out=out, err=err)
    with pytest.raises(CommandFailed) as failed:
        machine.guest.succeed(["/bin/false", "-x"])
    assert str(failed.value) == f"n1: /bin/false -x: exit code 7\n{said}"


def test_a_shell_line_goes_to_a_shell(machine: Machine) -> None:
    machine.guest.shell("echo $HOME | wc")
    assert machine.inside.ran[0] == ["/bin/sh", "-c", "echo $HOME | wc"]


# -- the agent ---------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[Guest], object]] = {
    "run": lambda g: g.run(["/bin/true"]),
    "write": lambda g: g.write_file("/etc/motd", b""),
    "read": lambda g: g.read_file("/etc/motd"),
    "clock": lambda g: g.clock_ns(),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_an_agent_that_is_gone_is_an_error_with_the_last_lines_of_the_console(
    machine: Machine, verb: Callable[[Guest], object]
) -> None:
    del machine.hypervisor.agents["lab.n1"]
    with pytest.raises(AgentGone) as gone:
        verb(machine.guest)
    assert str(gone.value).startswith("n1: domain lab.n1: agent: ")
    assert str(gone.value).endswith(f"the guest agent is not connected\n{CONSOLE}")


def test_an_agent_that_goes_while_a_command_runs_is_said_to_be_gone(machine: Machine) -> None:
    machine.inside.fail["guest-exec-status"] = AgentGone("agent: no answer within 30 s")
    with pytest.raises(AgentGone, match="n1: agent: no answer within 30 s"):
        machine.guest.run(["/bin/true"])


def test_an_answer_says_that_the_agent_is_there(machine: Machine) -> None:
    assert machine.guest.answers() == ""
    machine.hypervisor.power_off("lab.n1")
    assert "not connected" in machine.guest.answers()


def test_waiting_for_the_agent_ends_when_it_answers(machine: Machine) -> None:
    machine.inside.fail["guest-ping"] = AgentGone("not yet")
    machine.clock.alarms.append((1003.0, machine.inside.fail.clear))
    machine.guest.wait_for_agent(Deadline.within(10.0, machine.clock))
    assert 1003 <= machine.clock.now_s() < 1004


def test_waiting_for_the_agent_ends_at_the_deadline_with_the_evidence(machine: Machine) -> None:
    del machine.hypervisor.agents["lab.n1"]
    with pytest.raises(DeadlineExceeded) as late:
        machine.guest.wait_for_agent(Deadline.within(30.0, machine.clock))
    assert str(late.value) == (
        "n1: the guest agent answers: not within 30.0 s; last seen: domain lab.n1: agent: guest-ping: "
        f"the guest agent is not connected\n{CONSOLE}"
    )


# -- files -------------------------------------------------------------------------------------------------------------

BIG = bytes(range(256)) * 4096 + b"odd"


def test_a_file_of_any_size_and_content_arrives_whole(machine: Machine) -> None:
    sent: list[int] = []
    machine.guest.write_file("/opt/big", BIG, mode=0o750, on_bytes=sent.append)
    assert machine.inside.files == {"/opt/big": BIG}
    assert machine.inside.modes["/opt/big"] == 0o750
    assert max(sent) == WRITE_CHUNK_BYTES
    assert sum(sent) == len(BIG)


def test_an_agent_that_takes_less_than_it_is_given_gets_the_rest(machine: Machine) -> None:
    machine.inside.write_limit = 1000
    machine.guest.write_file("/opt/file", BIG[:5500], mode=None)
    assert machine.inside.files["/opt/file"] == BIG[:5500]


def test_a_file_has_its_directory_made(machine: Machine) -> None:
    machine.guest.write_file("/opt/a/b/file", b"")
    assert ["/bin/mkdir", "-p", "/opt/a/b"] in machine.inside.ran


def test_a_write_that_is_cut_short_leaves_the_old_file_as_it_was(machine: Machine) -> None:
    machine.inside.files["/etc/motd"] = b"old"
    machine.inside.fail["guest-file-write"] = GuestError("agent: No space left on device")
    with pytest.raises(GuestError, match="n1: agent: No space left on device"):
        machine.guest.write_file("/etc/motd", b"new")
    assert machine.inside.files["/etc/motd"] == b"old"
    assert len(machine.asked("guest-file-close")) == len(machine.asked("guest-file-open"))


def test_a_file_is_read_whole_or_from_an_offset(machine: Machine) -> None:
    machine.inside.files["/opt/big"] = BIG * 2
    assert machine.guest.read_file("/opt/big") == BIG * 2
    assert machine.guest.read_file("/opt/big", offset=len(BIG) * 2 - 3) == b"odd"


@pytest.mark.parametrize("size", [0, 1, READ_CHUNK_BYTES - 1, READ_CHUNK_BYTES, READ_CHUNK_BYTES + 1])
def test_reading_ends_where_the_file_ends(machine: Machine, size: int) -> None:
    machine.inside.files["/opt/file"] = b"x" * size
    assert len(machine.guest.read_file("/opt/file")) == size


def test_reading_a_file_that_is_not_there_names_node_and_file(machine: Machine) -> None:
    with pytest.raises(GuestError, match=re.escape("n1: agent: guest-file-open: failed to open file '/no'")):
        machine.guest.read_file("/no")


def test_many_files_go_in_one_archive_with_their_permissions(machine: Machine) -> None:
    machine.guest.write_files({"/etc/a": (b"A", 0o644), "/usr/lib/b": (bytes(range(256)), 0o755)})
    assert machine.inside.files == {"/etc/a": b"A", "/usr/lib/b": bytes(range(256))}
    assert machine.inside.modes == {"/etc/a": 0o644, "/usr/lib/b": 0o755}
    assert len([argv for argv in machine.inside.ran if argv[0] == "/bin/tar"]) == 1


# -- time --------------------------------------------------------------------------------------------------------------


def dates(machine: Machine) -> list[str]:
    """What the clock was set to."""
    return [argv[-1] for argv in machine.inside.ran if argv[0] == "/bin/date"]


def test_the_clock_is_read_and_set(machine: Machine) -> None:
    assert machine.guest.clock_ns() == 1_700_000_000_123_456_789
    machine.guest.set_clock(lambda: 1_800_000_000_123_456_789)
    assert dates(machine) == ["--set=@1800000000.123457"]


def test_a_clock_that_was_set_late_is_set_again_by_as_much_earlier(machine: Machine) -> None:
    machine.inside.late_ns = [1_500_000_000, 1_500_000_000]
    machine.guest.set_clock(lambda: 1_800_000_000_000_000_000)
    assert abs(machine.inside.clock_ns - 1_800_000_000_000_000_000) < 1e8
    assert dates(machine) == ["--set=@1800000000.000000", "--set=@1800000001.500000"]


def test_a_clock_that_cannot_be_set_is_told(machine: Machine) -> None:
    machine.inside.late_ns = [10**9 * n**2 for n in range(1, 2000)]
    with pytest.raises(DeadlineExceeded, match=r"n1: its clock is right.* s off"):
        machine.guest.set_clock(lambda: 1_800_000_000_000_000_000)
