"""Roles: read, rendered, put in order; and the library that labctl ships."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from graphlib import TopologicalSorter
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network
from pathlib import Path

import pytest
from lab_bench import cluster_spec, lab_spec, node_spec

from labctl.errors import InputError, LabError
from labctl.render.scripts import alone
from labctl.roles.context import reached_at
from labctl.roles.role import (
    LIBRARY,
    Role,
    digest_of_roles,
    in_order,
    load_role,
    render_role,
    role_checks,
    wanted_secrets,
)
from labctl.secrets import Secrets
from labctl.topology.spec import GroupSpec, LabSpec, UserSpec

SHIPPED = sorted(p.parent.name for p in LIBRARY.glob("*/role.yaml"))
LAB = lab_spec(
    node_spec("dc", 1, roles=("certificate-authority", "domain-controller")),
    node_spec("cas", 2, roles=("certificate", "client-access")),
    node_spec("web", 3, roles=("web-server",)),
    node_spec("mbx", 5, roles=("groupware-store", "certificate", "mailbox", "hub-transport")),
    node_spec("c", 4, roles=("client",)),
    clusters=(cluster_spec("cas"),),
)


# -- the library -------------------------------------------------------------------------------------------------------


def everything(lab: LabSpec, roles: tuple[str, ...]) -> LabSpec:
    """A lab with one more node, which has all those roles."""
    return replace(lab, nodes=(*lab.nodes, node_spec("all", 9, roles=roles)))


ALL = replace(
    everything(LAB, tuple(SHIPPED)),
    users=(UserSpec("ann", "Ann", "Abel", 64),),
    groups=(GroupSpec("all", ("ann",)),),
)
SECRETS = Secrets().completed(wanted_secrets(ALL), ("ann",), ALL.domain)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_role_renders_and_a_shell_takes_its_script_and_checks(name: str) -> None:
    rendered = render_role(load_role(name), ALL, ALL.node("all"), SECRETS)
    files = [content.decode() for content, mode in rendered.files.values() if mode & 0o100]
    for script in (rendered.script, *files, *(check.command for check in rendered.ready)):
        if script.startswith("#!/usr/bin/python3"):
            compile(script, name, "exec")
        else:
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert rendered.ready
    assert all(path.startswith("/") for path in rendered.files)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_role_names_only_roles_that_exist(name: str) -> None:
    role = load_role(name)
    assert {*role.requires, *role.wants, *role.companions} <= set(SHIPPED)


def test_the_shipped_roles_do_not_wait_in_a_circle() -> None:
    waits_for = {name: {*load_role(name).after(ALL), *load_role(name).companions} for name in SHIPPED}
    assert len(list(TopologicalSorter(waits_for).static_order())) == len(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_role_keeps_secret_only_root_can_read(name: str) -> None:
    rendered = render_role(load_role(name), ALL, ALL.node("all"), SECRETS)
    hidden = [value for key, value in SECRETS.items() if "certificate" not in key.rsplit(".", 1)[1]]
    for path, (content, mode) in rendered.files.items():
        assert not mode & 0o077 or not any(value in content.decode() for value in hidden), path
    told = [rendered.script, *(check.command for check in rendered.ready)]
    assert not any(value in text for value in hidden for text in told)


def test_the_roots_key_goes_into_no_guest() -> None:
    key = SECRETS.roles["certificate-authority"]["ca_root_key"]
    for name in SHIPPED:
        rendered = render_role(load_role(name), ALL, ALL.node("all"), SECRETS)
        assert not any(key in content.decode() for content, _ in rendered.files.values())


def test_the_directory_is_told_of_users_groups_names_and_addresses() -> None:
    rendered = render_role(load_role("domain-controller"), ALL, ALL.node("dc"), SECRETS)
    wanted = json.loads(rendered.files["/etc/labctl/directory/wanted.json"][0])
    assert [(u["name"], u["surname"], u["mail"]) for u in wanted["users"]] == [("ann", "Abel", "ann@lab.test")]
    assert wanted["groups"] == [{"name": "all", "mail": "all@lab.test", "members": ["ann"]}]
    assert wanted["zones"] == ["0.9.10.in-addr.arpa"]
    assert ["cas.lab.test", "A", "10.9.0.2"] in wanted["records"]
    assert ["2.0.9.10.in-addr.arpa", "PTR", "cas.lab.test"] in wanted["records"]
    assert ["web.lab.test", "A", "10.9.0.200"] in wanted["records"]


def test_the_directory_is_told_of_a_clusters_other_addresses_with_their_own_kind_of_record() -> None:
    wanted = json.loads(rendered_with_ipv6("domain-controller", "dc")["/etc/labctl/directory/wanted.json"])
    expected = [("A", "10.9.0.200"), ("A", "10.9.0.201"), ("AAAA", "fd00:9::c8")]
    assert [(kind, value) for at, kind, value in wanted["records"] if at == "autodiscover.lab.test"] == expected
    assert {("web.lab.test", *record) for record in expected} <= {tuple(record) for record in wanted["records"]}
    assert ["201.0.9.10.in-addr.arpa", "PTR", "web.lab.test"] in wanted["records"]


@pytest.mark.parametrize(
    ("role", "node", "file", "line"),
    [
        ("web-server", "web", "/etc/nginx/sites-available/default", "listen [::]:80 default_server;"),
        ("client-access", "cas", "/etc/nginx/sites-available/default", "listen [::]:443 ssl default_server;"),
        ("client-access", "cas", "/etc/dovecot/dovecot.conf", "listen = *, ::"),
        ("domain-controller", "dc", "/usr/local/sbin/labctl-directory", "sambadns.AAAARecord(value)"),
    ],
)
def test_ipv6_is_served_where_the_lab_has_it_and_nothing_else_changes(
    role: str, node: str, file: str, line: str
) -> None:
    without = render_role(load_role(role), LAB, LAB.node(node), SECRETS).files[file][0].decode()
    assert line in rendered_with_ipv6(role, node)[file]
    assert line not in without
    assert "ipv6" not in without.lower()


def rendered_with_ipv6(role: str, node: str) -> dict[str, str]:
    """A role's files in a lab whose cluster has three addresses."""
    more = (IPv4Interface("10.9.0.201/24"), IPv6Interface("fd00:9::c8/64"))
    lab = replace(
        LAB,
        networks=(replace(LAB.networks[0], subnet6=IPv6Network("fd00:9::/64")),),
        clusters=(replace(LAB.clusters[0], more_addresses=more),),
    )
    files = render_role(load_role(role), lab, lab.node(node), SECRETS).files
    return {path: content.decode() for path, (content, _mode) in files.items()}


