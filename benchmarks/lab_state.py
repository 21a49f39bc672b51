"""How long labs take to be forked, booted, saved, restored and reset; run as root on a host that does nothing else.

    .venv/bin/python benchmarks/lab_state.py [--samples N] [--boots N] [--topology NAME ...]

Prints the host; each sample as it comes, with its phases; the same work done by bare virsh and qemu-img commands
(bare.sh); and at the end, for each figure, the number of samples, the median and the spread, in seconds. Nodes go side
by side, so phases overlap: each is the time in which at least one node was in it. Labs of its own names (`bench-...`)
are made and removed; the shipped topologies are used, so their parent disk is built first if need be.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from labctl.apply import apply
from labctl.destroy import Silent
from labctl.hypervisor.seam import Hypervisor
from labctl.lab import Lab, open_hypervisor
from labctl.plan import Plan, Verb
from labctl.ready import find_ready
from labctl.state.kept import State, discard_state, states, write_manifest
from labctl.topology.load import find_topology

BARE = """
lab: bench-bare
domain: bench.test
networks: {lan: {subnet: 10.99.0.0/24}}
nodes:
""" + "".join(f"  n{i}: {{nics: {{host: {{network: lan, address: 10.99.0.{i}}}}}}}\n" for i in range(1, 6))

BARE_VERBS = {Verb.CREATE_NETWORK, Verb.CREATE_NODE, Verb.START_NODE}
BARE_SCRIPT = Path(__file__).with_name("bare.sh")
FORKED, BOOTED = (f"five bare clones {how}, until all agents answer" for how in ("forked", "booted"))


class Figures:
    """Samples by name, printed as they come and summed up at the end."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self.add(what, time.monotonic() - began_s)

    def add(self, what: str, seconds: float) -> None:
        self._samples.setdefault(what, []).append(seconds)
        print(f"  {what}: {seconds:.2f}", flush=True)

    def median(self, what: str) -> float:
        return statistics.median(self._samples[what])

    def show(self) -> None:
        print(f"\n{'what':78} samples  median  least - most (s)")
        for what, samples in self._samples.items():
            print(f"{what:78} {len(samples):7}  {self.median(what):6.2f}  {min(samples):.2f} - {max(samples):.2f}")


