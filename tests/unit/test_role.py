"""Roles: read, rendered, put in order; and the library that labctl ships."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from lab_bench import cluster_spec, lab_spec, node_spec

from labctl.errors import InputError, LabError
from labctl.render.scripts import alone
from labctl.roles.role import LIBRARY, Role, digest_of_roles, in_order, load_role, render_role, role_checks
from labctl.topology.spec import LabSpec

SHIPPED = sorted(p.parent.name for p in LIBRARY.glob("*/role.yaml"))
FACTS = {
    "certificate-authority": {"root_certificate": "ROOT", "issuing_certificate": "ISSUING", "enrolment_key": "KEY"}
}
LAB = lab_spec(
    node_spec("dc", 1, roles=("certificate-authority",)),
    node_spec("cas", 2, roles=("client-access",)),
    node_spec("web", 3, roles=("web-server",)),
    node_spec("c", 4, roles=("client",)),
    clusters=(cluster_spec("cas"),),
)


# -- the library -------------------------------------------------------------------------------------------------------


def everything(lab: LabSpec, roles: tuple[str, ...]) -> LabSpec:
    """A lab with one more node, which has all those roles."""
    return replace(lab, nodes=(*lab.nodes, node_spec("all", 9, roles=roles)))


ALL = everything(LAB, tuple(SHIPPED))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_role_renders_and_a_shell_takes_its_script_and_checks(name: str) -> None:
    facts = {r: {e: f"fact {e}" for e in load_role(r).exports} for r in SHIPPED}
    rendered = render_role(load_role(name), ALL, ALL.node("all"), facts)
    for script in (rendered.script, *(check.command for check in rendered.ready)):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert rendered.ready
    assert all(path.startswith("/") for path in rendered.files)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_role_names_only_roles_that_exist(name: str) -> None:
    role = load_role(name)
    assert set(role.requires) | set(role.wants) <= set(SHIPPED)


def test_the_shipped_roles_do_not_wait_in_a_circle() -> None:
    waits_for = {name: load_role(name).after(ALL) for name in SHIPPED}
    assert len(list(TopologicalSorter(waits_for).static_order())) == len(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_role_reads_of_others_they_export(name: str) -> None:
    role = load_role(name)
    known = {r: dict.fromkeys(load_role(r).exports, "x") for r in role.after(ALL)}
    assert render_role(role, ALL, ALL.node("all"), known).name == name  # what is missing is an error


# -- reading and rendering ---------------------------------------------------------------------------------------------


def test_a_role_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match="role no-such does not exist") as refused:
        load_role("no-such")
    assert refused.value.hint == f"roles: {', '.join(SHIPPED)}"


def test_a_role_sees_the_facts_of_the_roles_it_waits_for() -> None:
    rendered = render_role(load_role("client-access"), LAB, LAB.node("cas"), FACTS)
    assert rendered.files["/etc/labctl/tls/root.pem"][0].strip() == b"ROOT"
    assert rendered.files["/etc/labctl/tls/enrol.json"][1] == 0o600


def test_a_role_without_its_facts_is_an_error_that_names_template_and_line() -> None:
    with pytest.raises(LabError, match=r"client-access/\S+:\d+: .*certificate-authority"):
        render_role(load_role("client-access"), LAB, LAB.node("cas"), {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.j2").write_text("{{ names[0] }} {{ provider('client').name }}\n")
    return tmp_path


def role(folder: Path, **changes: object) -> Role:
    """A role of one script."""
    made = Role("test", folder, requires=(), wants=(), files={}, script="run.j2", exports={}, ready=())
    return replace(made, **changes)


def test_a_member_is_called_by_its_clusters_name_first(folder: Path) -> None:
    assert render_role(role(folder), LAB, LAB.node("cas"), {}).script == alone("web.lab.test c\n")
    assert render_role(role(folder), LAB, LAB.node("dc"), {}).script == alone("dc.lab.test c\n")


def test_a_file_has_ordinary_permissions_unless_it_says(folder: Path) -> None:
    files = {"/a": {"template": "run.j2"}, "/b": {"template": "run.j2", "mode": "0700"}}
    rendered = render_role(role(folder, files=files), LAB, LAB.node("dc"), {})
    assert {path: mode for path, (_, mode) in rendered.files.items()} == {"/a": 0o644, "/b": 0o700}


def test_a_readiness_check_is_a_template_too(folder: Path) -> None:
    checks = ({"what": "answers", "command": "curl {{ node.address }}"},)
    rendered = render_role(role(folder, ready=checks), LAB, LAB.node("dc"), {})
    assert [(c.what, c.command) for c in rendered.ready] == [("answers", "curl 10.9.0.1")]


# -- digests -----------------------------------------------------------------------------------------------------------


def test_a_digest_is_known_before_the_facts_are() -> None:
    assert digest_of_roles(LAB, LAB.node("cas")) == digest_of_roles(LAB, LAB.node("cas"))


def test_a_digest_follows_what_the_roles_put_on_the_node() -> None:
    moved = replace(LAB, nodes=(LAB.nodes[0], node_spec("cas", 77, roles=("client-access",)), *LAB.nodes[2:]))
    renamed = replace(LAB, clusters=(replace(LAB.clusters[0], fqdn="other.lab.test"),))
    digests = {digest_of_roles(lab, lab.node("cas")) for lab in (LAB, moved, renamed)}
    assert len(digests) == 3


def test_a_digest_leaves_other_nodes_business_alone() -> None:
    more = replace(LAB, nodes=(*LAB.nodes, node_spec("d", 9)))
    assert digest_of_roles(more, more.node("web")) == digest_of_roles(LAB, LAB.node("web"))


def test_checks_are_known_by_role_without_facts() -> None:
    assert {name: [c.what for c in checks] for name, checks in role_checks(LAB, LAB.node("web")).items()} == {
        "web-server": ["HTTP answers"]
    }
    assert role_checks(LAB, node_spec("bare", 8)) == {}


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_wanted_role_is_waited_for_only_where_the_lab_has_it() -> None:
    alone = lab_spec(node_spec("c", 1, roles=("client",)))
    assert load_role("client").after(alone) == ()
    assert load_role("client").after(LAB) == ("certificate-authority",)


@pytest.mark.parametrize(
    "roles",
    [("client-access", "client", "certificate-authority"), ("client", "certificate-authority", "client-access")],
)
def test_roles_come_after_those_that_they_wait_for(roles: tuple[str, ...]) -> None:
    lab = lab_spec(node_spec("all", 1, roles=roles))
    ordered = in_order(roles, lab)
    assert ordered[0] == "certificate-authority"
    assert sorted(ordered) == sorted(roles)


def test_nodes_that_provide_for_each_other_never_wait_in_a_circle() -> None:
    one = ("client-access", "web-server")
    other = ("client", "certificate-authority")
    lab = lab_spec(node_spec("one", 1, roles=one), node_spec("other", 2, roles=other))
    assert in_order(other, lab) == ("certificate-authority", "client")
    assert set(in_order(one, lab)) == set(one)