def test_a_name_of_a_role_stands_for_the_clusters_of_its_nodes_and_else_for_themselves() -> None:
    nodes = (
        node_spec("a", 1, roles=("client-access",)),
        node_spec("b", 2, roles=("client-access",)),
        node_spec("c", 3, roles=("client-access",)),
    )
    found = reached_at(lab_spec(*nodes, clusters=(cluster_spec("a", "b"),)), "client-access")
    assert [str(address) for address in found] == ["10.9.0.200", "10.9.0.3"]


# -- reading and rendering ---------------------------------------------------------------------------------------------


def test_a_role_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match="role no-such does not exist") as refused:
        load_role("no-such")
    assert refused.value.hint == f"roles: {', '.join(SHIPPED)}"


def test_a_role_sees_the_secrets_of_the_lab() -> None:
    rendered = render_role(load_role("certificate"), LAB, LAB.node("cas"), SECRETS)
    root = SECRETS.roles["certificate-authority"]["ca_root_certificate"]
    assert rendered.files["/etc/labctl/tls/root.pem"][0].decode() == root


def test_a_role_without_its_secrets_is_an_error_that_names_template_and_line() -> None:
    with pytest.raises(LabError, match=r"certificate/\S+:\d+: .*certificate-authority"):
        render_role(load_role("certificate"), LAB, LAB.node("cas"), Secrets())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.j2").write_text("{{ names[0] }} {{ provider('client').name }}\n")
    return tmp_path