class Timed:
    """A hypervisor that notes when each of its calls began and ended."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.calls: list[tuple[str, float, float]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._hypervisor, name)
        return self._timed(name, method) if callable(method) else method

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            began_s = time.monotonic()
            try:
                return method(*args, **more)
            finally:
                self.calls.append((name, began_s, time.monotonic()))

        return call

    def none_under_way_s(self, began_s: float, ended_s: float) -> float:
        """For how long no call was: what labctl itself takes, its waits between two looks included."""
        within = [(max(b, began_s), min(e, ended_s)) for _, b, e in self.calls if e > began_s]
        return ended_s - began_s - _covered_s(within)

    def phases(self) -> str:
        """Of the calls since the last time: in how many seconds at least one of a kind was under way."""
        by_name: dict[str, list[tuple[float, float]]] = {}
        for name, began_s, ended_s in self.calls:
            by_name.setdefault(name, []).append((began_s, ended_s))
        self.calls.clear()
        long = {name: _covered_s(spans) for name, spans in by_name.items()}
        return ", ".join(f"{n} {s:.2f}" for n, s in sorted(long.items(), key=lambda x: -x[1]) if s >= 0.05)


def _covered_s(spans: list[tuple[float, float]]) -> float:
    covered_s, reached_s = 0.0, 0.0
    for began_s, ended_s in sorted(spans):
        covered_s += max(0.0, ended_s - max(began_s, reached_s))
        reached_s = max(reached_s, ended_s)
    return covered_s


class Paused(Silent):
    """Hears for how long the guests were paused."""

    def __init__(self, figures: Figures, what: str) -> None:
        self._figures, self._what = figures, what

    def note(self, text: str) -> None:
        if "guests were paused for" in text:
            self._figures.add(self._what, float(text.split("paused for ")[1].split(maxsplit=1)[0]))


# -- bare clones -------------------------------------------------------------------------------------------------------


def bare_clones(lab: Lab, *, boot: bool) -> None:
    """Clone and start, nothing else: until every agent answers."""
    directory = lab.hypervisor.ensure_pool()
    plan = lab.plan(fresh=True)
    bare = Plan(tuple(a for a in plan.actions if a.verb in BARE_VERBS))
    apply(bare, lab.blueprint.workshop(directory, Silent(), forking=not boot))


def run_bare(hypervisor: Timed, figures: Figures, samples: int, boots: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bare.yaml")
        file.write_text(BARE)
        lab = Lab.from_topology(file, hypervisor=hypervisor)
        for boot, count, what in ((False, samples + 1, FORKED), (True, boots, BOOTED)):
            for number in range(count):
                hypervisor.calls.clear()
                began_s = time.monotonic()
                bare_clones(lab, boot=boot)
                seconds = time.monotonic() - began_s
                if boot or number:  # the first fork boots the parent machine
                    figures.add(what, seconds)
                    print(f"    phases: {hypervisor.phases()}")
                lab.destroy()


# -- the state of a lab ------------------------------------------------------------------------------------------------


class Bench:
    """One topology's lab, and what is measured on it."""

    def __init__(self, hypervisor: Timed, figures: Figures, topology: str, folder: str) -> None:
        self.hypervisor, self.figures, self.topology = hypervisor, figures, topology
        # In a domain of its own, so that no state of another lab will do.
        text = find_topology(topology).read_text()
        file = Path(folder, f"{topology}.yaml")
        file.write_text(re.sub(r"\b(contoso|micro)\.test\b", "bench.test", text))
        self.lab = Lab.from_topology(file, hypervisor=hypervisor, name=f"bench-{topology}")

    def run(self, samples: int) -> None:
        try:
            self.makings()
            self.lab.up(fresh=True)
            self.sizes()
            for _ in range(samples):
                self.sample()
            self.lab.destroy()
            self.layers(samples)
        finally:
            self.lab.destroy()
            for kept in states(self.hypervisor):
                if kept.lab == self.lab.name:
                    discard_state(self.hypervisor, kept.key)

    def timed(self, what: str, act: Callable[[], object]) -> None:
        self.hypervisor.calls.clear()
        began_s = time.monotonic()
        with self.figures.time(f"{self.topology}: {what}"):
            act()
        itself_s = self.hypervisor.none_under_way_s(began_s, time.monotonic())
        print(f"    phases: {self.hypervisor.phases()}; no call under way {itself_s:.2f}")

    def makings(self) -> None:
        self.timed("up --fresh: forked and provisioned, not saved", lambda: self.lab.up(fresh=True, keep=False))
        self.lab.destroy()

    def sample(self) -> None:
        lab = self.lab
        self.timed("reset (clean_lab), until all agents answer and the cluster has converged", lab.reset)
        self.bare("reset", self.ready().manifest.key)
        lab.reset()
        said = Paused(self.figures, f"{self.topology}: guests paused for a save")
        self.timed("snapshot save, until the guests run again", lambda: lab.save_snapshot("bench", said))
        self.bare("save", f"snap_{lab.name}_bare")
        self.timed("destroy", lab.destroy)
        self.timed("reading the RAM images from disk, cold", self.read_images)
        self.timed("up from the ready state, until all agents answer and the cluster has converged", lab.up)

    def layers(self, samples: int) -> None:
        """From disks and RAM of a state that is another lab's as a whole, and from the disks alone."""
        manifest = self.ready().manifest
        for what, host in (("RAM and disk", manifest.host), ("disk alone, booted", "")):
            write_manifest(self.hypervisor, replace(manifest, digest="another", host=host))
            for _ in range(samples if host else 1):
                self.timed(f"up from role layers, {what}", lambda: self.lab.up(keep=False))
                self.lab.destroy()

    def ready(self) -> State:
        state = find_ready(self.lab.blueprint.workshop(self.hypervisor.ensure_pool(), Silent()))
        if state is None:
            raise SystemExit(f"lab {self.lab.name} has no ready state")
        return state

    def bare(self, verb: str, key: str) -> None:
        """The same by virsh and qemu-img."""
        nodes = [n.name for n in self.lab.spec.nodes]
        command = [BARE_SCRIPT, verb, self.hypervisor.ensure_pool(), self.lab.name, key, *nodes]
        with self.figures.time(f"{self.topology}: {verb} by virsh and qemu-img, until all agents answer"):
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(f"    phases: {', '.join(said.splitlines())}")

    def read_images(self) -> None:
        for machine in self.ready().machines.values():
            with Path(machine.ram.path).open("rb", buffering=0) as image:
                os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                _read_data(image.fileno())

    def sizes(self) -> None:
        """What each RAM image takes, beside what of its guest's RAM is not free, the kernel's own included."""
        for node, machine in self.ready().machines.items():
            free_kib = int(self.lab.guest(node).shell("awk '/^MemFree/ {print $2}' /proc/meminfo"))
            used_mib = self.lab.spec.node(node).memory_mib - free_kib // 1024
            print(
                f"  {self.topology}: {node}: RAM image {machine.ram.allocation_bytes >> 20} MiB, in use {used_mib} MiB"
            )


def _read_data(descriptor: int) -> None:
    end, position = os.fstat(descriptor).st_size, 0
    while position < end:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        hole = os.lseek(descriptor, position, os.SEEK_HOLE)
        while position < hole:
            position += len(os.pread(descriptor, min(1 << 20, hole - position), position))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--boots", type=int, default=1, help="samples of the five boots, which are slow")
    parser.add_argument("--topology", action="append", help="default: micro and exchange2007")
    options = parser.parse_args()
    figures = Figures()
    with open_hypervisor(os.environ.get("LABCTL_URI", "qemu:///system")) as connected:
        facts = connected.host()
        versions = ", ".join(
            f"{n} {'.'.join(map(str, v))}"
            for n, v in (("libvirt", facts.libvirt_version), ("QEMU", facts.hypervisor_version))
        )
        print(f"{platform.platform()}, {facts.cpus} CPUs, {versions}, load {os.getloadavg()[0]:.1f}")
        hypervisor = Timed(connected)
        if options.boots:
            run_bare(hypervisor, figures, options.samples, options.boots)
        with tempfile.TemporaryDirectory() as folder:
            for topology in options.topology or ("micro", "exchange2007"):
                Bench(hypervisor, figures, topology, folder).run(options.samples)
    figures.show()
    if options.boots:
        ratio = figures.median(BOOTED) / figures.median(FORKED)
        print(f"\nfive forks are {ratio:.1f} times as fast as five boots in this run")


if __name__ == "__main__":
    main()
