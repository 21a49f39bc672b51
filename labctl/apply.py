"""Do what a plan says: networks first, then all nodes side by side, each waiting only for what it depends on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property

from labctl.clock import Deadline
from labctl.errors import DeadlineExceeded, HypervisorError, LabError
from labctl.guest.agent import Guest
from labctl.guest.specialise import specialise
from labctl.handover import handed_over, keep_for_successor, nothing_more_to_hand_over
from labctl.inventory import Stage
from labctl.machines import Machine, fork
from labctl.plan import Action, Plan, Verb
from labctl.readiness import wait_ready
from labctl.render.names import domain_name, network_name, of_the_lab_itself, overlay_name
from labctl.render.xml import DomainPlan, domain_xml, network_xml, overlay_xml
from labctl.roles.role import RenderedRole, Role, in_order, load_role, render_role, role_checks
from labctl.topology.spec import LabSpec, NodeSpec
from labctl.workshop import SYNC_WITHIN_S, Workshop, domain_plan

__all__ = ["Builder", "apply"]


def apply(plan: Plan, workshop: Workshop) -> None:
    """Carry a plan out.

    Raises:
        ExceptionGroup: of `LabError`s, when several nodes failed; a `LabError` when one did. Nodes that don't depend on
            a failed one are finished all the same, so that the next `up` has less to do.
    """
    builder = Builder(workshop, plan)
    builder.hand_over()
    builder.unready()
    shared = [a for a in plan.actions if not a.node or a.verb in {Verb.REMOVE_NODE, Verb.REMOVE_VOLUME}]
    for action in shared:
        builder.do(action)
    builder.find_machines()
    for node in workshop.lab.nodes:
        for role in node.roles:
            workshop.ready[node.name, role] = Future()
    failures = _side_by_side(builder)
    if failures:
        raise _causes(failures)
    nothing_more_to_hand_over(workshop.hypervisor, workshop.lab.name)


def _side_by_side(builder: Builder) -> list[BaseException]:
    """Do every node's actions, each node in a thread of its own; returns what failed, in the order of the nodes."""
    failures: dict[str, BaseException] = {}

    def one(node: NodeSpec) -> None:
        try:
            builder.node(node)
        except BaseException as failure:  # noqa: BLE001 - raised by `apply`, in the thread that called it
            failures[node.name] = failure

    nodes = builder.lab.nodes
    # Daemons, so that an interrupted labctl ends at once though a node is waited for.
    threads = [threading.Thread(target=one, args=(n,), name=f"node {n.name}", daemon=True) for n in nodes]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        builder.stop()
        raise
    return [failures[n.name] for n in nodes if n.name in failures]


def _causes(failures: list[BaseException]) -> BaseException:
    """The failures that are not merely another's consequence."""
    real = [f for f in failures if not isinstance(f, _DependencyFailed)]
    known = [f for f in real if isinstance(f, LabError)]
    if len(real) == 1:
        return real[0]
    if len(known) == len(real):
        return ExceptionGroup("several nodes failed", known)
    return BaseExceptionGroup("several nodes failed", real)


class _DependencyFailed(LabError):
    """A role that this one waits for failed; its own error is reported where it happened."""


class _Stopped(LabError):
    """Somebody interrupted labctl; no further action begins."""


