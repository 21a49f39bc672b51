"""How long labs take to be forked, booted, saved, restored and reset; run as root on a host that does nothing else.

    .venv/bin/python benchmarks/lab_state.py [--samples N] [--boots N]

Prints the host, and for each figure the number of samples, the median and the spread, in seconds. Labs of its own names
(`bench-…`) are made and removed; the shipped topologies are used, so their parent disk is built first if need be.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labctl.apply import apply
from labctl.destroy import Silent
from labctl.hypervisor.seam import Hypervisor
from labctl.lab import Lab, open_hypervisor
from labctl.plan import Plan, Verb

BARE = """
lab: bench-bare
domain: bench.test
networks: {lan: {subnet: 10.99.0.0/24}}
nodes:
""" + "".join(f"  n{i}: {{nics: {{host: {{network: lan, address: 10.99.0.{i}}}}}}}\n" for i in range(1, 6))

BARE_VERBS = {Verb.CREATE_NETWORK, Verb.CREATE_NODE, Verb.START_NODE}


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
        print(f"\n{'what':62} samples  median  least - most (s)")
        for what, samples in self._samples.items():
            median = statistics.median(samples)
            print(f"{what:62} {len(samples):7}  {median:6.2f}  {min(samples):.2f} - {max(samples):.2f}")


class Paused(Silent):
    """Hears for how long the guests were paused."""

    def __init__(self, figures: Figures, what: str) -> None:
        self._figures, self._what = figures, what

    def note(self, text: str) -> None:
        if "guests were paused for" in text:
            self._figures.add(self._what, float(text.split("paused for ")[1].split(maxsplit=1)[0]))


def bare_clones(lab: Lab, *, boot: bool) -> None:
    """Clone and start, nothing else: until every agent answers."""
    directory = lab.hypervisor.ensure_pool()
    plan = lab.plan(fresh=True)
    bare = Plan(tuple(a for a in plan.actions if a.verb in BARE_VERBS))
    apply(bare, lab.blueprint.workshop(directory, Silent(), forking=not boot))


def run_bare(hypervisor: Hypervisor, figures: Figures, samples: int, boots: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bare.yaml")
        file.write_text(BARE)
        lab = Lab.from_topology(file, hypervisor=hypervisor)
        for boot, count, what in ((False, samples + 1, "forked"), (True, boots, "booted")):
            for number in range(count):
                began_s = time.monotonic()
                bare_clones(lab, boot=boot)
                seconds = time.monotonic() - began_s
                lab.destroy()
                if boot or number:  # the first fork boots the parent machine
                    figures.add(f"five bare clones {what}, until all agents answer", seconds)


def run_state(hypervisor: Hypervisor, figures: Figures, topology: str, samples: int) -> None:
    lab = Lab.from_topology(topology, hypervisor=hypervisor, name=f"bench-{topology}")

    def timed(what: str, act: Callable[[], object]) -> None:
        with figures.time(f"{topology}: {what}"):
            act()

    timed("up --fresh, forks and provisioning, without saving", lambda: lab.up(fresh=True, keep=False))
    lab.destroy()
    lab.up(fresh=True)
    for _ in range(samples):
        timed("clean_lab: reset to the ready state, converged", lab.reset)
        timed(
            "snapshot save, until the guests run again",
            lambda: lab.save_snapshot("bench", Paused(figures, f"{topology}: guests paused for a save")),
        )
        timed("destroy", lab.destroy)
        timed("up from the ready state, until all agents answer and converged", lab.up)
    lab.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--boots", type=int, default=1, help="samples of the five boots, which are slow")
    options = parser.parse_args()
    figures = Figures()
    with open_hypervisor(os.environ.get("LABCTL_URI", "qemu:///system")) as hypervisor:
        facts = hypervisor.host()
        versions = f"libvirt {facts.libvirt_version}, QEMU {facts.hypervisor_version}"
        print(f"{platform.platform()}, {facts.cpus} CPUs, {versions}")
        run_bare(hypervisor, figures, options.samples, options.boots)
        for topology in ("micro", "exchange2007"):
            run_state(hypervisor, figures, topology, options.samples)
    figures.show()
    forked, booted = (figures.median(f"five bare clones {w}, until all agents answer") for w in ("forked", "booted"))
    print(f"\nfive forks are {booted / forked:.1f} times as fast as five boots in this run")


if __name__ == "__main__":
    main()
