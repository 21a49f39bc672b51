"""A lab: the composition root, and what the command line and pytest use.

with open_hypervisor("qemu:///system") as hypervisor:
    lab = Lab.from_topology("micro", hypervisor=hypervisor)
    lab.up()
    print(lab.guest("client").succeed(["curl", "http://web.micro.test/"]))
    lab.destroy()
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from labctl import store
from labctl.accelerator import accelerator as usable_accelerator
from labctl.accelerator import cpu_flags
from labctl.apply import apply
from labctl.blueprint import Blueprint
from labctl.cache import drop_broken
from labctl.clock import Clock, Deadline, SystemClock
from labctl.cluster.membership import ClusterView, look, wait_converged
from labctl.destroy import Silent, destroy_lab, inventory, remove_nodes
from labctl.errors import HypervisorError, InputError, LabError, causes
from labctl.faults import Ground
from labctl.guest.agent import Guest
from labctl.hypervisor.libvirt_api import connect
from labctl.hypervisor.seam import Hypervisor
from labctl.images import load_recipe
from labctl.inventory import DomainState
from labctl.machines import Layer
from labctl.plan import Plan, Verb
from labctl.ready import find_ready, find_snapshot, keep_ready, keep_snapshot, put_into
from labctl.record import Record, load_record, save_record
from labctl.render.names import domain_name
from labctl.state.kept import State, spoil_ram
from labctl.status import NodeStatus, console_tail
from labctl.topology.load import find_topology, parse_topology, read_text
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, ClusterSpec, LabSpec, NodeSpec
from labctl.vault import keep_secrets
from labctl.workshop import Bounds, Progress, Workshop

__all__ = [
    "DEFAULT_TOPOLOGY",
    "DEFAULT_URI",
    "Lab",
    "NodeStatus",
    "Silent",
    "console_tail",
    "default_lab",
    "destroy_lab",
    "inventory",
    "open_hypervisor",
]

DEFAULT_TOPOLOGY = "exchange2007"
DEFAULT_URI = "qemu:///system"


@contextmanager
def open_hypervisor(uri: str = DEFAULT_URI) -> Iterator[Hypervisor]:
    """A connection that is closed at the end."""
    hypervisor = connect(uri)
    try:
        yield hypervisor
    finally:
        hypervisor.close()


def default_lab(labs: Sequence[str]) -> str:
    """The lab that is meant when none is named: that of the default topology, or the only one there is.

    Raises:
        InputError: there is none, or there are several others.
    """
    if DEFAULT_TOPOLOGY in labs:
        return DEFAULT_TOPOLOGY
    if len(labs) == 1:
        return labs[0]
    if not labs:
        raise InputError("there is no lab", hint="labctl up brings one up")
    raise InputError(f"which lab? There are {', '.join(labs)}", hint=f"add --lab {labs[0]}")


class Lab:
    """One lab on one hypervisor."""

    def __init__(self, spec: LabSpec, hypervisor: Hypervisor, record: Record, *, clock: Clock | None = None) -> None:
        self.spec = spec
        self.hypervisor = hypervisor
        self.record = record
        self.clock = clock or SystemClock()
        recipes = {image: load_recipe(image) for image in dict.fromkeys(n.image for n in spec.nodes)}
        self.blueprint = Blueprint(spec, hypervisor, recipes, self.guest, self.clock)

    @classmethod
    def from_topology(
        cls,
        topology: str | Path = DEFAULT_TOPOLOGY,
        *,
        hypervisor: Hypervisor,
        name: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> Lab:
        """The lab that a topology describes.

        Args:
            topology: a file, or the name of a shipped topology.
            name: of the lab; the topology's own by default.
            accelerator: None takes KVM where it really works.

        Raises:
            InputError: with all the problems of the topology.
        """
        file = find_topology(str(topology))
        text = read_text(file)
        spec_of = parse_topology(text, str(file))
        accelerator = accelerator or usable_accelerator(hypervisor.host(), cpu_flags(hypervisor.uri))
        record = Record(str(file), text, accelerator)
        return cls(resolve(spec_of, lab=name, accelerator=record.accelerator), hypervisor, record)

    @classmethod
    def existing(cls, hypervisor: Hypervisor, name: str | None = None) -> Lab:
        """A lab that was brought up before, by its name; see `default_lab` for when no name is given.

        Raises:
            InputError: there is no such lab, or several and none was named.
        """
        labs = inventory(hypervisor).labs
        name = name or default_lab(labs)
        record = load_record(hypervisor, name) if name in labs else None
        if record is None:
            known = ", ".join(labs) or "none"
            raise InputError(f"there is no lab {name} that could be used", hint=f"labs on this hypervisor: {known}")
        topology = parse_topology(record.text, record.file)
        return cls(resolve(topology, lab=name, accelerator=record.accelerator), hypervisor, record)

    @property
    def name(self) -> str:
        """Of this lab on its hypervisor."""
        return self.spec.name

    # -- up and down -----------------------------------------------------------------------------------------------

    def plan(self, *, fresh: bool = False, replace: Collection[str] = ()) -> Plan:
        """What `up` would do now.

        Args:
            fresh, replace: as for `up`.
        """
        return self._todo(fresh=fresh, replace=replace)[0]

    def _todo(self, *, fresh: bool, replace: Collection[str]) -> tuple[Plan, dict[str, Layer]]:
        """The way to the lab, and the layers that it begins with."""
        for node in replace:
            self.guest(node)  # refuses a name that is no node's
        restoring = None if fresh else self.blueprint.restoring()
        if restoring:
            return restoring, {}
        layers = {} if fresh else self.blueprint.layers()
        fitting = {node: layer for node, layer in layers.items() if node not in replace}
        return self.blueprint.making(fitting, replace), fitting

    def up(
        self,
        progress: Progress | None = None,
        *,
        boot: bool = False,
        fresh: bool = False,
        keep: bool = True,
        replace: Collection[str] = (),
    ) -> Plan:
        """Bring the lab up, from whatever state it is in, by the cheapest true way; returns what was done.

        Args:
            boot: boot new nodes rather than fork them from a parent machine; implies `fresh`.
            fresh: don't restore the ready state that an earlier `up` saved.
            keep: save the ready state when the whole lab was made.
            replace: nodes to make anew, while the others run on.

        Raises:
            LabError, ExceptionGroup: what failed; the next `up` goes on from there.
        """
        progress = progress or Silent()
        with self._locked(progress):
            directory = self.hypervisor.ensure_pool()
            plan, layers = self._todo(fresh=fresh or boot, replace=replace)
            save_record(self.hypervisor, self.name, self.record)
            rest = plan
            if plan.count(Verb.RESTORE_NODE):
                self._restore(plan, self.blueprint.workshop(directory, progress))
                layers = self.blueprint.layers()
                rest = self.blueprint.making(layers)
            keep_secrets(self.hypervisor, self.spec, (layer.secrets for layer in layers.values()))
            if rest.count(Verb.BUILD_IMAGE):
                drop_broken(self.hypervisor, progress.note)
            apply(rest, self.blueprint.workshop(directory, progress, forking=not boot, layers=layers))
            if plan:
                self.wait_converged()
            if keep and rest.count(Verb.CREATE_NODE) == len(self.spec.nodes):
                self._keep(self.blueprint.workshop(directory, progress))
        return plan

    def reset(self, progress: Progress | None = None) -> None:
        """Put a lab that is up back into its ready state, in seconds, whatever was done to it since.

        Raises:
            InputError: no ready state of it was saved.
            LabError, ExceptionGroup: it could not be restored whole, or did not converge.
        """

        def find(shop: Workshop) -> State:
            state = find_ready(shop)
            if state is None:
                hint = f"labctl destroy --lab {self.name}, then labctl up, which saves it"
                raise InputError(f"lab {self.name} has no saved ready state of what it is made from now", hint=hint)
            return state

        progress = progress or Silent()
        with self._locked(progress):
            state = self._put_into(find, progress)
            if state.manifest.lab != self.name:
                # The nodes are forks of another lab's: had they to be specialised each time, no reset would be quick.
                self._keep(self.blueprint.workshop(self.hypervisor.ensure_pool(), progress))

    def can_be_reset(self) -> bool:
        """Whether it has nodes, and a ready state of what it is made from was saved."""
        pool, there = self.hypervisor.pool(), inventory(self.hypervisor).of(self.name)
        return bool(pool and there.domains and find_ready(self.blueprint.workshop(pool.path, Silent())))

    def save_snapshot(self, name: str, progress: Progress | None = None) -> None:
        """Save the lab's RAM and disks under a name; it runs on.

        Raises:
            InputError: the lab is not up and ready, or `name` can't be a name.
            LabError, ExceptionGroup: it could not be saved whole; nothing of it is kept.
        """
        progress = progress or Silent()
        with self._locked(progress):
            shop = self.blueprint.workshop(self.hypervisor.ensure_pool(), progress)
            todo = self.plan()
            if todo:
                raise InputError(f"lab {self.name} is not ready to be saved: {todo.actions[0]}", hint="labctl up")
            keep_snapshot(shop, name)

    def restore_snapshot(self, name: str, progress: Progress | None = None) -> None:
        """Put the lab into the state that was saved under a name.

        Raises:
            InputError: there is no such snapshot of a lab like this.
            LabError, ExceptionGroup: it could not be restored whole, or did not converge.
        """
        progress = progress or Silent()
        with self._locked(progress):
            self._put_into(lambda shop: find_snapshot(shop, name), progress)

    def _put_into(self, find: Callable[[Workshop], State], progress: Progress) -> State:
        shop = self.blueprint.workshop(self.hypervisor.ensure_pool(), progress)
        state = find(shop)
        networks = {Verb.CREATE_NETWORK, Verb.START_NETWORK}
        apply(Plan(tuple(a for a in self.plan(fresh=True).actions if a.verb in networks)), shop)
        put_into(shop, state)
        apply(self.plan(fresh=True), shop)
        self.wait_converged()
        return state

    def _locked(self, progress: Progress) -> AbstractContextManager[None]:
        waiting = f"another labctl works on lab {self.name}: waiting for it"
        return store.locked(f"lab-{self.name}", lambda: progress.note(waiting))

    def _restore(self, plan: Plan, shop: Workshop) -> None:
        """Restore the ready state; RAM that can't be restored is thrown away with a word, and its disks are booted."""
        state = find_ready(shop)
        try:
            if state is None:
                raise HypervisorError("the saved ready state vanished")
            apply(Plan(tuple(a for a in plan.actions if a.verb is not Verb.RESTORE_NODE)), shop)
            put_into(shop, state)
        except (LabError, ExceptionGroup) as failure:
            shop.progress.note(f"the saved ready state can't be restored, so its RAM is thrown away: {causes(failure)}")
            remove_nodes(self.hypervisor, self.name, shop.progress)
            if state:
                spoil_ram(self.hypervisor, state.manifest)

    def _keep(self, shop: Workshop) -> None:
        """Save the ready state; that it could not be saved is worth a word, not a failed `up`."""
        try:
            keep_ready(shop)
        except (LabError, ExceptionGroup) as failure:
            shop.progress.note(f"the ready state could not be saved, so `up` will not restore it: {causes(failure)}")
            apply(self.plan(fresh=True), shop)
        self.wait_converged()

    def destroy(self, progress: Progress | None = None) -> Plan:
        """Remove all that the lab owns; see `destroy_lab`."""
        return destroy_lab(self.hypervisor, self.name, progress)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def guest(self, node: str) -> Guest:
        """A node of the lab, to run commands in and exchange files with.

        Raises:
            InputError: the lab has no such node.
        """
        known = [n.name for n in self.spec.nodes]
        if node not in known:
            raise InputError(f"lab {self.name} has no node {node}", hint=f"its nodes: {', '.join(known)}")
        return Guest(
            self.hypervisor,
            node,
            domain_name(self.name, node),
            evidence=lambda: self._console_evidence(node),
            clock=self.clock,
        )

    def _console_evidence(self, node: str) -> str:
        try:
            tail = console_tail(self.hypervisor, self.name, node)
        except HypervisorError as error:
            return f"(its console log could not be read: {error})"
        lines = [line for line in tail.splitlines() if line.strip()][-12:]
        return f"last lines of {node}'s console:\n" + "\n".join(f"  | {line}" for line in lines) if lines else ""

    def status(self) -> tuple[NodeStatus, ...]:
        """How each node is doing, in the order of the topology."""
        there = inventory(self.hypervisor).of(self.name)

        def one(node: NodeSpec) -> NodeStatus:
            domain = there.domain(node.name)
            running = domain is not None and domain.state is DomainState.RUNNING
            return NodeStatus(node, domain, running and not self.guest(node.name).answers())

        return tuple(one(n) for n in self.spec.nodes)

    def ground(self) -> Ground:
        """What faults are done to."""
        return Ground(self.spec, self.hypervisor, self.guest, self.clock, Bounds.of(self.spec.accelerator).boot_s)

    # -- clusters --------------------------------------------------------------------------------------------------

    def members(self, cluster: ClusterSpec) -> dict[str, Callable[[], Guest]]:
        """What asks each member of a cluster, by node."""

        def maker(node: str) -> Callable[[], Guest]:
            return lambda: self.guest(node)

        return {m.node: maker(m.node) for m in cluster.members}

    def cluster(self, name: str | None = None) -> ClusterSpec:
        """A cluster of the lab; the only one when no name is given.

        Raises:
            InputError: there is none of that name, or several and none was named.
        """
        found = [c for c in self.spec.clusters if name in {None, c.name}]
        if len(found) != 1:
            known = ", ".join(c.name for c in self.spec.clusters) or "none"
            raise InputError(
                f"lab {self.name}: which cluster? {name or 'none was named'}", hint=f"its clusters: {known}"
            )
        return found[0]

    def look(self, cluster: ClusterSpec) -> ClusterView:
        """What the members see now."""
        return look(cluster, self.members(cluster))

    def wait_converged(self, within_s: float = 120.0) -> tuple[ClusterView, ...]:
        """Wait until every cluster's members all see each other.

        Raises:
            DeadlineExceeded: with what each member saw last.
        """
        deadline = Deadline.within(within_s, self.clock)
        return tuple(wait_converged(c, self.members(c), deadline) for c in self.spec.clusters)
