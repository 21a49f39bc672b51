"""The command line: what it says and where, and its exit codes, on the fake hypervisor."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import click
import pytest
import typer
from lab_bench import Bench, micro
from scripted_guest import Said

import labctl.lab
from labctl import __version__
from labctl.cli import main
from labctl.cli.app import app
from labctl.cli.progress import Reporter
from labctl.console import RESULTS
from labctl.errors import DeadlineExceeded, GuestError, HostError, HypervisorError, InputError, VerdictFailed
from labctl.history import FaultEvent, FaultPhase, HistoryWriter
from labctl.render.xml import overlay_xml
from labctl.topology.schema import schema_json
from labctl.topology.spec import Accelerator

TOPOLOGY = """\
lab: small
domain: small.test
image: micro
networks:
  lan: {subnet: 10.9.0.0/24}
nodes:
  m1: {roles: [web-server], nics: {eth0: {network: lan, address: 10.9.0.1}}}
  m2: {roles: [web-server], nics: {eth0: {network: lan, address: 10.9.0.2}}}
  c: {nics: {eth0: {network: lan, address: 10.9.0.9, extra_addresses: [10.9.0.100-10.9.0.120]}}}
clusters:
  web:
    network: lan
    address: 10.9.0.200
    fqdn: web.small.test
    members: [{node: m1, nic: eth0, priority: 1}, {node: m2, nic: eth0, priority: 2}]
    port_rules: [{ports: 80, protocol: tcp}]
"""


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


Labctl = Callable[..., Ran]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The topology of the lab `small`."""
    path = tmp_path / "small.yaml"
    path.write_text(TOPOLOGY)
    return path


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The hypervisor that labctl connects to; nothing is there but the parent disk."""
    bench = Bench()
    bench.parent()
    monkeypatch.setattr(labctl.lab, "connect", lambda _uri: bench.hypervisor)
    return bench


def answering(bench: Bench, file: Path, name: str = "small") -> labctl.lab.Lab:
    """The lab of that file, whose guests answer once it is up."""
    found = labctl.lab.Lab.from_topology(file, hypervisor=bench.hypervisor, name=name, accelerator=Accelerator.TCG)
    bench.guests_of(found.spec)
    return found


@pytest.fixture
def small(bench: Bench, file: Path) -> Bench:
    """The same with the lab `small` up."""
    answering(bench, file).up(boot=True, keep=False)
    return bench


@pytest.fixture(scope="module")
def brought_up(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A hypervisor with the lab `small` up, once for all tests that only look at it."""
    path = tmp_path_factory.mktemp("topologies") / "small.yaml"
    path.write_text(TOPOLOGY)
    bench = Bench()
    bench.parent()
    answering(bench, path).up(boot=True, keep=False)
    return bench


@pytest.fixture
def same(brought_up: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """That hypervisor; the test must leave it as it is."""
    monkeypatch.setattr(labctl.lab, "connect", lambda _uri: brought_up.hypervisor)
    before = labctl.lab.inventory(brought_up.hypervisor)
    yield brought_up
    assert labctl.lab.inventory(brought_up.hypervisor) == before


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Labctl:
    """Runs `labctl ARGS` to its exit code, as the installed program does."""
    for name in ("LABCTL_LAB", "LABCTL_URI", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def labctl_(*argv: object, stdin: bytes | TextIO = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["labctl", *map(str, argv)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)) if isinstance(stdin, bytes) else stdin)
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Ran(code, out.decode(errors="replace"), err.decode(errors="replace"))

    return labctl_


# -- exit codes and messages -------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[BaseException, int]] = {
    "verdict": (VerdictFailed("FAIL: 3 requests were lost"), 1),
    "input": (InputError("there is no such node"), 2),
    "host": (HostError("qemu-img: program not found"), 3),
    "hypervisor": (HypervisorError("domain x: gone"), 3),
    "deadline": (DeadlineExceeded("m1: the guest agent answers: not within 600.0 s"), 4),
}


