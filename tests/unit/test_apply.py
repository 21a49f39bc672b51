"""Carrying a plan out on the fake hypervisor: in which order, what goes side by side, and what a failed step leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from lab_bench import Bench, Heard, cluster_spec, digests, lab_spec, micro, node_spec, pair
from scripted_guest import Said, ScriptedGuest

from labctl import images
from labctl.apply import apply
from labctl.errors import CommandFailed, DeadlineExceeded, GuestError, HypervisorError, LabError
from labctl.guest.agent import Guest
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import DomainState, Inventory, Mark, Stage
from labctl.plan import Plan, plan_up
from labctl.render.names import domain_name, handover_name, record_name
from labctl.render.xml import base_xml
from labctl.secrets import Secrets
from labctl.topology.spec import LabSpec, NodeSpec
from labctl.workshop import Bounds, Workshop

SHORT = Bounds(boot_s=0.3, role_s=0.3)
LONG = Bounds(boot_s=60, role_s=60)
SECRETS = Secrets(
    {
        "certificate-authority": {
            "ca_root_certificate": "ROOT\n", "ca_certificate": "ISSUING\n", "ca_key": "SIGNS\n", "enrolment_key": "00ff"
        }
    }
)  # fmt: skip
ROLE_FAILED = r"/etc/labctl/roles/\S+: exit code 1\nno such thing"


class Watched(FakeHypervisor):
    """A fake that remembers every mark that was put on a domain."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[Mark] = []

    def mark_domain(self, name: str, mark: Mark) -> None:
        super().mark_domain(name, mark)
        self.marks.append(mark)


@dataclass
class Site:
    """A lab to be built, on a fake hypervisor with its parent disks and a scripted guest per node."""

    lab: LabSpec
    hypervisor: Watched = field(default_factory=Watched)
    heard: Heard = field(default_factory=Heard)
    joined: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    bounds: Bounds = SHORT

    def __post_init__(self) -> None:
        self.bench = Bench(self.hypervisor)
        self.bench.parent()
        self.bench.guests_of(self.lab)
        self.inside: dict[str, ScriptedGuest] = self.bench.guests

    def plan(self, *missing_images: str) -> Plan:
        """What is to be done now."""
        there = Inventory(self.hypervisor.domains(), self.hypervisor.networks(), self.hypervisor.volumes())
        networks = {n.name: "network" for n in self.lab.networks}
        made = digests(self.lab)
        own = there.of(self.lab.name)
        return plan_up(self.lab, own, nodes=made, networks=networks, missing_images=missing_images)

    def apply(self, *missing_images: str) -> None:
        """Do all that is to be done now."""
        recipe = micro()
        found = images.find(self.hypervisor, recipe)
        apply(
            self.plan(*missing_images),
            Workshop(
                lab=self.lab,
                hypervisor=self.hypervisor,
                directory="/fake/labctl",
                recipes={"micro": recipe},
                parents={"micro": found} if found else {},
                digests=digests(self.lab),
                network_digests={n.name: "network" for n in self.lab.networks},
                guest=self.guest,
                build_image=self._build,
                machine=lambda _node: None,
                join=self._join,
                heal=self.healed.append,
                bounds=self.bounds,
                progress=self.heard,
                secrets=SECRETS,
            ),
        )

    def guest(self, node: str) -> Guest:
        return Guest(self.hypervisor, node, domain_name(self.lab.name, node))

    def _build(self, image: str) -> images.Parent:
        self.bench.parent()
        parent = images.find(self.hypervisor, micro())
        assert parent is not None
        return parent

    def _join(self, _guest: Guest, _lab: LabSpec, node: NodeSpec) -> None:
        self.joined.append(node.name)

    def stage(self, node: str) -> Stage | None:
        """How far a node has come."""
        domain = self.hypervisor.domain(domain_name(self.lab.name, node))
        return domain.mark.stage if domain and domain.mark else None

    def role_fails(self, node: str, role: str) -> None:
        """Let a role's script end with 1."""
        self.inside[node].says(f"/etc/labctl/roles/{role}", exit_code=1, err=b"no such thing")

    def ran(self, node: str) -> list[str]:
        """The roles whose scripts a node ran, in order."""
        prefix = "/etc/labctl/roles/"
        return [argv[0].removeprefix(prefix) for argv in self.inside[node].ran if argv[0].startswith(prefix)]


