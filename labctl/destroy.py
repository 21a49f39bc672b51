"""Taking a lab down: everything that it owns, by what libvirt holds, whatever state it is in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from labctl import store
from labctl.access.client import forget
from labctl.errors import LabError
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import Inventory
from labctl.plan import Action, Plan, Verb, plan_destroy
from labctl.render.names import of_the_lab_itself
from labctl.workshop import Progress

__all__ = ["Silent", "destroy_lab", "inventory", "remove_nodes"]


class Silent:
    """Progress that goes nowhere."""

    def started(self, action: Action) -> None:
        """Nothing."""

    def done(self, action: Action) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def inventory(hypervisor: Hypervisor) -> Inventory:
    """Everything that the hypervisor holds, whoever owns it."""
    return Inventory(hypervisor.domains(), hypervisor.networks(), hypervisor.volumes())


def destroy_lab(hypervisor: Hypervisor, name: str, progress: Progress | None = None) -> Plan:
    """Remove all that a lab owns, whatever state it is in, by what libvirt holds; returns what was done.

    Every removal is tried, even when an earlier one failed.

    Raises:
        ExceptionGroup: of the `LabError`s of what could not be removed.
    """
    progress = progress or Silent()
    if name not in inventory(hypervisor).labs:
        return Plan(())
    with store.locked(f"lab-{name}", lambda: progress.note(f"another labctl works on lab {name}: waiting for it")):
        plan = plan_destroy(inventory(hypervisor).of(name))
        failures = [
            *_each(plan, Verb.REMOVE_NODE, hypervisor.remove_domain, progress),
            *_each(plan, Verb.REMOVE_VOLUME, hypervisor.remove_volume, progress),
            *_each(plan, Verb.REMOVE_NETWORK, hypervisor.remove_network, progress),
        ]
        forget(name)
    if failures:
        raise ExceptionGroup(f"lab {name} could not be removed whole", failures)
    return plan


def _each(plan: Plan, verb: Verb, remove: Callable[[str], None], progress: Progress) -> list[LabError]:
    """Do all actions of one verb side by side; returns what failed."""

    def one(action: Action) -> LabError | None:
        progress.started(action)
        try:
            remove(action.target)
        except LabError as failure:
            return failure
        progress.done(action)
        return None

    actions = [a for a in plan.actions if a.verb is verb]
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="destroy") as pool:
        return [failure for failure in pool.map(one, actions) if failure]


def remove_nodes(hypervisor: Hypervisor, name: str, progress: Progress) -> None:
    """Remove a lab's nodes with their volumes; its networks, its record and its secrets stay.

    Raises:
        ExceptionGroup: of the `LabError`s of what could not be removed.
    """
    plan = plan_destroy(inventory(hypervisor).of(name))
    plan = Plan(tuple(a for a in plan.actions if a.target not in of_the_lab_itself(name)))
    failures = [
        *_each(plan, Verb.REMOVE_NODE, hypervisor.remove_domain, progress),
        *_each(plan, Verb.REMOVE_VOLUME, hypervisor.remove_volume, progress),
    ]
    if failures:
        raise ExceptionGroup(f"the nodes of lab {name} could not be removed", failures)
