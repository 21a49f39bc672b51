"""Put the nodes of a lab into a saved state.

The lab that was saved goes on from its own RAM. The nodes of a lab of another name are forks of the saved ones; inside,
they have the same addresses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from labctl.hypervisor.seam import Hypervisor
from labctl.machines import Machine, fork
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
        saved_name, saved_uuid = machine.domain
        if hypervisor.domain(name):
            hypervisor.power_off(name)
        else:
            hypervisor.define_domain(domain_xml(replace(plan, uuid=saved_uuid if saved_name == name else "")))
        overlay = overlay_name(plan.mark.lab, plan.mark.name)
        hypervisor.remove_volume(overlay)
        hypervisor.create_volume(overlay_xml(overlay, machine.disk.capacity_bytes, machine.disk.path))
        _go_on(hypervisor, machine, plan)
        hypervisor.mark_domain(name, plan.mark)
        hypervisor.mark_faults(name, ())  # they are in the state that is left
        for nic in plan.nics:  # a cable that was pulled is so in the persistent definition, and would be after a boot
            hypervisor.set_link(name, nic.mac, up=True)

    for_all(one, plans)


def _go_on(hypervisor: Hypervisor, machine: Machine, plan: DomainPlan) -> None:
    """Start a defined domain from saved RAM, paused: from the image itself if it is that domain's own."""
    name = domain_name(plan.mark.lab, plan.mark.name)
    domain = hypervisor.domain(name)
    if domain and machine.domain == (name, domain.uuid):
        hypervisor.restore_domain(machine.ram.path, paused=True)
    else:
        fork(hypervisor, machine, plan, paused=True)


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
