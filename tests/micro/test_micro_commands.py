"""Commands in a guest, over its agent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from labctl.errors import CommandFailed, DeadlineExceeded, InputError

pytestmark = pytest.mark.lab(topology="micro")


def test_output_error_output_and_exit_code_are_kept_apart(guest):
    done = guest.run(["/bin/sh", "-c", "echo this; echo that >&2; exit 7"])
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"this\n", b"that\n")


def test_arguments_arrive_as_they_are(guest):
    arguments = ["two words", "$HOME", "*", "a \"quote\" and 'another'", "", "grün", "-n", "line\nfeed"]
    done = guest.run(["/usr/bin/printf", "%s\\0", *arguments])
    assert done.stdout.decode().split("\0")[:-1] == arguments


def test_any_bytes_reach_standard_input(guest):
    data = bytes(range(256)) * 40
    assert guest.run(["/bin/cat"], stdin=data).stdout == data


def test_standard_input_is_empty_unless_given(guest):
    assert guest.run(["/bin/cat"], within_s=20).stdout == b""


def test_the_environment_is_a_sane_one_with_what_was_asked_for(guest):
    done = guest.run(["/usr/bin/env"], environment={"COLOUR": "grün & blau"})
    variables = dict(line.split("=", 1) for line in done.text.splitlines())
    assert variables["COLOUR"] == "grün & blau"
    assert variables["HOME"] == "/root"
    assert "/usr/sbin" in variables["PATH"].split(":")


def test_files_that_a_command_makes_have_the_usual_permissions(guest):
    assert guest.shell("rm -f /root/made && touch /root/made && stat -c %a /root/made && rm /root/made") == "644"


def test_a_program_that_is_not_there_is_named(guest):
    with pytest.raises(
        CommandFailed, match=r"client: no-such-program --fast: exit code 127\n.*no-such-program.*No such"
    ):
        guest.succeed(["no-such-program", "--fast"])


def test_a_command_that_fails_says_what_it_said(guest):
    with pytest.raises(CommandFailed, match=r"client: /bin/cat /nowhere: exit code 1\n.*/nowhere: No such file"):
        guest.succeed(["/bin/cat", "/nowhere"])


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_a_signal_that_ends_a_command_is_in_its_exit_code(guest, signal, code):
    assert guest.run(["/bin/sh", "-c", f"kill -{signal} $$"]).exit_code == code


def test_a_command_that_outlives_its_deadline_is_killed_with_its_children(guest, micro):
    began_s = micro.clock.now_s()
    with pytest.raises(DeadlineExceeded, match=r"client: .*still running after 1\.5 s, killed"):
        guest.run(["/bin/sh", "-c", "sleep 98765 & sleep 98765 & sleep 98765"], within_s=1.5)
    assert 1.5 <= micro.clock.now_s() - began_s < 10
    assert guest.run(["/usr/bin/pgrep", "-f", "[s]leep 98765"]).stdout == b""


def test_output_until_the_deadline_is_passed_on(guest):
    seen = []
    with pytest.raises(DeadlineExceeded):
        guest.run(
            ["/bin/sh", "-c", "echo early; sleep 60"], within_s=2, on_output=lambda out, err: seen.append((out, err))
        )
    assert seen == [(b"early\n", b"")]


def test_output_is_passed_on_while_the_command_runs(guest, micro):
    seen = []
    script = "for n in 1 2 3; do echo $n; echo $n >&2; sleep 1; done"
    done = guest.run(["/bin/sh", "-c", script], on_output=lambda out, err: seen.append((micro.clock.now_s(), out, err)))
    assert done.exit_code == 0
    assert b"".join(out for _, out, _ in seen) == b"".join(err for _, _, err in seen) == b"1\n2\n3\n"
    assert seen[-1][0] - seen[0][0] > 1


def test_commands_side_by_side_keep_their_output_apart(guest):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: guest.run(["/bin/echo", str(n)]).text, range(16)))
    assert answers == [str(n) for n in range(16)]


def test_a_pid_that_comes_again_is_not_taken_for_the_command_that_had_it_before(guest):
    guest.shell("sysctl -q -w kernel.pid_max=340")  # pids below 300 are used but once, so the others come round soon
    try:
        answers = [guest.run(["/bin/sh", "-c", f"sleep 0.05; echo {n}"]).text for n in range(24)]
    finally:
        guest.shell("sysctl -q -w kernel.pid_max=32768")
    assert answers == [str(n) for n in range(24)]


def test_commands_leave_no_files_behind(guest):
    guest.run(["/bin/cat"], stdin=b"some")
    guest.run(["/bin/false"], spool="/var/tmp")
    guest.write_file("/root/written", b"some")
    with pytest.raises(DeadlineExceeded):
        guest.run(["/bin/sleep", "60"], stdin=b"some", within_s=0.5)
    own = guest.run(["/bin/sh", "-c", "readlink /proc/$$/fd/1"]).text.removesuffix(".out")
    assert own.startswith("/run/labctl-")
    left = guest.shell("ls -d /run/labctl-* /var/tmp/labctl-* /root/*.labctl-new 2>/dev/null; rm /root/written").split()
    assert len(left) == 2, left  # the output and the error output of the command that looks


def test_a_node_that_is_not_there_is_an_error_that_names_those_that_are(micro):
    with pytest.raises(InputError, match=f"lab {micro.name} has no node dc") as caught:
        micro.guest("dc")
    assert caught.value.hint == "its nodes: m1, m2, client"