@pytest.mark.parametrize(("error", "code"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_a_message_on_standard_error_and_an_exit_code(
    bench: Bench, run: Labctl, error: Exception, code: int
) -> None:
    bench.hypervisor.fail_on["domains"] = error
    assert run("ls") == Ran(code, "", f"labctl: {error}\n")


def test_an_error_ends_with_the_next_step(bench: Bench, run: Labctl) -> None:
    bench.hypervisor.fail_on["domains"] = HostError("libvirt does not answer", hint="sudo systemctl start libvirtd")
    assert run("ls").err == "labctl: libvirt does not answer\n  next: sudo systemctl start libvirtd\n"


def test_several_errors_are_all_told_and_the_worst_code_counts(bench: Bench, run: Labctl) -> None:
    inner = ExceptionGroup("more", [DeadlineExceeded("m2: late")])
    bench.hypervisor.fail_on["domains"] = ExceptionGroup("several nodes failed", [HostError("m1: broken"), inner])
    assert run("ls") == Ran(4, "", "labctl: m1: broken\nlabctl: m2: late\n")


def test_what_is_not_an_error_of_ours_is_shown_as_what_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.hypervisor.fail_on["domains"] = ExceptionGroup("x", [HostError("m1"), ZeroDivisionError()])
    monkeypatch.setattr(sys, "argv", ["labctl", "ls"])
    with pytest.raises(ExceptionGroup):
        main()


@pytest.mark.parametrize("message", ["[/red] [bold]x[/bold]", "52:54:00:ab:cd:01", "[    0.1] panic [/sbin/init]"])
def test_a_message_is_shown_as_it_is(bench: Bench, run: Labctl, message: str) -> None:
    bench.hypervisor.fail_on["domains"] = HostError(message, hint=message)
    assert run("ls").err == f"labctl: {message}\n  next: {message}\n"


def test_an_interrupt_says_how_to_go_on(bench: Bench, run: Labctl) -> None:
    bench.hypervisor.fail_on["domains"] = KeyboardInterrupt()  # type: ignore[assignment]
    ran = run("ls")
    assert ran.code == 130
    assert "interrupted; the same command goes on from here" in ran.err


def test_a_reader_that_goes_away_is_no_failed_verdict_and_nothing_to_complain_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            type(RESULTS)().print("a line")
        stdout.write("what Python flushes at its end")
        stdout.flush()
    assert ended.value.code == 141


def test_a_command_whose_reader_goes_away_ends_so_too(
    small: Bench, run: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.guests["c"].fail["guest-exec"] = BrokenPipeError()
    assert run("exec", "c", "--", "cat").code == 141


@pytest.mark.parametrize(
    "argv", [("no-such",), ("up", "--no-such"), ("exec", "m1"), ("up", "--accel", "warp")], ids=str
)
def test_a_command_line_that_makes_no_sense_is_bad_input(run: Labctl, argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    assert ran.code == 2
    assert ran.out == ""
    assert "Usage: labctl" in ran.err


def test_the_version_is_told(run: Labctl) -> None:
    assert run("--version") == Ran(0, f"labctl {__version__}\n", "")


# -- topologies --------------------------------------------------------------------------------------------------------


def test_all_problems_of_a_file_are_told_at_once_with_line_and_column(run: Labctl, file: Path) -> None:
    wrong = (
        TOPOLOGY.replace("10.9.0.1}", "10.9.0.300}").replace("10.9.0.2}", "10.8.0.2}").replace("image: micro", "x: y")
    )
    file.write_text(wrong)
    ran = run("validate", file)
    assert ran.code == 2
    *problems, summary = ran.err.splitlines()
    assert len(problems) == 3
    assert all(re.match(rf"{re.escape(str(file))}:\d+:\d+: ", line) for line in problems)
    assert summary.startswith("labctl: ")


def test_a_file_without_problems_is_fine(run: Labctl, file: Path) -> None:
    assert run("validate", file) == Ran(0, f"{file}: fine: 3 nodes, 1 networks, 1 clusters\n", "")


def test_a_mac_address_in_a_problem_is_no_emoji(run: Labctl, file: Path) -> None:
    mac = "52:54:00:ab:ab:01"
    file.write_text(
        TOPOLOGY.replace("10.9.0.2}", f"10.9.0.2, mac: {mac}}}").replace("10.9.0.9,", f"10.9.0.9, mac: {mac},")
    )
    assert mac in run("validate", file).err


def test_the_schema_is_printed_or_written(run: Labctl, tmp_path: Path) -> None:
    assert run("schema").out == schema_json()
    assert run("schema", "--output", tmp_path / "schema.json").code == 0
    assert (tmp_path / "schema.json").read_text() == schema_json()


def test_a_schema_that_cannot_be_written_is_bad_input(run: Labctl, tmp_path: Path) -> None:
    ran = run("schema", "-o", tmp_path / "no/such/folder")
    assert ran.code == 2
    assert ran.err.endswith("can't be written: No such file or directory\n")


# -- up and down -------------------------------------------------------------------------------------------------------


def test_up_shows_progress_on_standard_error_and_the_lab_on_standard_output(
    bench: Bench, run: Labctl, file: Path
) -> None:
    answering(bench, file)
    ran = run("up", file, "--boot")
    assert ran.code == 0
    assert "create node m1" in ran.err
    assert "labctl exec --lab small m1 -- curl http://web.small.test/" in ran.err
    assert re.search(r"^m1 +web-server +eth0 10\.9\.0\.1 +ready +\d+\.\d *$", ran.out, re.MULTILINE)
    assert re.search(r"^c +- +eth0 10\.9\.0\.9 \+21 +ready", ran.out, re.MULTILINE)
    assert re.search(r"^m2 +2 +m1, m2 +80/tcp: 30$", ran.out, re.MULTILINE)
    assert "cluster web: converged" in ran.out


def test_up_again_says_that_there_is_nothing_to_do(same: Bench, run: Labctl, file: Path) -> None:
    ran = run("up", file)
    assert (ran.code, ran.err) == (0, "lab small is up; there is nothing to do\n")
    assert "converged" in ran.out


def test_up_that_fails_tells_of_every_node(bench: Bench, run: Labctl, file: Path) -> None:
    answering(bench, file)
    for name in ("m1", "m2"):
        bench.guests[name].says("/etc/labctl/roles/", exit_code=1, err=b"no space [/dev/vda]")
    ran = run("up", file, "--boot")
    assert ran.code == 3
    assert [line for line in ran.err.splitlines() if line.startswith("labctl: ")] == [
        f"labctl: {name}: /etc/labctl/roles/web-server: exit code 1" for name in ("m1", "m2")
    ]


def test_a_plan_is_told_and_not_done(bench: Bench, run: Labctl, file: Path) -> None:
    ran = run("plan", file)
    assert ran.out.splitlines()[:2] == ["create network lan: not there yet", "create node m1: linked clone of micro"]
    assert bench.hypervisor.domains() == ()


def test_a_plan_for_a_lab_that_is_up_is_empty(same: Bench, run: Labctl, file: Path) -> None:
    assert run("plan", file).out == "lab small is up; there is nothing to do\n"


def test_destroy_counts_what_went(small: Bench, run: Labctl) -> None:
    ran = run("destroy", "--lab", "small")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.endswith("lab small is gone: 8 objects removed\n")
    assert small.hypervisor.domains() == ()


@pytest.mark.parametrize("argv", [(), ("--lab", "no-such"), ("--lab", "../[/x]")], ids=str)
def test_destroying_what_is_not_there_is_fine(bench: Bench, run: Labctl, argv: tuple[str, ...]) -> None:
    ran = run("destroy", *argv)
    assert ran.code == 0
    assert ran.err == f"there is no lab {argv[-1] if argv else 'exchange2007'}\n"


def test_destroy_that_fails_tells_of_all_that_stayed(small: Bench, run: Labctl) -> None:
    small.hypervisor.fail_on["remove_volume"] = HypervisorError("pool labctl: busy")
    ran = run("destroy")
    assert ran.code == 3
    assert ran.err.count("labctl: pool labctl: busy\n") == 4


# -- looking -----------------------------------------------------------------------------------------------------------


def test_status_as_json_has_nodes_links_and_ownership(small: Bench, run: Labctl) -> None:
    small.hypervisor.set_link("small.c", small.hypervisor.domains()[0].nics[0].mac, up=False)
    status = run("status", "--json").json
    assert [(n["node"], n["state"]) for n in status["nodes"]] == [("m1", "ready"), ("m2", "ready"), ("c", "ready")]
    assert [nic["link_up"] for n in status["nodes"] for nic in n["nics"]] == [True, True, False]
    assert status["clusters"][0]["converged"] is True
    assert status["clusters"][0]["buckets_owned"] == {"80/tcp": {"m1": 30, "m2": 30}}


def test_status_shows_what_is_wrong(small: Bench, run: Labctl) -> None:
    small.hypervisor.set_link("small.c", small.hypervisor.domains()[0].nics[0].mac, up=False)
    small.hypervisor.power_off("small.m2")
    ran = run("status")
    assert ran.code == 0
    assert "(link down)" in ran.out
    assert re.search(r"^m2 .* shut off", ran.out, re.MULTILINE)
    assert "cluster web: not converged" in ran.out


def test_why_a_member_cannot_be_asked_is_shown_as_it_is(small: Bench, run: Labctl) -> None:
    small.guests["m2"].fail["guest-exec"] = GuestError("agent: [/x] failed")
    assert "[/x]" in run("status").out


def test_labs_are_listed(small: Bench, run: Labctl) -> None:
    small.hypervisor.power_off("small.c")
    assert run("ls", "--json").json == [{"lab": "small", "nodes": 3, "running": 2, "disk_mib": 0}]
    assert re.search(r"^small +3 +2 +0 MiB", run("ls").out, re.MULTILINE)


def test_no_labs_are_said_to_be_none(bench: Bench, run: Labctl) -> None:
    assert run("ls").out == "no labs\n"
    assert run("ls", "--json").json == []


def test_a_lab_that_is_not_there_is_bad_input_with_those_that_are(same: Bench, run: Labctl) -> None:
    ran = run("status", "--lab", "other")
    assert ran.code == 2
    assert ran.err.endswith("next: labs on this hypervisor: small\n")


def test_the_lab_may_come_from_the_environment(same: Bench, run: Labctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_LAB", "other")
    assert "there is no lab other" in run("status").err


# -- secrets and certificates ------------------------------------------------------------------------------------------

TRUSTED = """\
lab: trusted
domain: trusted.test
image: micro
networks:
  lan: {subnet: 10.9.0.0/24}
nodes:
  dc: {roles: [certificate-authority], nics: {eth0: {network: lan, address: 10.9.0.1}}}
  web: {roles: [certificate], nics: {eth0: {network: lan, address: 10.9.0.2}}}
"""


def listed(*rows: tuple[str, str, str]) -> bytes:
    """What the authority says of (serial, status, name)."""
    columns = {"issued_at": "2026-11-22 20:13:09.72+00:00", "expiry": "2036-11-22 19:13:00+00:00", "reason": 0}
    more = {"revoked_at": "2026-11-23 08:00:00+00:00", "common_name": "x"}
    return json.dumps(
        [{"serial_number": s, "status": status, "sans": json.dumps([n]), **columns, **more} for s, status, n in rows]
    ).encode()


@pytest.fixture
def trusted(bench: Bench, tmp_path: Path) -> Bench:
    """The lab `trusted`, up, whose authority has issued three certificates."""
    path = tmp_path / "trusted.yaml"
    path.write_text(TRUSTED)
    answering(bench, path, "trusted").up(boot=True, keep=False)
    rows = ("7", "revoked", "web.trusted.test"), ("8", "good", "web.trusted.test"), ("9", "good", "dc.trusted.test")
    bench.guests["dc"].says("labctl-ca", "list", out=listed(*rows))
    return bench


def test_secrets_are_shown_one_a_line_and_alone_as_they_are(trusted: Bench, run: Labctl) -> None:
    secrets = run("secrets", "--json").json["roles"]["certificate-authority"]
    assert re.search(
        rf"^certificate-authority.enrolment_key +{secrets['enrolment_key']}", run("secrets").out, re.MULTILINE
    )
    assert re.search(r"ca_root_key +-----BEGIN EC PRIVATE KEY----- \(5 lines\)", run("secrets").out)
    assert run("secrets", "certificate-authority.ca_root_key").out == secrets["ca_root_key"]


def test_a_secret_that_is_not_there_is_bad_input_with_those_that_are(trusted: Bench, run: Labctl) -> None:
    ran = run("secrets", "users.nobody")
    assert ran.code == 2
    assert "lab trusted has no secret users.nobody" in ran.err
    assert "its secrets: certificate-authority.ca_root_key" in ran.err


def test_a_lab_without_secrets_says_so(same: Bench, run: Labctl) -> None:
    assert run("secrets").out == "no secrets\n"


def test_certificates_are_listed_with_their_state(trusted: Bench, run: Labctl) -> None:
    shown = run("ca", "ls").out
    assert re.search(
        r"^7 +web.trusted.test +2026-11-22 20:13 +2036-11-22 19:13 +revoked 2026-11-23 08:00", shown, re.MULTILINE
    )
    assert re.search(r"^8 .* good", shown, re.MULTILINE)
    found = run("ca", "ls", "--json").json
    assert [(c["serial"], c["revoked_at"]) for c in found] == [
        ("7", "2026-11-23T08:00:00+00:00"),
        ("8", None),
        ("9", None),
    ]


@pytest.mark.parametrize("verb", ["issue", "renew"])
def test_a_node_asks_for_another_certificate(trusted: Bench, run: Labctl, verb: str) -> None:
    ran = run("ca", verb, "web")
    assert (ran.code, ran.err) == (0, "web: certificate 8\n")
    assert ["labctl-enrol", verb] in trusted.guests["web"].ran


@pytest.mark.parametrize(("which", "serial"), [("web", "8"), ("12", "12")])
def test_a_certificate_is_revoked_by_node_or_serial(trusted: Bench, run: Labctl, which: str, serial: str) -> None:
    assert run("ca", "revoke", which, "--reason", "superseded").err == f"certificate {serial} is revoked\n"
    assert ["labctl-ca", "revoke", serial, "superseded"] in trusted.guests["dc"].ran


def test_a_node_without_a_good_certificate_has_none_to_revoke(trusted: Bench, run: Labctl) -> None:
    trusted.guests["dc"].says("labctl-ca", "list", out=listed(("7", "revoked", "web.trusted.test")))
    ran = run("ca", "revoke", "web")
    assert ran.code == 2
    assert "node web has no certificate that could be revoked" in ran.err


def test_a_node_whose_roles_use_none_gets_no_certificate(trusted: Bench, run: Labctl) -> None:
    assert "node dc has no certificate" in run("ca", "issue", "dc").err


def test_a_lab_without_an_authority_has_no_certificates(same: Bench, run: Labctl) -> None:
    ran = run("ca", "ls")
    assert (ran.code, ran.err) == (2, "labctl: lab small has no certificate authority: no node has that role\n")


def test_an_answer_of_the_authority_that_makes_no_sense_is_said_so(trusted: Bench, run: Labctl) -> None:
    trusted.guests["dc"].says("labctl-ca", "list", out=b"[{}]")
    ran = run("ca", "ls")
    assert ran.code == 3
    assert "dc: labctl-ca list: its answer can't be read" in ran.err


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_a_command_has_its_output_its_error_output_its_input_and_its_code(same: Bench, run: Labctl) -> None:
    same.guests["c"].on("tr", does=lambda argv, stdin: Said(7, stdin.upper(), " ".join(argv).encode()))
    assert run("exec", "c", "--", "tr", "-x", "--lab", stdin=b"abc") == Ran(7, "ABC", "tr -x --lab")


def test_output_that_is_no_text_comes_as_it_is(same: Bench, run: Labctl, capfdbinary: Any) -> None:
    same.guests["c"].says("cat", out=bytes(range(256)))
    assert len(run("exec", "c", "--", "cat").out) == 256


def test_a_command_that_outlives_its_time_is_a_deadline(same: Bench, run: Labctl) -> None:
    same.guests["c"].on("sleep", does=lambda _argv, _stdin: Said(signal=9))
    assert run("exec", "--within", "0", "c", "--", "sleep", "9").code == 4


def test_a_node_that_is_not_there_is_bad_input_with_those_that_are(same: Bench, run: Labctl) -> None:
    ran = run("exec", "m9", "--", "true")
    assert (ran.code, ran.err) == (2, "labctl: lab small has no node m9\n  next: its nodes: m1, m2, c\n")


def test_an_agent_that_is_gone_shows_the_console(small: Bench, run: Labctl) -> None:
    small.hypervisor.add_file("lab.small.m1.console.log", b"[    1.0] Kernel panic [/sbin/init]\n")
    del small.hypervisor.agents["small.m1"]
    ran = run("exec", "m1", "--", "true")
    assert ran.code == 3
    assert ran.err.endswith("last lines of m1's console:\n  | [    1.0] Kernel panic [/sbin/init]\n")


CONTENT = bytes(range(256))


@pytest.mark.parametrize(("target", "place"), [("/srv/b", "/srv/b"), ("/srv/", "/srv/file")])
def test_a_file_is_copied_in_with_its_permissions(
    same: Bench, run: Labctl, tmp_path: Path, target: str, place: str
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "file").chmod(0o750)
    assert run("cp", tmp_path / "file", f"c:{target}").code == 0
    assert same.guests["c"].files[place] == CONTENT
    assert same.guests["c"].modes[place] == 0o750


@pytest.mark.parametrize(("target", "place"), [("out", "out"), ("", "b")])
def test_a_file_is_copied_out(same: Bench, run: Labctl, tmp_path: Path, target: str, place: str) -> None:
    same.guests["c"].files["/srv/b"] = CONTENT
    folder = tmp_path / "there"
    folder.mkdir()
    assert run("cp", "c:/srv/b", folder / target).code == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {place: CONTENT}


def test_a_copy_that_fails_leaves_no_half_file(same: Bench, run: Labctl, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert run("cp", "c:/no/such", tmp_path / "there/file").code == 3
    assert list((tmp_path / "there").iterdir()) == []


BAD_COPIES = {
    "both here": ("a", "b"),
    "both there": ("c:/a", "m1:/b"),
    "source is missing": ("/no/such", "c:/b"),
    "source is a folder": ("/", "c:/b"),
    "target is relative": ("/dev/null", "c:b"),
    "no such folder here": ("c:/a", "/no/such/b"),
    "no folder at all here": ("c:/a", "/dev/null/b"),
}


@pytest.mark.parametrize("argv", BAD_COPIES.values(), ids=BAD_COPIES)
def test_a_copy_that_makes_no_sense_is_bad_input(same: Bench, run: Labctl, argv: tuple[str, str]) -> None:
    same.guests["c"].files["/a"] = b""
    ran = run("cp", *argv)
    assert ran.code == 2
    assert ran.err.startswith("labctl: ")


def test_a_console_passes_bytes_both_ways_until_it_is_left(
    same: Bench, run: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = same.hypervisor.open_console

    def speaking(name: str) -> Any:
        console = opened(name)
        console.feed(b"m1 login: ")
        return console

    monkeypatch.setattr(same.hypervisor, "open_console", speaking)
    typed = tmp_path / "typed"
    typed.write_bytes(b"root\n\x1dnever typed")
    with typed.open() as stdin:
        ran = run("console", "m1", stdin=stdin)
    assert ran.code == 0
    assert ran.out == "m1 login: "
    assert same.hypervisor.consoles["small.m1", ""].typed == b"root\n"
    assert "left the console" in ran.err


def backed_by_parent(name: str) -> str:
    """The definition of a clone of micro's disk."""
    return overlay_xml(name, 1, f"/fake/labctl/{micro().volume('qcow2')}")


# -- parent disks ------------------------------------------------------------------------------------------------------


def test_a_parent_is_listed_with_the_labs_on_it_in_short(small: Bench, run: Labctl, file: Path) -> None:
    answering(small, file, "other").up(boot=True, keep=False)
    small.hypervisor.remove_domain("other.m1")
    small.hypervisor.remove_volume("lab.other.m1.qcow2")
    small.hypervisor.remove_domain("other.m2")
    small.hypervisor.remove_volume("lab.other.m2.qcow2")
    rows = run("image", "ls").out.splitlines()
    assert re.fullmatch(rf"debian-13 +{micro().digest} +\d+ MiB +1 +other \(1 node\) *", rows[1])
    assert rows[2].strip() == "small (3 nodes)"


def test_a_saved_state_counts_its_nodes_too(bench: Bench, run: Labctl) -> None:
    for node in ("m1", "m2"):
        bench.hypervisor.create_volume(backed_by_parent(f"state.ready-0123.{node}.qcow2"))
    assert run("image", "ls").out.splitlines()[1].rstrip().endswith(" state ready-0123 (2 nodes)")


def test_a_parent_that_nobody_uses_has_a_dash(bench: Bench, run: Labctl) -> None:
    assert run("image", "ls").out.splitlines()[1].rstrip().endswith(" -")


def test_who_uses_a_parent_without_a_lab_is_listed_by_name(bench: Bench, run: Labctl) -> None:
    bench.hypervisor.create_volume(backed_by_parent("mine.qcow2"))
    assert run("image", "ls").out.splitlines()[1].rstrip().endswith(" mine.qcow2")


def test_a_parent_is_shown_with_everyone_on_it_one_a_line(same: Bench, run: Labctl) -> None:
    lines = run("image", "show", "debian-13").out.splitlines()
    start = lines.index("used by   lab.small.c.qcow2")
    assert lines[start + 1 : start + 6] == [
        f"          {n}"
        for n in (*(f"lab.small.{m}.qcow2" for m in ("m1", "m2")), *(f"small.{m}" for m in ("c", "m1", "m2")))
    ]


def test_a_parents_packages_are_shown_when_asked_for(bench: Bench, run: Labctl) -> None:
    assert "nginx" not in run("image", "show", "debian-13").out
    assert "          nginx 1.26\n" in run("image", "show", "--packages", "debian-13").out


def test_a_parent_as_json_has_all_of_it(same: Bench, run: Labctl) -> None:
    shown = run("image", "show", micro().digest[:4], "--packages", "--verify", "--json").json
    assert shown["packages"] == {"nginx": "1.26"}
    assert shown["intact"] is True
    assert {f"small.{node}" for node in ("c", "m1", "m2")} <= set(shown["used_by"])
    assert [i["digest"] for i in run("image", "ls", "--json").json] == [micro().digest]


def test_a_parent_that_was_written_to_is_an_environment_failure(bench: Bench, run: Labctl) -> None:
    bench.hypervisor.upload_volume(micro().volume("qcow2"), io.BytesIO(b"x"), 1, lambda _sent: None)
    ran = run("image", "show", "debian-13", "--verify")
    assert ran.code == 3
    assert "it was written to" in ran.out


def test_a_parent_in_use_stays(same: Bench, run: Labctl) -> None:
    ran = run("image", "rm", "debian-13")
    assert ran.code == 2
    assert "is in use by lab.small.c.qcow2" in ran.err
    assert "next: labctl destroy" in ran.err


def test_a_parent_is_removed_by_the_beginning_of_its_digest(bench: Bench, run: Labctl) -> None:
    assert run("image", "rm", micro().digest[:3]).code == 0
    assert bench.hypervisor.volumes() == ()
    assert run("image", "ls").out == "no parent disks; labctl image build makes one\n"


def test_a_parent_that_is_not_there_is_bad_input_with_those_that_are(bench: Bench, run: Labctl) -> None:
    ran = run("image", "show", "no-such")
    assert ran.code == 2
    assert f"parent disks, by name and digest: debian-13 ({micro().digest})" in ran.err


def test_prune_keeps_what_a_recipe_would_make_and_what_is_used(bench: Bench, run: Labctl) -> None:
    old = replace(micro(), digest="0123456789ab")
    bench.parent(old)
    assert "parent disk debian-13 (0123456789ab) is gone" in run("image", "prune").err
    assert {v.name for v in bench.hypervisor.volumes()} == {
        micro().volume(part) for part in ("qcow2", "vmlinuz", "initrd", "manifest")
    }


def test_an_image_that_is_there_is_not_built(bench: Bench, run: Labctl) -> None:
    ran = run("image", "build", "micro")
    assert (ran.code, ran.err) == (0, f"parent disk debian-13 ({micro().digest}) is there\n")


# -- progress ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[/dev/vda] full", "I: [drm] :ab: ok"])
def test_a_note_is_shown_as_it_is(capfdbinary: pytest.CaptureFixture[bytes], text: str) -> None:
    Reporter().note(text)
    assert capfdbinary.readouterr().err.decode().endswith(f" s  {text}\n")


# -- help and completion -----------------------------------------------------------------------------------------------


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "labctl" for path, _ in ALL])
def test_help_tells_of_every_option(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    ALL[0][1].main([*path, "--help"], prog_name="labctl", standalone_mode=False)
    shown = capsys.readouterr().out
    options = [o for p in command.params for o in p.opts if o.startswith("--") and not getattr(p, "hidden", False)]
    assert [option for option in options if option not in shown] == []
    assert re.split(r"[`.\n]", command.help or "")[0][:50] in shown


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "labctl" for path, _ in ALL])
def test_every_command_and_option_says_what_it_is_for(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    assert [p.name for p in command.params if p.param_type_name == "option" and not getattr(p, "help", "")] == []


def test_labctl_alone_shows_its_help(run: Labctl) -> None:
    ran = run()
    assert "Usage: labctl" in ran.out + ran.err
    assert "up" in ran.out + ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_can_be_made(run: Labctl, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    ran = run("--show-completion", shell)
    assert ran.code == 0
    assert "_LABCTL_COMPLETE" in ran.out


@pytest.mark.parametrize(
    ("words", "expected"), [("labctl im", "image"), ("labctl image sh", "show"), ("labctl up --ac", "--accel")]
)
def test_the_shell_completes_commands_and_options(
    run: Labctl, monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.setenv("_LABCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert run().out.split() == [expected]


# -- histories ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> Callable[[FaultPhase], Path]:
    """A history of one power cut, confirmed or not."""

    def write(phase: FaultPhase) -> Path:
        path = tmp_path / f"{phase}" / "history.jsonl"
        phases = (FaultPhase.INJECTED, phase, FaultPhase.HEALED, FaultPhase.HEAL_CONFIRMED)
        with HistoryWriter(path) as writer:
            writer.append(*(FaultEvent(float(i), "power-off", "m1", p, "seen") for i, p in enumerate(phases)))
        return path

    return write


def test_a_verdict_that_is_not_pass_is_exit_code_1(run: Labctl, told: Callable[[FaultPhase], Path]) -> None:
    fine, unsure = told(FaultPhase.CONFIRMED), told(FaultPhase.UNCONFIRMED)
    passed = run("verdict", fine)
    assert (passed.code, passed.out.splitlines()[0]) == (0, "verdict: PASS")
    both = run("verdict", fine, unsure)
    assert both.code == 1
    assert "verdict: INCONCLUSIVE" in both.out
    found = run("verdict", fine, unsure, "--json")
    assert found.code == 1
    assert [v["verdict"] for v in found.json] == ["PASS", "INCONCLUSIVE"]


def test_a_history_that_is_not_there_is_bad_input(run: Labctl, tmp_path: Path) -> None:
    assert run("verdict", tmp_path / "none.jsonl").code == 2


def test_a_report_is_written_whatever_the_verdict(
    run: Labctl, told: Callable[[FaultPhase], Path], tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    done = run("report", told(FaultPhase.UNCONFIRMED), "-o", target)
    assert (done.code, "INCONCLUSIVE" in done.err) == (0, True)
    assert "power-off of m1" in target.read_text()
    figures = run("report", told(FaultPhase.UNCONFIRMED), "--json")
    assert figures.json[0]["faults"][0]["confirmed"] is False


def test_a_topology_is_drawn(run: Labctl, file: Path) -> None:
    assert run("graph", file).out.startswith("<svg")
    assert run("graph", file, "--format", "mermaid").out.startswith("flowchart TB")


# -- faults ------------------------------------------------------------------------------------------------------------


def test_faults_are_done_listed_and_healed_by_hand(run: Labctl, small: Bench, file: Path) -> None:
    assert run("fault", "ls").out == "no faults\n"
    done = run("fault", "inject", "pause", "m1")
    assert (done.code, done.err) == (0, "pause of m1 is in effect: the domain is paused\n")
    assert run("fault", "ls", "--json").json[0]["fault"] == {"name": "pause", "node": "m1"}
    assert run("fault", "ls").out.splitlines()[1].split()[:2] == ["pause", "m1"]
    assert run("plan", file).out == "heal m1: pause\n"
    assert run("fault", "inject", "pause", "m1").code == 2
    assert "pause of m1 is healed" in run("fault", "heal", "pause", "m1").err
    assert run("fault", "ls").out == "no faults\n"
    assert run("fault", "heal", "--all").code == 0


@pytest.mark.parametrize(
    "typed", [("heal",), ("heal", "pause", "--all"), ("heal", "pause"), ("inject", "pause", "m1", "x")]
)
def test_which_fault_is_meant_must_be_clear(run: Labctl, small: Bench, typed: tuple[str, ...]) -> None:
    assert run("fault", *typed).code == 2


def test_help_shows_each_kind_of_fault_with_what_it_takes(run: Labctl) -> None:
    shown = " ".join(run("fault", "inject", "--help").out.split())
    assert "loss nic=… percent=… [direction=both] [seed=]" in shown
    assert "memory-hog [leave_mib=24]" in shown


# -- campaigns ---------------------------------------------------------------------------------------------------------


def test_a_campaign_against_a_lab_without_clients_is_bad_input(run: Labctl, bench: Bench, file: Path) -> None:
    refused = run("campaign", file, "--seed", "7")
    assert refused.code == 2
    assert "a campaign needs a cluster, and a node with the role client" in refused.err


def test_a_step_that_a_campaign_does_not_have_is_bad_input(run: Labctl, bench: Bench) -> None:
    refused = run("campaign", "micro", "--seed", "7", "--steps", "3", "--only", "2,99")
    assert refused.code == 2
    assert "there is no step 99 of 3" in refused.err
    assert labctl.lab.inventory(bench.hypervisor).labs == ()
