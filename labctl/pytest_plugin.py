"""pytest plugin: a lab as a fixture, faults that heal, probes, and verdicts. Does nothing until a fixture is used.

@pytest.mark.lab(topology="micro")
def test_a_member_dies(lab, probe, inject, history):
    ...
"""
# ruff: noqa: PLC0415 -- what costs time is imported by the fixture that needs it: every run of pytest loads this module

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labctl import store
from labctl.clock import SystemClock
from labctl.labs import Labs, uri_of

if TYPE_CHECKING:
    from labctl.checks import Claim, Verdict
    from labctl.cluster.handle import Cluster
    from labctl.guest.agent import Guest
    from labctl.history import HistoryWriter
    from labctl.lab import Lab
    from labctl.probes.probe import RunningProbe
    from labctl.secrets import Secrets

_HISTORIES = pytest.StashKey[list[str]]()
_KEPT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("labctl", "virtual labs")
    uris = "hypervisor that the labs are on (default: qemu:///system); several, with commas, are for pytest-xdist"
    group.addoption("--lab-connect", metavar="URI", help=uris)
    group.addoption("--lab", metavar="NAME", help="name of the lab to use; made up from the topology's by default")
    group.addoption("--lab-keep", action="store_true", help="leave the labs up at the end, to look at them")
    group.addoption("--lab-reuse", action="store_true", help="take labs as an earlier run left them, and leave them up")
    group.addoption(
        "--lab-seed", metavar="N", type=int, help="seed of what is left to chance (default: another each run)"
    )
    group.addoption("--lab-report", metavar="FILE", help="make a page of what happened; figures go beside it, as .json")
    group.addoption("--lab-debug", action="store_true", help="stop at the first failure, with the lab as it is then")
    group.addoption("--lab-accel", choices=["auto", "kvm", "tcg"], default="auto", help="what runs the guests")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "lab(topology): the topology of the test's lab; `labctl up`'s by default")
    config.addinivalue_line(
        "markers", "needs(kvm, memory_mib, …): skip the test, with the reason, where that is not there"
    )
    config.stash[_HISTORIES] = []
    config.stash[_KEPT] = []
    if config.getoption("--lab-seed") is None:
        config.option.lab_seed = int.from_bytes(os.urandom(4))
    if config.getoption("--lab-debug"):
        config.option.maxfail = 1


@pytest.fixture(scope="session")
def labs(request: pytest.FixtureRequest) -> Iterator[Labs]:
    """The labs of the session; gone at its end unless they are to be kept."""
    from labctl.lab import DEFAULT_URI, open_hypervisor
    from labctl.topology.spec import Accelerator

    option, worker = request.config.getoption, os.environ.get("PYTEST_XDIST_WORKER", "")
    accel = None if option("--lab-accel") == "auto" else Accelerator(option("--lab-accel"))
    with open_hypervisor(uri_of(option("--lab-connect") or DEFAULT_URI, worker)) as hypervisor, ExitStack() as held:
        keep = option("--lab-keep") or option("--lab-reuse")
        session = Labs(hypervisor, option("--lab"), worker, accel, held, option("--lab-reuse"), keep)
        try:
            yield session
        finally:
            if not (keep or (option("--lab-debug") and request.session.testsfailed)):
                session.destroy()


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> str:
    """The topology that the test's `lab` marker names."""
    return _topology_of(request.node)


@pytest.fixture
def lab(labs: Labs, topology: str) -> Lab:
    """The test's lab: up, its nodes answering, its clusters converged."""
    return labs.get(topology)


@pytest.fixture
def clean_lab(lab: Lab) -> Lab:
    """The test's lab, set back to its ready state just now: nodes answer, clusters have converged, nothing broken."""
    from labctl.faults import active

    lab.reset()
    if left := active(lab.ground()):
        pytest.fail(f"lab {lab.name} is set back, and still has {', '.join(f'{m.kind} of {m.target}' for m in left)}")
    return lab


@pytest.fixture
def node(lab: Lab) -> Callable[[str], Any]:
    """Makes a testinfra host of a node, over the guest agent: `node("cas1").service("nginx").is_running`."""
    from labctl.guest.testinfra_backend import host

    return lambda name: host(lab.guest(name))


@pytest.fixture
def client(lab: Lab) -> Guest:
    """The node that plays the client: the first one with the role `client`."""
    name = next((n.name for n in lab.spec.nodes if "client" in n.roles), None)
    if name is None:
        pytest.fail(f"topology {lab.record.file} has no node with the role client")
    return lab.guest(name)


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    """The lab's cluster, to look at and to tell its members what to do; that is taken back at the end of the test."""
    from labctl.cluster.handle import Cluster

    spec = lab.cluster()
    handle = Cluster(spec, lab.members(spec), lab.clock)
    try:
        yield handle
    finally:
        handle.serve_again()