class Builder:
    """Carries out the single actions of a plan; safe for several nodes at once."""

    def __init__(self, workshop: Workshop, plan: Plan) -> None:
        self._shop = workshop
        self._plan = plan
        self._stop = threading.Event()

    @property
    def lab(self) -> LabSpec:
        """The lab that is built."""
        return self._shop.lab

    def stop(self) -> None:
        """Begin no further action; what is under way goes on."""
        self._stop.set()

    def hand_over(self) -> None:
        """Keep what the successors of nodes that will go have to have, while those can still be asked."""
        gone = {a.node for a in self._plan.actions if a.verb is Verb.REMOVE_NODE}
        for node in (n for n in self.lab.nodes if n.name in gone):
            paths = {old: new for role in node.roles for old, new in self._roles[role].hands_over.items()}
            domain = self._shop.hypervisor.domain(self._domain(node.name))
            # One that never was ready has nothing of its own, and what its predecessor handed over is kept for it.
            if paths and domain and domain.mark and domain.mark.stage is Stage.READY:
                self._hand_over(node.name, paths)

    def _hand_over(self, node: str, paths: Mapping[str, str]) -> None:
        shop, guest = self._shop, self._shop.guest(node)
        try:
            files = {new: guest.read_file(old) for old, new in paths.items()}
        except LabError as failure:
            shop.progress.note(f"{node}: {', '.join(paths)} can't be handed over to its successor: {failure}")
        else:
            keep_for_successor(shop.hypervisor, shop.lab.name, node, files)

    def unready(self) -> None:
        """Take the nodes whose roles will be applied again for unfinished, so that a crash makes nobody forget it."""
        for node in self._applied:
            domain = self._shop.hypervisor.domain(self._domain(node))
            if domain and domain.mark and domain.mark.stage is Stage.READY:
                self._shop.hypervisor.mark_domain(domain.name, replace(domain.mark, stage=Stage.SPECIALISED))

    @property
    def _applied(self) -> set[str]:
        """The nodes whose roles this plan applies."""
        return {a.node for a in self._plan.actions if a.verb is Verb.APPLY_ROLES}

    def find_machines(self) -> None:
        """Have a machine at hand to fork each new node from; one after the other, as most share theirs."""
        for action in self._plan.actions:
            if action.verb is Verb.CREATE_NODE and (machine := self._machine_for(self.lab.node(action.node))):
                self._shop.machines[action.node] = machine

    def _machine_for(self, node: NodeSpec) -> Machine | None:
        layer = self._shop.layers.get(node.name)
        if layer is None:
            return self._shop.machine(node)
        if layer.machine is None:
            self._shop.progress.note(f"{node.name}: {layer.why_boot}, so it is booted from its layer")
        return layer.machine

    def node(self, node: NodeSpec) -> None:
        """All actions of one node, in order; its roles count as ready when it has none left to apply."""
        try:
            for action in self._plan.of_node(node.name):
                if action.verb not in {Verb.REMOVE_NODE, Verb.REMOVE_VOLUME}:
                    self.do(action)
            if node.name not in self._applied:
                self._take_over(node)
            for role in node.roles:
                self._publish(node.name, role)
        except BaseException as failure:
            for role in node.roles:
                future = self._shop.ready[node.name, role]
                if not future.done():
                    future.set_exception(_DependencyFailed(f"{node.name}: {role} is not ready: {failure}"))
            raise

    def do(self, action: Action) -> None:
        """One action, reported as it starts and ends."""
        if self._stop.is_set():
            raise _Stopped(f"{action}: not begun")
        self._shop.progress.started(action)
        self._verbs[action.verb](self, action)
        self._shop.progress.done(action)

    # -- the verbs -------------------------------------------------------------------------------------------------

    def _build_image(self, action: Action) -> None:
        shop = self._shop
        parent = shop.build_image(action.target)
        disk = shop.recipes[action.target].disk_name
        shop.parents.update({image: parent for image, recipe in shop.recipes.items() if recipe.disk_name == disk})

    def _create_network(self, action: Action) -> None:
        shop = self._shop
        network = shop.lab.network(action.target)
        shop.hypervisor.define_network(network_xml(shop.lab.name, network, shop.network_digests[network.name]))
        shop.hypervisor.start_network(network_name(shop.lab.name, network.name))

    def _start_network(self, action: Action) -> None:
        self._shop.hypervisor.start_network(network_name(self._shop.lab.name, action.target))

    def _remove_network(self, action: Action) -> None:
        self._shop.hypervisor.remove_network(action.target)

    def _remove_node(self, action: Action) -> None:
        shop = self._shop
        shop.hypervisor.remove_domain(action.target)
        prefix = f"lab.{shop.lab.name}.{action.node}."
        for volume in shop.hypervisor.volumes():
            if volume.name.startswith(prefix) and volume.name not in of_the_lab_itself(shop.lab.name):
                shop.hypervisor.remove_volume(volume.name)

    def _take_over(self, node: NodeSpec) -> None:
        """Give a node that begins with its roles applied what its predecessor handed over."""
        shop, guest = self._shop, self._shop.guest(node.name)
        files = handed_over(shop.hypervisor, shop.lab.name, node.name)
        for role in (r for r in node.roles if files.keys() & self._roles[r].hands_over.values()):
            self._apply_role(guest, render_role(self._roles[role], shop.lab, node, shop.secrets))

    def _remove_volume(self, action: Action) -> None:
        self._shop.hypervisor.remove_volume(action.target)

    def _create_node(self, action: Action) -> None:
        shop, node = self._shop, self._shop.lab.node(action.node)
        base = shop.layers.get(node.name) or shop.machines.get(node.name) or shop.parents[node.image]
        overlay = overlay_xml(overlay_name(shop.lab.name, node.name), base.disk.capacity_bytes, base.disk.path)
        shop.hypervisor.create_volume(overlay)
        shop.hypervisor.define_domain(domain_xml(self._domain_plan(node)))

    def _domain_plan(self, node: NodeSpec) -> DomainPlan:
        """As it is defined, marked with how far its layer takes it."""
        plan, layer = domain_plan(self._shop, node), self._shop.layers.get(node.name)
        if layer is None:
            return plan
        stage = Stage.SPECIALISED if node.name in self._applied else layer.mark.stage
        return replace(plan, mark=replace(layer.mark, stage=stage))

    def _start_node(self, action: Action) -> None:
        shop = self._shop
        machine = shop.machines.pop(action.node, None)
        forked = machine is not None and self._forked(shop.lab.node(action.node), machine)
        if not forked:
            shop.hypervisor.start_domain(self._domain(action.node))
        self._settle(action.node)

    def _forked(self, node: NodeSpec, machine: Machine) -> bool:
        """Start a new node as a fork of the parent machine; says why not when it has to be booted after all."""
        shop = self._shop
        try:
            fork(shop.hypervisor, machine, self._domain_plan(node))
        except LabError as failure:
            shop.progress.note(f"{node.name}: could not be forked, so it is booted: {failure}")
            return False
        return True

    def _restart_node(self, action: Action) -> None:
        self._shop.hypervisor.power_off(self._domain(action.node))  # crashed is still on, for libvirt
        self._start_node(action)

    def _resume_node(self, action: Action) -> None:
        shop = self._shop
        shop.hypervisor.resume(self._domain(action.node))
        self._settle(action.node)

    def _settle(self, name: str) -> None:
        """Wait for the agent, and for the roles of a node that had them already."""
        shop = self._shop
        guest = shop.guest(name)
        guest.wait_for_agent(Deadline.within(shop.bounds.boot_s))
        domain = shop.hypervisor.domain(guest.domain)
        stage = domain.mark.stage if domain and domain.mark else Stage.DEFINED
        if stage is not Stage.DEFINED:
            guest.set_clock()  # a fork's went on from when it was saved, a paused guest's stood still
        if stage is Stage.READY:
            for role, checks in role_checks(shop.lab, shop.lab.node(name)).items():
                wait_ready(guest, role, checks, Deadline.within(shop.bounds.role_s), shop.progress.note)

    def _connect_nic(self, action: Action) -> None:
        node = self._shop.lab.node(action.node)
        nic = next(n for n in node.nics if n.name == action.target.rsplit(".", 1)[1])
        self._shop.hypervisor.set_link(self._domain(node.name), nic.mac, up=True)

    def _heal_faults(self, action: Action) -> None:
        self._shop.heal(action.node)

    def _specialise(self, action: Action) -> None:
        shop, node = self._shop, self._shop.lab.node(action.node)
        guest = shop.guest(node.name)
        guest.wait_for_agent(Deadline.within(shop.bounds.boot_s))
        domain = shop.hypervisor.domain(self._domain(node.name))
        if domain is None:
            raise HypervisorError(f"{node.name}: its domain vanished while it was set up")
        guest.set_clock()
        specialise(guest, shop.lab, node, shop.secrets)
        was_ready = domain.mark is not None and domain.mark.stage is Stage.READY
        stage = Stage.READY if was_ready else Stage.SPECIALISED
        self._mark(node.name, stage=stage, identity=shop.digests[node.name].identity)

    def _apply_roles(self, action: Action) -> None:
        shop, node = self._shop, self._shop.lab.node(action.node)
        for name in in_order(node.roles, shop.lab):
            self._wait_for_others(node, name)
            self._apply_role(shop.guest(node.name), render_role(self._roles[name], shop.lab, node, shop.secrets))
            self._publish(node.name, name)
        self._mark(node.name, stage=Stage.READY)

    def _apply_role(self, guest: Guest, role: RenderedRole) -> None:
        deadline = Deadline.within(self._shop.bounds.role_s)
        script = f"/etc/labctl/roles/{role.name}"  # stays in the guest, to be read and run again by hand
        given = handed_over(self._shop.hypervisor, self.lab.name, guest.name)
        mine = {path: (given[path], 0o600) for path in self._roles[role.name].hands_over.values() if path in given}
        guest.write_files({**role.files, **mine, script: (role.script.encode(), 0o700)})
        guest.succeed([script], within_s=deadline.left_s)
        wait_ready(guest, role.name, role.ready, deadline, self._shop.progress.note)

    def _join_cluster(self, action: Action) -> None:
        shop, node = self._shop, self._shop.lab.node(action.node)
        shop.join(shop.guest(node.name), shop.lab, node)
        self._mark(node.name, cluster=shop.digests[node.name].cluster)

    # -- roles that wait for each other ----------------------------------------------------------------------------

    @cached_property
    def _roles(self) -> dict[str, Role]:
        """The lab's roles, by name."""
        return {name: load_role(name) for node in self.lab.nodes for name in node.roles}

    def _wait_for_others(self, node: NodeSpec, role: str) -> None:
        """Wait until what the role comes after is ready, on every node that has it."""
        # The provider's own deadlines are shorter, and say more about what went wrong.
        within_s = 2 * (self._shop.bounds.boot_s + self._shop.bounds.role_s)
        for name in self._roles[role].after(self.lab):
            for provider in (n.name for n in self.lab.nodes if name in n.roles):
                try:
                    self._shop.ready[provider, name].result(timeout=within_s)
                except TimeoutError:
                    waiting = f"{node.name}: {role}: waited {within_s:g} s for {name} on {provider}"
                    raise DeadlineExceeded(waiting) from None

    def _publish(self, node: str, role: str) -> None:
        """Say that the role is ready on the node."""
        future = self._shop.ready[node, role]
        if not future.done():
            future.set_result(None)

    # -- small things ----------------------------------------------------------------------------------------------

    def _domain(self, node: str) -> str:
        return domain_name(self._shop.lab.name, node)

    def _mark(self, node: str, **changes: object) -> None:
        # The mark outlives a power cut. What it stands for must, too: what was just written would come back empty.
        self._shop.guest(node).succeed(["/bin/sync"], within_s=SYNC_WITHIN_S)
        name = self._domain(node)
        domain = self._shop.hypervisor.domain(name)
        if domain is None or domain.mark is None:
            raise HypervisorError(f"{name}: its domain vanished while it was set up")
        self._shop.hypervisor.mark_domain(name, replace(domain.mark, **changes))  # type: ignore[arg-type]

    _verbs: Mapping[Verb, Callable[[Builder, Action], None]] = {
        Verb.BUILD_IMAGE: _build_image,
        Verb.CREATE_NETWORK: _create_network,
        Verb.START_NETWORK: _start_network,
        Verb.REMOVE_NETWORK: _remove_network,
        Verb.CREATE_NODE: _create_node,
        Verb.START_NODE: _start_node,
        Verb.RESTART_NODE: _restart_node,
        Verb.RESUME_NODE: _resume_node,
        Verb.CONNECT_NIC: _connect_nic,
        Verb.HEAL_FAULTS: _heal_faults,
        Verb.SPECIALISE: _specialise,
        Verb.APPLY_ROLES: _apply_roles,
        Verb.JOIN_CLUSTER: _join_cluster,
        Verb.REMOVE_NODE: _remove_node,
        Verb.REMOVE_VOLUME: _remove_volume,
    }
