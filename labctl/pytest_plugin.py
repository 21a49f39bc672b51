"""pytest plugin: a lab as a fixture, faults that heal, probes, and verdicts. Does nothing until a fixture is used.

@pytest.mark.lab(topology="micro")
def test_a_member_dies(lab, probe, inject, history):
    ...
"""
# ruff: noqa: PLC0415 -- what costs time is imported by the fixture that needs it: every run of pytest loads this module

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labctl import store
from labctl.clock import SystemClock
from labctl.errors import LabError

if TYPE_CHECKING:
    from labctl.guest.agent import Guest
    from labctl.history import HistoryWriter
    from labctl.hypervisor.seam import Hypervisor
    from labctl.lab import Lab
    from labctl.probes.probe import Probe, RunningProbe
    from labctl.topology.spec import Accelerator

__all__ = ["Labs"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("labctl", "virtual labs")
    group.addoption("--lab-connect", metavar="URI", help="hypervisor that the labs are on (default: qemu:///system)")
    group.addoption("--lab", metavar="NAME", help="name of the lab to use; made up from the topology's by default")
    group.addoption("--lab-keep", action="store_true", help="leave the labs up at the end, to look at them")
    group.addoption("--lab-reuse", action="store_true", help="take labs as an earlier run left them, and leave them up")
    group.addoption("--lab-accel", choices=["auto", "kvm", "tcg"], default="auto", help="what runs the guests")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "lab(topology): the topology of the test's lab; `labctl up`'s by default")


@dataclass
class Labs:
    """The labs of a test session, each brought up when a test first asks for it.

    A lab whose set-up failed keeps failing with the first cause rather than being tried again for each test. A lab that
    another run of tests uses is waited for: it would mend what this one breaks.

    Attributes:
        held: lets go of the labs' names at the end of the session.
        reuse: take a lab that is there as it is, rather than set it back to its ready state.
    """

    hypervisor: Hypervisor
    name: str | None
    accelerator: Accelerator | None
    held: ExitStack
    reuse: bool = False
    labs: dict[str, Lab] = field(default_factory=dict)
    failed: dict[str, BaseException] = field(default_factory=dict)

    def get(self, topology: str) -> Lab:
        """The lab, up and converged."""
        if topology in self.failed:
            raise self.failed[topology]
        known = self.labs.get(topology)
        lab = known or self._new(topology)
        try:
            if not (known or self.reuse) and lab.can_be_reset():
                lab.reset()  # an earlier run left it, in whatever state
            lab.up()
            lab.wait_converged()
        except BaseException as cause:
            self.failed[topology] = cause
            raise
        return lab

    def _new(self, topology: str) -> Lab:
        from labctl.console import SAYS
        from labctl.lab import Lab

        name = self.name or f"test-{re.sub(r'[^a-z0-9-]', '-', Path(topology).stem)}"[:32]
        lab = Lab.from_topology(topology, hypervisor=self.hypervisor, name=name, accelerator=self.accelerator)
        waiting = f"another run of tests uses lab {lab.name}: waiting for it"
        self.held.enter_context(store.locked(f"tests-{lab.name}", lambda: SAYS.print(waiting)))
        self.labs[topology] = lab
        return lab

    def destroy(self) -> None:
        """All of them, whatever state they are in."""
        failures: list[Exception] = []
        for lab in self.labs.values():
            try:
                lab.destroy()
            except (LabError, ExceptionGroup) as failure:
                failures.append(failure)
        if failures:
            raise ExceptionGroup("labs could not be removed whole", failures)


@pytest.fixture(scope="session")
def labs(request: pytest.FixtureRequest) -> Iterator[Labs]:
    """The labs of the session; gone at its end unless they are to be kept."""
    from labctl.lab import DEFAULT_URI, open_hypervisor
    from labctl.topology.spec import Accelerator

    option = request.config.getoption
    accel = None if option("--lab-accel") == "auto" else Accelerator(option("--lab-accel"))
    with open_hypervisor(option("--lab-connect") or DEFAULT_URI) as hypervisor, ExitStack() as held:
        session = Labs(hypervisor, option("--lab"), accel, held, option("--lab-reuse"))
        try:
            yield session
        finally:
            if not (option("--lab-keep") or option("--lab-reuse")):
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
def evidence_dir(request: pytest.FixtureRequest) -> Path:
    """Where this test leaves what one needs to understand it."""
    return _evidence_dir(request.node)


@pytest.fixture
def history(evidence_dir: Path) -> Iterator[HistoryWriter]:
    """The test's history; its file stays in the test's evidence."""
    from labctl.history import HistoryWriter

    path = evidence_dir / "history.jsonl"
    path.unlink(missing_ok=True)
    with HistoryWriter(path) as writer:
        yield writer


@pytest.fixture
def probe(client: Guest, history: HistoryWriter) -> Callable[[Probe], AbstractContextManager[RunningProbe]]:
    """Runs a probe in the client guest for the length of a `with` block."""
    from labctl.probes.probe import RunningProbe

    return lambda spec: RunningProbe(spec, client, history)


@pytest.fixture
def inject(lab: Lab, history: HistoryWriter) -> Callable[..., AbstractContextManager[None]]:
    """Breaks one thing or several at once for the length of a `with` block: `with inject(PowerOff("cas1")): …`."""
    from labctl.faults import injected_together

    return lambda *faults: injected_together(faults, lab.ground(), history)


@pytest.fixture
def watch(lab: Lab, history: HistoryWriter) -> Iterator[None]:
    """Records every cluster's membership and every machine's state for the length of the test."""
    from labctl.cluster.watch import watching
    from labctl.faults import watching_machines

    with ExitStack() as stack:
        stack.enter_context(watching_machines(lab.ground(), history))
        for cluster in lab.spec.clusters:
            stack.enter_context(watching(lambda c=cluster: lab.look(c), history, SystemClock()))  # type: ignore[misc]
        yield


# -- evidence ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the consoles and journals of the lab of a test that failed, and say where."""
    report = yield
    funcargs = getattr(item, "funcargs", {})
    session = funcargs.get("labs")
    if report.failed and isinstance(session, Labs) and (lab := session.labs.get(_topology_of(item))):
        folder = _gather(lab, _evidence_dir(item))
        report.sections.append(("labctl evidence", f"consoles, journals and history: {folder}"))
    return report


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


def _gather(lab: Lab, folder: Path) -> Path:
    for node in lab.spec.nodes:
        for what, get in (("console.log", _console), ("journal.log", _journal)):
            try:
                text = get(lab, node.name)
            except LabError as error:
                text = f"could not be read: {error}\n"
            (folder / f"{node.name}.{what}").write_text(text)
    return folder


def _console(lab: Lab, node: str) -> str:
    from labctl.lab import console_tail

    return console_tail(lab.hypervisor, lab.name, node, size_bytes=1 << 20)


# A guest without systemd has journalctl all the same, which finds nothing and is content with that.
_JOURNAL = """
if [ -d /run/systemd/system ]; then exec journalctl --merge --no-pager --lines 2000; fi
tail -n 500 /var/log/*.log /var/log/nginx/error.log
"""


def _journal(lab: Lab, node: str) -> str:
    guest = lab.guest(node)
    if why_not := guest.answers():
        return f"not to be had, the guest agent does not answer: {why_not}\n"
    return guest.run(["/bin/sh", "-c", _JOURNAL], within_s=60.0).stdout.decode(errors="replace")
