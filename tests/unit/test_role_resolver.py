"""The name server of the role `resolver`: the rendered script, asked here."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from lab_bench import cluster_spec, lab_spec, node_spec

from labctl.probes.spec import question_of
from labctl.roles.role import load_role, render_role
from labctl.secrets import Secrets
from labctl.topology.spec import LabSpec

NODES = (
    node_spec("m1", 1, roles=("web-server",)),
    node_spec("m2", 2, roles=("web-server",)),
    node_spec("client", 3, roles=("client", "resolver")),
)
AAAA = b"\0\x1c"


def script_of(lab: LabSpec, folder: Path) -> dict[str, Any]:
    """The names that the script defines."""
    files = render_role(load_role("resolver"), lab, lab.node("client"), Secrets()).files
    (folder / "names.json").write_bytes(files["/etc/labctl/names.json"][0])
    source = files["/usr/local/sbin/labctl-resolver"][0].decode()
    names: dict[str, Any] = {"__name__": "resolver"}
    exec(source.replace("/etc/labctl/names.json", str(folder / "names.json")), names)
    return names


@pytest.fixture
def script(tmp_path: Path) -> dict[str, Any]:
    return script_of(lab_spec(*NODES), tmp_path)


def asked(script: dict[str, Any], name: str, turn: int = 0) -> tuple[int, list[str]]:
    """The response code, and the addresses in their order."""
    question = b"\x12\x34" + question_of(name)
    answer, count = script["answered"](question, turn)
    assert answer[:2] == question[:2]
    assert answer[12 : len(question)] == question[12:]
    assert int.from_bytes(answer[6:8]) == count
    records = answer[len(question) :]
    return answer[3] & 15, [str(IPv4Address(records[at + 12 : at + 16])) for at in range(0, len(records), 16)]


def test_a_name_has_the_addresses_of_all_its_servers_another_one_first_each_time(script: dict[str, Any]) -> None:
    assert asked(script, "web.lab.test", 0) == (0, ["10.9.0.1", "10.9.0.2"])
    assert asked(script, "Web.Lab.Test.", 1) == (0, ["10.9.0.2", "10.9.0.1"])
    assert asked(script, "web.lab.test", 2) == (0, ["10.9.0.1", "10.9.0.2"])


def test_a_name_that_it_does_not_know_is_none(script: dict[str, Any]) -> None:
    assert asked(script, "www.lab.test") == (3, [])


def test_a_name_has_no_ipv6_address(script: dict[str, Any]) -> None:
    question = b"\x12\x34" + question_of("web.lab.test")[:-4] + AAAA + b"\0\1"
    answer, count = script["answered"](question, 0)
    assert (answer[3] & 15, count, len(answer)) == (0, 0, len(question))


def test_a_question_that_is_cut_short_is_an_error_that_the_server_passes_over(script: dict[str, Any]) -> None:
    with pytest.raises(IndexError):
        script["answered"](b"\x12\x34" + question_of("web.lab.test")[:14], 0)


def test_behind_a_cluster_the_name_is_the_clusters(tmp_path: Path) -> None:
    script = script_of(lab_spec(*NODES, clusters=(cluster_spec("m1", "m2"),)), tmp_path)
    assert asked(script, "web.lab.test") == (0, ["10.9.0.200"])