def authority_and_member(bounds: Bounds = SHORT) -> Site:
    """A member that needs the certificate authority, which is on another node, and a node that needs nothing."""
    nodes = (
        node_spec("cas", 1, roles=("certificate",)),
        node_spec("dc", 2, roles=("certificate-authority",)),
        node_spec("web", 3, roles=("web-server",)),
    )
    return Site(lab_spec(*nodes), bounds=bounds)


# -- what comes about --------------------------------------------------------------------------------------------------


def test_from_nothing_everything_is_made_and_marked() -> None:
    site = Site(pair())
    site.apply()
    assert not site.plan()
    assert {d.name: (d.state, d.mark and d.mark.stage) for d in site.hypervisor.domains()} == {
        f"lab.{n}": (DomainState.RUNNING, Stage.READY) for n in ("m1", "m2", "c")
    }
    assert sorted(site.joined) == ["m1", "m2"]


def test_a_clone_stands_on_its_parent_and_boots_its_kernel() -> None:
    site = Site(pair())
    site.apply()
    overlay = site.hypervisor.volume("lab.lab.m1.qcow2")
    domain = site.hypervisor.domain("lab.m1")
    recipe = micro()
    assert overlay is not None
    assert domain is not None
    assert overlay.backing_path == f"/fake/labctl/{recipe.volume('qcow2')}"
    assert domain.disks == (
        overlay.path,
        f"/fake/labctl/{recipe.volume('vmlinuz')}",
        f"/fake/labctl/{recipe.volume('initrd')}",
    )


def test_networks_are_there_before_any_node_is_made() -> None:
    site = Site(pair())
    site.apply()
    first_node = next(i for i, line in enumerate(site.heard.lines) if "node" in line)
    assert site.heard.lines[:first_node] == ["started create network lan", "done create network lan"]


def test_a_nodes_actions_come_one_after_the_other() -> None:
    site = Site(lab_spec(node_spec("m1", 1, roles=("web-server",)), clusters=(cluster_spec("m1"),)))
    site.apply()
    steps = ["create node", "start node", "specialise", "apply roles", "join cluster"]
    assert site.heard.lines[2:] == [f"{when} {step} m1" for step in steps for when in ("started", "done")]


def test_progress_is_marked_stage_by_stage() -> None:
    site = Site(pair())
    site.apply()
    assert [(m.stage, m.identity, m.cluster) for m in site.hypervisor.marks if m.name == "m1"] == [
        (Stage.SPECIALISED, "identity", ""),
        (Stage.READY, "identity", ""),
        (Stage.READY, "identity", "cluster"),
    ]


def test_a_missing_parent_is_built_first_and_used() -> None:
    site = Site(pair())
    for volume in site.hypervisor.volumes():
        site.hypervisor.remove_volume(volume.name)
    site.apply("micro")
    assert site.heard.lines[:2] == ["started build image micro", "done build image micro"]
    assert site.stage("m1") is Stage.READY


def test_nodes_are_built_side_by_side() -> None:
    site = Site(pair())
    both = threading.Barrier(2, timeout=5)

    def meet(_argv: list[str], _stdin: bytes) -> Said:
        both.wait()
        return Said()

    for name in ("m1", "m2"):
        site.inside[name].on("/etc/labctl/specialise", does=meet)
    site.apply()
    assert not both.broken


# -- roles that wait for each other ------------------------------------------------------------------------------------


def test_a_role_waits_for_the_role_that_it_requires() -> None:
    site = authority_and_member()
    order: list[str] = []

    def note(what: str) -> Callable[[list[str], bytes], Said]:
        return lambda _argv, _stdin: (order.append(what), Said())[1]

    site.inside["dc"].on("/etc/labctl/roles/certificate-authority", does=note("authority"))
    site.inside["cas"].on("/etc/labctl/roles/certificate", does=note("member"))
    site.apply()
    assert order == ["authority", "member"]