def role(folder: Path, **changes: object) -> Role:
    """A role of one script."""
    made = Role("test", folder, requires=(), wants=(), files={}, script="run.j2", ready=())
    return replace(made, **changes)


def test_a_member_is_called_by_its_clusters_name_first(folder: Path) -> None:
    assert render_role(role(folder), LAB, LAB.node("cas"), SECRETS).script == alone("web.lab.test c\n")
    assert render_role(role(folder), LAB, LAB.node("dc"), SECRETS).script == alone("dc.lab.test c\n")


def test_a_file_has_ordinary_permissions_unless_it_says(folder: Path) -> None:
    files = {"/a": {"template": "run.j2"}, "/b": {"template": "run.j2", "mode": "0700"}}
    rendered = render_role(role(folder, files=files), LAB, LAB.node("dc"), SECRETS)
    assert {path: mode for path, (_, mode) in rendered.files.items()} == {"/a": 0o644, "/b": 0o700}


def test_a_readiness_check_is_a_template_too(folder: Path) -> None:
    checks = ({"what": "answers", "command": "curl {{ node.address }}"},)
    rendered = render_role(role(folder, ready=checks), LAB, LAB.node("dc"), SECRETS)
    assert [(c.what, c.command) for c in rendered.ready] == [("answers", "curl 10.9.0.1")]


# -- digests -----------------------------------------------------------------------------------------------------------


def test_a_digest_is_the_same_whatever_the_secrets_are() -> None:
    assert digest_of_roles(ALL, ALL.node("all")) == digest_of_roles(ALL, ALL.node("all"))


def test_a_digest_follows_the_users() -> None:
    more = replace(LAB, users=(*LAB.users, UserSpec("bo", "Bo", "Berg", 8)))
    assert digest_of_roles(more, more.node("dc")) != digest_of_roles(LAB, LAB.node("dc"))


def test_a_digest_follows_what_the_roles_put_on_the_node() -> None:
    moved = replace(
        LAB, nodes=(LAB.nodes[0], node_spec("cas", 77, roles=("certificate", "client-access")), *LAB.nodes[2:])
    )
    renamed = replace(LAB, clusters=(replace(LAB.clusters[0], fqdn="other.lab.test"),))
    digests = {digest_of_roles(lab, lab.node("cas")) for lab in (LAB, moved, renamed)}
    assert len(digests) == 3


def test_a_digest_leaves_other_nodes_business_alone() -> None:
    more = replace(LAB, nodes=(*LAB.nodes, node_spec("d", 9)))
    assert digest_of_roles(more, more.node("web")) == digest_of_roles(LAB, LAB.node("web"))


def test_checks_are_known_by_role_without_secrets() -> None:
    assert {name: [c.what for c in checks] for name, checks in role_checks(LAB, LAB.node("web")).items()} == {
        "web-server": ["HTTP answers"]
    }
    assert role_checks(LAB, node_spec("bare", 8)) == {}


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_wanted_role_is_waited_for_only_where_the_lab_has_it() -> None:
    wanting = role(Path(), wants=("certificate-authority",))
    assert wanting.after(lab_spec(node_spec("c", 1, roles=("client",)))) == ()
    assert wanting.after(LAB) == ("certificate-authority",)


@pytest.mark.parametrize(
    "roles",
    [("certificate", "client", "certificate-authority"), ("client", "certificate-authority", "certificate")],
)
def test_roles_come_after_those_that_they_wait_for(roles: tuple[str, ...]) -> None:
    lab = lab_spec(node_spec("all", 1, roles=roles))
    ordered = in_order(roles, lab)
    assert ordered.index("certificate-authority") < ordered.index("certificate")
    assert sorted(ordered) == sorted(roles)


def test_nodes_that_provide_for_each_other_never_wait_in_a_circle() -> None:
    one = ("certificate", "web-server")
    other = ("client", "certificate-authority")
    lab = lab_spec(node_spec("one", 1, roles=one), node_spec("other", 2, roles=other))
    assert set(in_order(other, lab)) == set(other)
    assert set(in_order(one, lab)) == set(one)