@pytest.fixture
def secrets(lab: Lab) -> Secrets:
    """The lab's passwords and keys: `secrets.users["alice"]`."""
    from labctl.vault import load_secrets

    return load_secrets(lab.hypervisor, lab.name)


@pytest.fixture
def evidence_dir(request: pytest.FixtureRequest) -> Path:
    """Where this test leaves what one needs to understand it."""
    return _evidence_dir(request.node)


@pytest.fixture
def history(evidence_dir: Path, request: pytest.FixtureRequest) -> Iterator[HistoryWriter]:
    """The test's history; its file stays in the test's evidence."""
    from labctl.history import HistoryWriter, LabEvent

    path = evidence_dir / "history.jsonl"
    path.unlink(missing_ok=True)
    request.config.stash[_HISTORIES].append(str(path))
    with HistoryWriter(path) as writer:
        if "lab" in request.fixturenames:
            lab = request.getfixturevalue("lab")
            made_from = (lab.record.file, lab.record.text, str(lab.spec.accelerator))
            writer.append(LabEvent(writer.now_s(), lab.name, *made_from))
        writer.note(f"--lab-seed {request.config.getoption('--lab-seed')}")
        yield writer


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance that repeats itself with `--lab-seed`; each test has its own, whatever the others draw."""
    return random.Random(f"{request.config.getoption('--lab-seed')} {request.node.nodeid}")  # noqa: S311 - no secret


@pytest.fixture
def probe(client: Guest, history: HistoryWriter) -> Callable[..., AbstractContextManager[RunningProbe]]:
    """Runs a probe, or several, in the client guest for the length of a `with` block."""
    from labctl.probes.probe import RunningProbe

    return lambda *specs: RunningProbe(specs, client, history)


@pytest.fixture
def inject(
    lab: Lab, history: HistoryWriter, request: pytest.FixtureRequest
) -> Callable[..., AbstractContextManager[None]]:
    """Breaks one thing or several at once for the length of a `with` block: `with inject(PowerOff("cas1")): …`."""
    from labctl.faults import injected_together

    look = request.config.getoption("--lab-debug")
    return lambda *faults: injected_together(faults, lab.ground(), history, leave_on_error=look)


@pytest.fixture
def verdict(request: pytest.FixtureRequest, history: HistoryWriter) -> Callable[..., Verdict]:
    """Judges the history by claims, which it keeps: `verdict(claim(no_failures, "web"), …).require_pass()`.

    The figures are printed, and are properties of the test in JUnit files.
    """
    from labctl.checks import judged, summary

    def judge(*claims: Claim) -> Verdict:
        found = judged(history, *claims)
        print(summary(found))  # noqa: T201 - pytest shows it when the test fails, or with -rA
        request.node.user_properties += [
            ("verdict", str(found.result)),
            *((f"{f.check}: {figure.name}", str(figure)) for f in found.findings for figure in f.figures),
        ]
        return found

    return judge


@pytest.fixture
def watch(lab: Lab, history: HistoryWriter) -> Iterator[None]:
    """Records membership, machines, readiness and journals of the whole lab for the length of the test."""
    from labctl.cluster.watch import watching
    from labctl.faults import watching_machines
    from labctl.journals import watching_journals
    from labctl.readiness import watching_readiness

    with ExitStack() as stack:
        stack.enter_context(watching_machines(lab.ground(), history))
        stack.enter_context(watching_journals([n.name for n in lab.spec.nodes], lab.guest, history, lab.clock))
        stack.enter_context(watching_readiness(lab.spec, lab.guest, history, lab.clock))
        for cluster in lab.spec.clusters:
            stack.enter_context(watching(lambda c=cluster: lab.look(c), history, SystemClock()))  # type: ignore[misc]
        yield


@pytest.fixture
def capture(lab: Lab, evidence_dir: Path) -> Callable[..., AbstractContextManager[None]]:
    """Captures a NIC's packets into the test's evidence: `with capture("m1", "cluster", "tcp port 80"): …`."""
    from labctl.evidence import capturing

    def begin(node: str, nic: str, what: str = "") -> AbstractContextManager[None]:
        return capturing(lab.guest(node), nic, evidence_dir / f"{node}.{nic}.pcap", what)

    return begin


# -- what a test needs -------------------------------------------------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose `needs` marker asks for what this host does not have."""
    needs = {**{name: True for mark in item.iter_markers("needs") for name in mark.args if isinstance(name, str)},
             **{name: value for mark in item.iter_markers("needs") for name, value in mark.kwargs.items()}}  # fmt: skip
    if needs and (lacking := _lacking(needs, item.config)):
        pytest.skip(lacking)