def test_each_node_gets_the_secrets_that_its_roles_name() -> None:
    site = authority_and_member()
    site.apply()
    assert b'"key": "00ff"' in site.inside["cas"].files["/etc/labctl/tls/enrol.json"]
    assert site.inside["cas"].modes["/etc/labctl/tls/enrol.json"] == 0o600
    assert site.inside["dc"].files["/etc/labctl/ca/issuing-key.pem"] == b"SIGNS\n"
    assert not any(b"SIGNS" in content for content in site.inside["cas"].files.values())


def test_a_role_that_was_ready_before_is_not_waited_for_again() -> None:
    site = authority_and_member()
    site.apply()
    site.hypervisor.remove_domain("lab.cas")
    site.inside["cas"].files.clear()
    site.apply()
    assert site.ran("dc") == ["certificate-authority"]
    assert site.inside["cas"].files["/etc/labctl/tls/root.pem"] == b"ROOT\n"


def test_a_lab_that_is_up_is_asked_nothing() -> None:
    site = authority_and_member()
    site.apply()
    asked = len(site.inside["dc"].asked)
    site.apply()
    assert len(site.inside["dc"].asked) == asked


def test_nodes_that_are_not_there_yet_are_asked_nothing_either() -> None:
    site = authority_and_member()
    networks = Plan(tuple(a for a in site.plan().actions if not a.node))
    site.plan = lambda *_missing: networks  # type: ignore[method-assign]
    site.apply()
    assert [n.name for n in site.hypervisor.networks()] == ["lab.lan"]


def test_a_role_whose_requirement_failed_fails_at_once_and_only_the_cause_is_told() -> None:
    site = authority_and_member(LONG)
    site.role_fails("dc", "certificate-authority")
    with pytest.raises(CommandFailed, match=rf"dc: {ROLE_FAILED}"):
        site.apply()
    assert site.ran("cas") == []
    assert [site.stage(n) for n in ("cas", "dc", "web")] == [Stage.SPECIALISED, Stage.SPECIALISED, Stage.READY]


@pytest.mark.parametrize("roles", [("certificate", "certificate-authority"), ("certificate-authority", "certificate")])
def test_roles_on_one_node_come_in_the_order_in_which_they_need_each_other(roles: tuple[str, ...]) -> None:
    site = Site(lab_spec(node_spec("all", 1, roles=roles)))
    site.apply()
    assert site.ran("all") == ["certificate-authority", "certificate"]


def test_a_role_that_never_becomes_ready_is_named_with_what_its_check_said() -> None:
    site = Site(lab_spec(node_spec("m1", 1, roles=("web-server",))))
    site.inside["m1"].says("/bin/sh", "-c", "curl", exit_code=7, err=b"connection refused")
    with pytest.raises(DeadlineExceeded, match="m1: web-server: HTTP answers: not within") as late:
        site.apply()
    assert "exit code 7: connection refused" in str(late.value)
    assert site.stage("m1") is Stage.SPECIALISED


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_node_that_fails_leaves_the_others_finished() -> None:
    site = Site(pair())
    site.role_fails("m1", "web-server")
    with pytest.raises(CommandFailed, match=rf"m1: {ROLE_FAILED}"):
        site.apply()
    assert [site.stage(n) for n in ("m1", "m2", "c")] == [Stage.SPECIALISED, Stage.READY, Stage.READY]
    assert site.joined == ["m2"]


def test_several_nodes_that_fail_are_told_together_in_the_order_of_the_topology() -> None:
    site = Site(pair())
    for name in ("m2", "m1"):
        site.role_fails(name, "web-server")
    with pytest.raises(ExceptionGroup) as group:
        site.apply()
    assert [str(e).split(":", 1)[0] for e in group.value.exceptions] == ["m1", "m2"]
    assert site.stage("c") is Stage.READY


def test_an_error_that_is_not_ours_comes_out_as_it_is() -> None:
    site = Site(pair())

    def bug(_argv: list[str], _stdin: bytes) -> Said:
        raise ZeroDivisionError

    site.inside["m1"].on("/etc/labctl/specialise", does=bug)
    with pytest.raises(ZeroDivisionError):
        site.apply()


