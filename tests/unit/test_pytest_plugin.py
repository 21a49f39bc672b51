"""The pytest plugin where it needs no guest: names, chance, needs, reports, and pytest-xdist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest

from labctl.hypervisor.fake import FakeHypervisor
from labctl.labs import Labs, lab_name, uri_of
from labctl.topology.spec import Accelerator

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_tests(tmp_path: Path) -> Run:
    """Runs pytest on the text of a test module, in a process and a directory of its own; warnings are errors."""

    def run(text: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(text)
        argv = [sys.executable, "-W", "error::pytest.PytestWarning", "-m", "pytest", "-p", "no:cacheprovider", *options]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        return subprocess.run(
            [*argv, "-W", "error::pytest.PytestWarning", "test_it.py"],
            cwd=tmp_path,
            env={**environment, "LABCTL_ARTIFACTS": str(tmp_path / "evidence")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("topology", "name", "worker", "made"),
    [
        ("micro", None, "", "test-micro"),
        ("micro", None, "gw0", "test-micro-gw0"),
        ("some/where/My Lab.yaml", None, "", "test--y--ab"),
        ("micro", "mine", "gw11", "mine-gw11"),
        ("micro", "m" * 40, "", "m" * 32),
        ("micro", "m" * 40, "gw11", "m" * 27 + "-gw11"),
    ],
)
def test_each_worker_has_a_lab_of_its_own_name(topology: str, name: str | None, worker: str, made: str) -> None:
    assert lab_name(topology, name, worker) == made
    assert len(made) <= 32


def test_the_first_lab_has_the_name_that_was_asked_for_and_the_others_their_topologys_beside_it() -> None:
    with ExitStack() as held:
        labs = Labs(FakeHypervisor(), "mine", "", Accelerator.TCG, held)
        made = [labs._new(topology) for topology in ("micro", "micro-haproxy")]
        assert [lab.name for lab in made] == ["mine", "mine-micro-haproxy"]
        labs.drop("micro")
        assert labs._new("exchange2007").name == "mine-exchange2007"


def test_workers_take_turns_with_the_hypervisors() -> None:
    uris = "qemu:///system, qemu+ssh://b/system"
    assert [uri_of(uris, worker) for worker in ("", "gw0", "gw1", "gw2")] == [
        "qemu:///system", "qemu:///system", "qemu+ssh://b/system", "qemu:///system"
    ]  # fmt: skip


JUDGES = """
import pytest
from labctl.checks import claim, fault_confirmed
from labctl.history import FaultEvent, FaultPhase

@pytest.mark.parametrize("phase", ["CONFIRMED", "UNCONFIRMED"])
def test_it(history, verdict, phase):
    for at_s, name in enumerate(["INJECTED", phase]):
        history.append(FaultEvent(float(at_s), "power-off", "m1", FaultPhase[name]))
    verdict(claim(fault_confirmed, "power-off", "m1")).require_pass()
"""


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_junit_files_carry_the_verdict_and_nobody_is_warned(run_tests: Run, tmp_path: Path, family: str) -> None:
    done = run_tests(JUDGES, "--junitxml=junit.xml", "-o", f"junit_family={family}")
    assert "1 failed, 1 passed" in done.stdout
    assert "warning" not in done.stdout
    properties = ElementTree.parse(tmp_path / "junit.xml").iter("property")
    assert [p.get("value") for p in properties if p.get("name") == "verdict"] == ["PASS", "INCONCLUSIVE"]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_the_report_has_every_history_of_the_run(run_tests: Run, tmp_path: Path, workers: list[str]) -> None:
    done = run_tests(JUDGES, "--lab-report", "report.html", *workers)
    assert "labctl: INCONCLUSIVE, see report.html" in done.stdout
    figures = json.loads((tmp_path / "report.json").read_text())
    assert sorted(f["result"] for f in figures) == ["INCONCLUSIVE", "PASS"]
    assert sorted((f["name"], f["outcome"]) for f in figures) == [
        ("it: CONFIRMED", "passed"),
        ("it: UNCONFIRMED", "failed"),
    ]


EXPECTS = """
import pytest
from labctl.checks import Result, claim, fault_confirmed

def test_it(history, verdict):
    assert verdict(claim(fault_confirmed, "power-off", "m1")).result is Result.INCONCLUSIVE

@pytest.fixture
def untidy(history, verdict):
    yield
    assert not history

def test_more(untidy, history):
    pass
"""


def test_the_report_knows_what_tests_expected_and_which_failed_only_at_their_end(
    run_tests: Run, tmp_path: Path
) -> None:
    run_tests(EXPECTS, "--lab-report", "report.html")
    it, more = json.loads((tmp_path / "report.json").read_text())
    assert (it["outcome"], it["result"], it["stands"]) == ("passed", "INCONCLUSIVE", "PASS")
    assert (more["outcome"], more["stands"]) == ("failed", "INCONCLUSIVE")


def test_a_report_of_nothing_is_not_written_and_that_is_told(run_tests: Run, tmp_path: Path) -> None:
    done = run_tests("def test_it(): pass", "--lab-report", "report.html")
    assert done.returncode == 0
    assert "no test has kept a history (the fixture `history`), so there is no report report.html" in done.stdout
    assert not (tmp_path / "report.html").exists()


def test_chance_repeats_itself_with_the_seed_and_is_another_for_each_test(run_tests: Run, tmp_path: Path) -> None:
    draws = """
import pytest
@pytest.mark.parametrize("n", [1, 2])
def test_it(chance, history, n):
    open("drawn", "a").write(f"{chance.random()}\\n")
"""
    for seed in ("7", "7", "8"):
        assert run_tests(draws, "--lab-seed", seed).returncode == 0
    one, two, again, again_two, other, _ = (tmp_path / "drawn").read_text().split()
    assert (one, two) == (again, again_two)
    assert len({one, two, other}) == 3


NEEDS = """
import pytest
@pytest.mark.needs(memory_mib=1 << 40)
def test_much(): pass
@pytest.mark.needs(memory_mib=1)
def test_little(): pass
@pytest.mark.needs("something else")
def test_other(): pass
"""


def test_what_the_host_does_not_have_skips_a_test_with_the_reason(run_tests: Run) -> None:
    done = run_tests(NEEDS, "-rs", "--strict-markers", "--lab-connect", "test:///default")
    assert "2 passed, 1 skipped" in done.stdout
    assert "needs 1099511627776 MiB of memory, test:///default has" in done.stdout
