"""The shipped lab and its variants: what tells them apart, what they share, and that a server more is one entry."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from labctl.roles.role import RenderedRole, digest_of_roles, load_role, render_role, wanted_secrets
from labctl.secrets import Secrets
from labctl.topology.load import find_topology, load_topology, parse_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, Filtering, LabSpec, RuleProtocol, digest_of

MAIN = "exchange2007"
VARIANTS = (f"{MAIN}-small", f"{MAIN}-one-nic", f"{MAIN}-dns-round-robin")


def lab_of(name: str) -> LabSpec:
    return resolve(load_topology(find_topology(name)), lab=None, accelerator=Accelerator.TCG)


def rendered(lab: LabSpec, node: str, role: str) -> RenderedRole:
    secrets = Secrets.stand_ins(wanted_secrets(lab), tuple(u.name for u in lab.users))
    return render_role(load_role(role), lab, lab.node(node), secrets)


def text_of(lab: LabSpec, role: str, path: str) -> str:
    """A file that the first node with a role gets from it."""
    provider = lab.provider(role)
    assert provider is not None
    return rendered(lab, provider.name, role).files[path][0].decode()


def records(lab: LabSpec) -> list[list[str]]:
    found: list[list[str]] = json.loads(text_of(lab, "domain-controller", "/etc/labctl/directory/wanted.json"))[
        "records"
    ]
    return found


def made_from(lab: LabSpec, node: str) -> str:
    """What names the layer that the node can begin with, as far as the topology goes."""
    return digest_of(lab.node(node), digest_of_roles(lab, lab.node(node)))


@pytest.mark.parametrize(
    ("variant", "same"),
    [(VARIANTS[0], {"client"}), (VARIANTS[1], {"dc", "mbx", "client"}), (VARIANTS[2], {"mbx", "client"})],
)
def test_a_variant_is_made_anew_only_where_it_differs(variant: str, same: set[str]) -> None:
    main, other = lab_of(MAIN), lab_of(variant)
    common = {n.name for n in main.nodes} & {n.name for n in other.nodes}
    assert {name for name in common if made_from(main, name) == made_from(other, name)} == same


@pytest.mark.parametrize("name", [MAIN, *VARIANTS])
def test_all_of_them_have_the_same_users_and_names(name: str) -> None:
    lab = lab_of(name)
    assert (lab.domain, lab.users, lab.groups) == (lab_of(MAIN).domain, lab_of(MAIN).users, lab_of(MAIN).groups)
    assert {record[0] for record in records(lab)} >= {f"mail.{lab.domain}", f"autodiscover.{lab.domain}"}


@pytest.mark.parametrize("name", [MAIN, *VARIANTS[:2]])
def test_the_port_rules_are_those_that_exchange_was_given(name: str) -> None:
    rules = {rule.first_port: rule for rule in lab_of(name).clusters[0].port_rules}
    assert {p for p, r in rules.items() if r.filtering is Filtering.DISABLED} == {25}
    serving = {port: rule.affinity for port, rule in rules.items() if port != 25}
    alone = dict.fromkeys((80, 110, 143, 587, 993, 995), "none")
    assert serving == {443: "single", 4190: "single", **alone}
    assert {rule.protocol for rule in rules.values()} == {RuleProtocol.TCP}


def test_without_a_cluster_the_names_take_turns_and_samba_stands_behind_unbound() -> None:
    lab = lab_of(VARIANTS[2])
    for label in ("mail", "autodiscover"):
        addresses = [value for name, kind, value in records(lab) if (name, kind) == (f"{label}.{lab.domain}", "A")]
        assert addresses == ["10.77.0.21", "10.77.0.22"]
    wanted = json.loads(text_of(lab, "domain-controller", "/etc/labctl/directory/wanted.json"))
    assert f"127.0.0.1@{wanted['dns_port']}" in text_of(lab, "domain-controller", "/etc/unbound/unbound.conf")
    assert "restart unbound" in rendered(lab, "dc", "domain-controller").script


def test_with_a_cluster_the_directory_itself_answers() -> None:
    lab = lab_of(MAIN)
    assert json.loads(text_of(lab, "domain-controller", "/etc/labctl/directory/wanted.json"))["dns_port"] == "53"
    assert "unbound" not in rendered(lab, "dc", "domain-controller").script


def test_sessions_are_in_the_common_database_only_where_the_topology_shares_them() -> None:
    local, shared = (text_of(lab_of(n), "client-access", "/etc/sogo/sogo.conf") for n in (MAIN, VARIANTS[2]))
    assert "OCSSessionsFolderURL" not in local
    assert re.search(r'OCSSessionsFolderURL = "postgresql://.+/sogo_sessions";', shared)


def test_a_host_is_watched_once_however_much_is_served_there() -> None:
    """Each watching costs it a connection every two seconds; all that it serves is taken out together."""
    cas = rendered(lab_of(MAIN), "cas1", "back-ends").files["/etc/haproxy/haproxy.cfg"][0].decode()
    assert re.findall(r"server (\S+) .* check port", cas) == ["dc", "mbx"]
    assert re.findall(r"server (\S+) .* track (\S+)", cas) == [("mbx", "mailbox/mbx")] * 2
    assert cas.count("on-marked-down shutdown-sessions") == 4


def with_a_third_server() -> LabSpec:
    """The shipped lab with what somebody types to add a server: a node, and a member."""
    text = Path(find_topology(MAIN)).read_text()
    node = """
  frontdoor:
    roles: [client-access]
    nics:
      host: {network: lan, address: 10.77.0.23}
      cluster: {network: lan, address: 10.77.0.33}

clusters:"""
    member = "{node: frontdoor, nic: cluster, priority: 3}"
    text = text.replace("\nclusters:", node).replace("priority: 2}\n", f"priority: 2}}\n      - {member}\n")
    return resolve(parse_topology(text, "three.yaml"), lab=None, accelerator=Accelerator.TCG)


def test_a_third_server_is_one_node_and_one_member_in_the_file() -> None:
    lab = with_a_third_server()
    assert [m.node for m in lab.clusters[0].members] == ["cas1", "cas2", "frontdoor"]
    assert ["frontdoor.contoso.test", "A", "10.77.0.23"] in records(lab)
    assert "10.77.0.23/32" in text_of(lab, "groupware-store", "/etc/postgresql/17/main/pg_hba.conf")
    for role in lab.node("frontdoor").roles:
        assert rendered(lab, "frontdoor", role).files


def test_nodes_can_have_any_names() -> None:
    others = {"dc": "kdc", "cas1": "left", "cas2": "right", "mbx": "store"}
    text = re.sub(rf"\b({'|'.join(others)})\b", lambda m: others[m[0]], Path(find_topology(MAIN)).read_text())
    lab = resolve(parse_topology(text, "others.yaml"), lab=None, accelerator=Accelerator.TCG)
    for node in lab.nodes:
        for role in node.roles:
            made = rendered(lab, node.name, role)
            files = [content.decode() for content, _ in made.files.values()]
            commands = [check.command for check in made.ready]
            assert not re.search(r"\b(dc|cas1|cas2|mbx)\.contoso", "".join((made.script, *files, *commands)))