def test_a_failure_before_the_nodes_stops_everything() -> None:
    site = Site(pair())
    site.hypervisor.fail_on["define_network"] = HypervisorError("network lab.lan: no bridge")
    with pytest.raises(HypervisorError, match="no bridge"):
        site.apply()
    assert site.hypervisor.domains() == ()


def test_an_action_that_failed_is_not_reported_as_done() -> None:
    site = Site(pair())
    site.role_fails("m1", "web-server")
    with pytest.raises(LabError):
        site.apply()
    assert "started apply roles m1" in site.heard.lines
    assert "done apply roles m1" not in site.heard.lines


def test_a_guest_that_never_answers_is_an_error_with_its_name() -> None:
    site = Site(pair())
    del site.hypervisor.agents["lab.c"]
    with pytest.raises(DeadlineExceeded, match=r"c: the guest agent answers: not within 0\.\d s"):
        site.apply()


def test_an_interrupt_ends_it_at_once_and_nothing_more_is_begun() -> None:
    site = Site(pair(), bounds=LONG)
    begun, goes_on = threading.Event(), threading.Event()

    def interrupt(_argv: list[str], _stdin: bytes) -> Said:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        begun.set()
        goes_on.wait(10)
        return Said()

    site.inside["m1"].on("/etc/labctl/specialise", does=interrupt)
    with pytest.raises(KeyboardInterrupt):
        site.apply()
    node = next(t for t in threading.enumerate() if t.name == "node m1")
    goes_on.set()
    node.join(10)
    assert begun.is_set()
    assert not node.is_alive()
    assert "started apply roles m1" not in site.heard.lines


# -- going on ----------------------------------------------------------------------------------------------------------

INTERRUPTIONS: dict[str, tuple[Callable[[Site], None], list[str]]] = {
    "before its domain is there": (
        lambda site: site.hypervisor.fail_on.update(define_domain=HypervisorError("gone")),
        ["remove volume lab.lab.m1.qcow2", "create node m1", "start node m1", "specialise m1", "apply roles m1"],
    ),
    "before it is started": (
        lambda site: site.hypervisor.fail_on.update(start_domain=HypervisorError("gone")),
        ["start node m1", "specialise m1", "apply roles m1"],
    ),
    "before it is specialised": (
        lambda site: site.inside["m1"].fail.update({"guest-exec": GuestError("gone")}),
        ["specialise m1", "apply roles m1"],
    ),
    "before its roles are applied": (lambda site: site.role_fails("m1", "web-server"), ["apply roles m1"]),
}


@pytest.mark.parametrize(("interrupt", "rest"), INTERRUPTIONS.values(), ids=INTERRUPTIONS)
def test_what_was_interrupted_goes_on_from_there(interrupt: Callable[[Site], None], rest: list[str]) -> None:
    site = Site(lab_spec(node_spec("m1", 1, roles=("web-server",))))
    interrupt(site)
    with pytest.raises(LabError):
        site.apply()
    site.hypervisor.fail_on.clear()
    site.inside["m1"].fail.clear()
    site.inside["m1"].says("/etc/labctl/roles/")
    site.inside["m1"].says("/etc/labctl/roles/web-server")
    site.heard.lines.clear()
    site.apply()
    assert [line.removeprefix("done ") for line in site.heard.lines if line.startswith("done")] == rest
    assert not site.plan()