def _lacking(needs: dict[str, Any], config: pytest.Config) -> str:
    """What of it is not there; empty when all is. Needs that are not ours are left to whoever knows them."""
    if not needs.keys() & {"kvm", "memory_mib"}:
        return ""
    from labctl.accelerator import accelerator, cpu_flags
    from labctl.lab import DEFAULT_URI, open_hypervisor
    from labctl.topology.spec import Accelerator

    uri = uri_of(config.getoption("--lab-connect") or DEFAULT_URI, os.environ.get("PYTEST_XDIST_WORKER", ""))
    with open_hypervisor(uri) as hypervisor:
        host = hypervisor.host()
        if needs.get("kvm") and accelerator(host, cpu_flags(uri)) is not Accelerator.KVM:
            return f"needs KVM, which does not work on {uri}"
    if host.memory_mib < int(needs.get("memory_mib", 0)):
        return f"needs {needs['memory_mib']} MiB of memory, {uri} has {host.memory_mib} MiB"
    return ""


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of pytest-xdist has written; a worker that crashed can't say."""
    if error is None:
        node.config.stash[_HISTORIES].extend(getattr(node, "workeroutput", {}).get("labctl_histories", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report; a worker tells its controller instead."""
    config = session.config
    written = config.stash[_HISTORIES]
    if hasattr(config, "workeroutput"):
        config.workeroutput["labctl_histories"] = written
    elif target := config.getoption("--lab-report"):
        config.stash[_KEPT].append(_report(written, target))


def _report(written: list[str], target: str) -> str:
    """Write it; what there is to say of it."""
    if not written:
        return f"labctl: no test has kept a history (the fixture `history`), so there is no report {target}"
    from labctl.history import read_history
    from labctl.report import write_report

    result = write_report([read_history(Path(p)) for p in written], Path(target))
    return f"labctl: {result}, see {target}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say where to look."""
    for line in config.stash[_KEPT]:
        terminalreporter.write_line(line)


# -- evidence ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep how the test ended in its history, and the consoles and journals of the lab of one that failed."""
    report = yield
    if "history" in item.fixturenames and (report.when == "call" or (report.when == "teardown" and report.failed)):  # type: ignore[attr-defined]
        _note_outcome(item, report.outcome)
    funcargs = getattr(item, "funcargs", {})
    session = funcargs.get("labs")
    if report.failed and isinstance(session, Labs) and (lab := session.labs.get(_topology_of(item))):
        from labctl.evidence import gather

        folder = gather(lab, _evidence_dir(item))
        report.sections.append(("labctl evidence", f"consoles, journals and history: {folder}"))
        if item.config.getoption("--lab-debug"):
            item.config.stash[_KEPT] += _how_to_look(lab)
    return report


def _note_outcome(item: pytest.Item, outcome: str) -> None:
    from labctl.history import HistoryWriter, TestEvent

    path = _evidence_dir(item) / "history.jsonl"
    if str(path) in item.config.stash[_HISTORIES]:  # else somebody has a fixture of that name of his own
        with HistoryWriter(path) as writer:
            writer.append(TestEvent(writer.now_s(), item.nodeid, outcome))


def _how_to_look(lab: Lab) -> list[str]:
    named = f"--lab {lab.name}"
    return [
        f"labctl: the lab {lab.name} is as it was when the test failed",
        f"  labctl status {named}",
        f"  labctl fault ls {named}",
        f"  labctl exec {named} {lab.spec.nodes[0].name} -- sh",
        f"  labctl console {named} {lab.spec.nodes[0].name}",
        f"  labctl destroy {named}",
    ]


def _topology_of(item: pytest.Item) -> str:
    from labctl.lab import DEFAULT_TOPOLOGY

    marker = item.get_closest_marker("lab")
    if marker is None:
        return DEFAULT_TOPOLOGY
    return str(marker.kwargs.get("topology") or (marker.args[0] if marker.args else DEFAULT_TOPOLOGY))


def _evidence_dir(item: pytest.Item) -> Path:
    folder = store.artifacts_dir().absolute() / re.sub(r"[^A-Za-z0-9_.-]+", "-", item.nodeid).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
