"""Put the nodes of a lab into a saved state: each is a fork of the saved one.

So a lab of another name can stand on the same state, with the same addresses inside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from labctl.hypervisor.seam import Hypervisor
from labctl.machines import fork
from labctl.parallel import for_all
from labctl.render.names import domain_name, overlay_name
from labctl.render.xml import DomainPlan, domain_xml, overlay_xml
from labctl.state.kept import State

__all__ = ["restore_nodes", "resume_together"]


def restore_nodes(hypervisor: Hypervisor, state: State, plans: dict[str, DomainPlan]) -> None:
    """Make every node of a lab a fork of its saved one, all paused; see `resume_together`.

    Args:
        plans: by node; a domain that is there already is kept, powered off and given a new disk.

    Raises:
        LabError, ExceptionGroup: what could not be restored; what could be is there, paused.
    """

    def one(node: str) -> None:
        plan, machine = plans[node], state.machines[node]
        name = domain_name(plan.mark.lab, plan.mark.name)
        if hypervisor.domain(name):
            hypervisor.power_off(name)
        else:
            hypervisor.define_domain(domain_xml(plan))
        overlay = overlay_name(plan.mark.lab, plan.mark.name)
        hypervisor.remove_volume(overlay)
        hypervisor.create_volume(overlay_xml(overlay, machine.disk.capacity_bytes, machine.disk.path))
        fork(hypervisor, machine, plan, paused=True)
        hypervisor.mark_domain(name, plan.mark)

    for_all(one, plans)


def resume_together(hypervisor: Hypervisor, domains: Iterable[str]) -> float:
    """Let paused domains run on at the same moment; returns how many seconds lay between the first and the last."""
    names = list(domains)
    barrier = threading.Barrier(len(names))
    at_s: list[float] = []

    def one(name: str) -> None:
        barrier.wait()
        hypervisor.resume(name)
        at_s.append(time.monotonic())

    for_all(one, names)
    return max(at_s) - min(at_s) if at_s else 0.0