BROKEN: dict[str, Callable[[FakeHypervisor], None]] = {
    "shut off": lambda h: h.power_off("lab.m1"),
    "paused": lambda h: h.suspend("lab.m1"),
    "crashed": lambda h: h.crash("lab.m1"),
    "unplugged": lambda h: h.set_link("lab.m1", "52:54:00:00:00:01", up=False),
    "without a network": lambda h: h.remove_network("lab.lan"),
    "without a disk": lambda h: h.remove_volume("lab.lab.m1.qcow2"),
    "without a domain": lambda h: h.remove_domain("lab.m1"),
    "made from something else": lambda h: h.mark_domain("lab.m1", Mark("lab", "m1", "other", Stage.READY)),
    "with somebody else's names": lambda h: h.mark_domain(
        "lab.m1", Mark("lab", "m1", "machine", Stage.READY, "other", "cluster")
    ),
    "never joined": lambda h: h.mark_domain("lab.m1", Mark("lab", "m1", "machine", Stage.READY, "identity")),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_whatever_was_broken_is_right_after_one_more_run(spoil: Callable[[FakeHypervisor], None]) -> None:
    site = Site(pair())
    site.apply()
    spoil(site.hypervisor)
    assert site.plan()
    site.apply()
    assert not site.plan()
    assert {d.state for d in site.hypervisor.domains()} == {DomainState.RUNNING}


def test_a_ready_node_that_is_started_counts_only_when_its_roles_serve_again() -> None:
    site = Site(pair())
    site.apply()
    site.hypervisor.power_off("lab.m1")
    site.inside["m1"].says("/bin/sh", "-c", "curl", exit_code=7, err=b"connection refused")
    with pytest.raises(DeadlineExceeded, match="m1: web-server: HTTP answers"):
        site.apply()


def test_a_node_that_got_new_names_keeps_its_roles() -> None:
    site = Site(pair())
    site.apply()
    site.hypervisor.mark_domain("lab.m1", Mark("lab", "m1", "machine", Stage.READY, "other", "cluster"))
    site.apply()
    assert site.ran("m1") == ["web-server"]
    assert site.stage("m1") is Stage.READY


def test_a_node_that_is_made_anew_takes_its_old_logs_along_but_not_the_labs_record() -> None:
    # A node may be called "topology", as the record's volume is: lab.LAB.topology.json.
    site = Site(lab_spec(node_spec("topology", 1)))
    for name in ("lab.lab.topology.console.log", "lab.lab.topology.console.log.0", record_name("lab")):
        site.hypervisor.create_volume(base_xml(name, 1, "raw"))
    site.apply()
    site.hypervisor.mark_domain("lab.topology", Mark("lab", "topology", "other"))
    site.apply()
    left = [v.name for v in site.hypervisor.volumes() if v.lab]
    assert left == ["lab.lab.topology.json", "lab.lab.topology.qcow2"]


# -- what goes over to the next machine --------------------------------------------------------------------------------

LIST, HANDED_OVER = "/var/lib/labctl-ca/certificates.db", "/var/lib/labctl-ca/handed-over.db"


def made_anew(site: Site) -> None:
    """The authority's machine no longer fits what it is to be made from."""
    site.hypervisor.mark_domain("lab.dc", Mark("lab", "dc", "other", Stage.READY))
    site.apply()


def test_a_node_that_is_made_anew_gets_what_its_predecessor_hands_over() -> None:
    site = authority_and_member()
    site.apply()
    site.inside["dc"].files[LIST] = b"issued"
    made_anew(site)
    assert site.inside["dc"].files[HANDED_OVER] == b"issued"
    assert site.ran("dc") == ["certificate-authority"] * 2
    assert site.hypervisor.volume(handover_name("lab")) is None


def test_what_is_handed_over_outlives_an_interruption() -> None:
    site = authority_and_member()
    site.apply()
    site.inside["dc"].files[LIST] = b"issued"
    site.role_fails("dc", "certificate-authority")
    with pytest.raises(CommandFailed, match=ROLE_FAILED):
        made_anew(site)
    site.inside["dc"].files[LIST] = b"of the machine that never was ready"
    site.inside["dc"].files.pop(HANDED_OVER)
    site.inside["dc"].says("/etc/labctl/roles/certificate-authority")
    site.apply()
    assert site.inside["dc"].files[HANDED_OVER] == b"issued"


def test_what_cant_be_handed_over_is_told() -> None:
    site = authority_and_member()
    site.apply()
    made_anew(site)
    assert any(f"dc: {LIST} can't be handed over to its successor: " in line for line in site.heard.lines)
    assert HANDED_OVER not in site.inside["dc"].files
