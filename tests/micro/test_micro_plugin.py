"""The pytest plugin: in nobody's way where no lab is wanted, and full of evidence where a test with a lab fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.errors import CommandFailed
from labctl.faults import active
from labctl.inventory import Inventory
from labctl.lab import Lab, inventory

pytestmark = pytest.mark.lab(topology="micro")

OTHER = "test-nested"
# Of a run of its own, which is no worker of the run that starts it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def run_tests(tmp_path):
    """Runs pytest on the text of a test module, in a process and a directory of its own."""

    def run(text: str, *options: str) -> subprocess.CompletedProcess:
        (tmp_path / "test_it.py").write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"],
            cwd=tmp_path,
            env={**ENVIRONMENT, "LABCTL_ARTIFACTS": str(tmp_path / "evidence")},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


def test_a_run_without_labs_loads_neither_libvirt_nor_the_rest_of_labctl(run_tests):
    done = run_tests("""
import sys

def test_it():
    loaded = {"libvirt", "pydantic", "jinja2", "labctl.lab", "labctl.guest.agent"} & set(sys.modules)
    assert "labctl.pytest_plugin" in sys.modules
    assert not loaded, loaded
""")
    assert done.returncode == 0, done.stdout


def test_the_marker_and_the_fixtures_are_told(run_tests):
    text = "def test_it(): pass"
    assert "@pytest.mark.needs(kvm, memory_mib, …)" in run_tests(text, "--markers").stdout
    assert "@pytest.mark.lab(topology)" in run_tests(text, "--markers").stdout
    told = run_tests(text, "--fixtures").stdout
    for fixture in (
        "lab",
        "node",
        "client",
        "cluster",
        "probe",
        "inject",
        "history",
        "watch",
        "verdict",
        "chance",
        "capture",
    ):
        assert f"\n{fixture} " in told


def test_testinfras_own_fixtures_still_work(run_tests):
    done = run_tests(
        """
testinfra_hosts = ["local://"]

def test_it(host):
    assert host.file("/etc/passwd").exists
    assert host.backend.NAME == "local"
"""
    )
    assert done.returncode == 0, done.stdout


def test_testinfra_sees_into_a_node(node):
    member = node("m1")
    assert member.file("/etc/hostname").content_string == "m1\n"
    assert member.file("/etc/shadow").mode == 0o640
    assert member.interface("cluster").addresses[:1] == ["10.78.0.31"]
    assert member.process.filter(comm="keepalived")
    assert member.socket("tcp://0.0.0.0:80").is_listening
    assert member.check_output("echo %s", "it's") == "it's"
    assert member.run("exit 3").rc == 3


def test_the_suite_of_a_few_lines_that_the_readme_shows_passes_in_an_empty_directory(run_tests, micro):
    text = re.search(r"`test_mine\.py`:\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len([line for line in text.splitlines() if line]) <= 6
    done = run_tests(text, "--lab", OTHER, "--lab-connect", micro.hypervisor.uri)
    assert "1 passed" in done.stdout, done.stdout
    assert inventory(micro.hypervisor).of(OTHER) == Inventory()


def test_a_test_that_failed_can_be_looked_into_with_its_fault_in_effect(run_tests, micro):
    done = run_tests(
        """
import pytest
from labctl.faults import LinkDown

@pytest.mark.lab(topology="micro")
def test_it(lab, inject):
    with inject(LinkDown("m1", "host")):
        assert lab.name == "something else"

def test_more(): pass
""",
        *("--lab", OTHER, "--lab-connect", micro.hypervisor.uri, "--lab-debug"),
    )
    assert "1 failed" in done.stdout
    assert "passed" not in done.stdout
    assert f"labctl fault ls --lab {OTHER}" in done.stdout
    left = Lab.existing(micro.hypervisor, OTHER)
    try:
        assert [m.kind for m in active(left.ground())] == ["link-down host"]
    finally:
        left.destroy()


def test_packets_are_captured_into_the_evidence(lab, client, capture, evidence_dir):
    with capture("m1", "host", "icmp"):
        client.succeed(["ping", "-c", "3", "-i", "0.2", "10.78.0.21"])
    packets = evidence_dir / "m1.host.pcap"
    assert packets.read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"  # pcap, little endian
    assert packets.stat().st_size > 6 * 98
    assert lab.guest("m1").run(["pgrep", "-x", "tcpdump"]).exit_code == 1
    with pytest.raises(CommandFailed, match="No such device"), capture("m1", "nowhere"):
        pass


def test_a_failed_test_leaves_consoles_journals_and_history(run_tests, micro, tmp_path):
    done = run_tests(
        """
