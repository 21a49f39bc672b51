"""The labs of a test session."""
# ruff: noqa: PLC0415 -- what costs time is imported when a lab is wanted: every run of pytest loads this module

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labctl import store
from labctl.errors import LabError

if TYPE_CHECKING:
    from labctl.hypervisor.seam import Hypervisor
    from labctl.lab import Lab
    from labctl.topology.spec import Accelerator

__all__ = ["Labs", "lab_name", "uri_of"]


@dataclass
class Labs:
    """The labs of a test session, each brought up when a test first asks for it.

    A lab whose set-up failed keeps failing with the first cause rather than being tried again for each test. A lab that
    another run of tests uses is waited for: it would mend what this one breaks.

    Attributes:
        worker: of pytest-xdist, such as `gw0`, each of which has labs of its own; empty without it.
        held: lets go of the labs' names at the end of the session.
        reuse: take a lab that is there as it is, rather than set it back to its ready state.
        keep: leave labs up at the end.
        names: of all labs that the session has had; `NAME-TOPOLOGY` where the one asked for was taken.
    """

    hypervisor: Hypervisor
    name: str | None
    worker: str
    accelerator: Accelerator | None
    held: ExitStack
    reuse: bool = False
    keep: bool = False
    labs: dict[str, Lab] = field(default_factory=dict)
    failed: dict[str, BaseException] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

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

        name = lab_name(topology, self.name, self.worker)
        if self.name and name in self.names:  # which the session's first lab has
            name = lab_name(topology, f"{self.name}-{Path(topology).stem}", self.worker)
        lab = Lab.from_topology(topology, hypervisor=self.hypervisor, name=name, accelerator=self.accelerator)
        waiting = f"another run of tests uses lab {lab.name}: waiting for it"
        if name not in self.names:
            self.held.enter_context(store.locked(f"tests-{lab.name}", lambda: SAYS.print(waiting)))
        self.names.add(name)
        self.labs[topology] = lab
        return lab

    def drop(self, topology: str) -> None:
        """Destroy a lab that no more test needs, as guests that idle slow the others down; unless it is to be kept."""
        if not self.keep:
            self.labs.pop(topology).destroy()

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


def lab_name(topology: str, name: str | None, worker: str) -> str:
    """The name of a session's lab: the one asked for, else one made up; of each worker's its own."""
    name = name or f"test-{re.sub(r'[^a-z0-9-]', '-', Path(topology).stem)}"
    return f"{name[: 31 - len(worker)].rstrip('-')}-{worker}" if worker else name[:32].rstrip("-")


def uri_of(uris: str, worker: str) -> str:
    """The hypervisor of a worker: they take turns with those that there are."""
    known = [uri.strip() for uri in uris.split(",")]
    return known[int(re.sub(r"\D", "", worker) or 0) % len(known)]