import pytest

@pytest.mark.lab(topology="micro")
def test_it(lab, history):
    history.note("this is what it saw")
    lab.guest("client").shell("echo this is on the console > /dev/ttyS0")
    assert lab.name == "something else"
""",
        *("--lab", OTHER, "--lab-connect", micro.hypervisor.uri),
    )
    assert done.returncode == 1, done.stdout
    folder = tmp_path / "evidence" / "test_it.py-test_it"
    assert f"consoles, journals and history: {folder}" in done.stdout
    written = {path.name: path.read_text() for path in folder.iterdir()}
    logs = {f"{node}.{what}.log" for node in ("m1", "m2", "client") for what in ("console", "journal")}
    assert set(written) == {"history.jsonl", *logs}
    notes = [e["text"] for e in map(json.loads, written["history.jsonl"].splitlines()) if e["event"] == "note"]
    assert [note.partition(" ")[0] for note in notes] == ["--lab-seed", "this"]
    assert "this is on the console" in written["client.console.log"]
    assert "VRRP" in written["m1.journal.log"]
    assert inventory(micro.hypervisor).of(OTHER) == Inventory()


def test_what_an_earlier_run_left_is_set_back_unless_it_is_to_be_reused(run_tests, micro):
    head = 'import pytest\n\n@pytest.mark.lab(topology="micro")\ndef test_it(lab):\n    lab.guest("m1").shell('
    here = ("--lab", OTHER, "--lab-connect", micro.hypervisor.uri)
    for script, options in (
        ("echo left > /root/mark", [*here, "--lab-keep"]),
        ("cat /root/mark", [*here, "--lab-reuse"]),
        ("! cat /root/mark", here),
    ):
        done = run_tests(f"{head}{script!r})", *options)
        assert done.returncode == 0, done.stdout
    assert inventory(micro.hypervisor).of(OTHER) == Inventory()


def test_each_worker_of_xdist_has_a_lab_of_its_own(run_tests, micro, tmp_path):
    uri = micro.hypervisor.uri
    done = run_tests(
        """
from pathlib import Path
import pytest

@pytest.mark.lab(topology="micro")
@pytest.mark.parametrize("turn", ["first", "second"])
def test_it(turn, lab):
    Path(f"{lab.name}.seen").write_text(lab.guest("m1").shell("cat /etc/machine-id"))
""",
        *("-n", "2", "--lab", OTHER, "--lab-connect", f"{uri},{uri}"),
    )
    assert done.returncode == 0, done.stdout
    seen = {path.stem: path.read_text() for path in tmp_path.glob("*.seen")}
    assert set(seen) == {f"{OTHER}-gw0", f"{OTHER}-gw1"}, done.stdout
    assert len(set(seen.values())) == 2
    assert all(inventory(micro.hypervisor).of(name) == Inventory() for name in seen)


def test_a_run_waits_for_another_one_that_uses_the_same_lab(micro, tmp_path):
    (tmp_path / "test_it.py").write_text(
        'import pytest\n\n@pytest.mark.lab(topology="micro")\ndef test_it(lab): pass\n'
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "--lab", micro.name, "test_it.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert run.stdout
        said = next((line for line in run.stdout if "waiting" in line), "it did not wait")
    finally:
        run.kill()
        run.communicate()
    assert f"another run of tests uses lab {micro.name}: waiting for it" in said


def test_a_lab_that_can_not_be_made_fails_each_test_with_the_first_cause(run_tests, tmp_path):
    (tmp_path / "broken.yaml").write_text("lab: broken\\n")
    done = run_tests("""
import pytest

pytestmark = pytest.mark.lab(topology="broken.yaml")

def test_one(lab): pass

def test_two(lab): pass
""")
    assert done.returncode == 1
    assert "2 errors" in done.stdout
    assert done.stdout.count("InputError: broken.yaml") >= 2
