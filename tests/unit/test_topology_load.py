"""Reading topology files: every kind of damage is an InputError that says where, and never anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import InputError
from labctl.topology.catalogue import Catalogue, ImageDefaults, load_catalogue
from labctl.topology.check import check
from labctl.topology.finding import Finding
from labctl.topology.load import find_topology, load_topology, parse_topology, shipped_topologies
from labctl.topology.structure import read_structure

CATALOGUE = Catalogue({"client": ()}, {"micro": ImageDefaults(memory_mib=192)})

LAB: dict[str, Any] = {
    "lab": "small",
    "domain": "small.test",
    "image": "micro",
    "time_zone": "UTC",
    "networks": {"lan": {"subnet": "10.9.0.0/24"}},
    "nodes": {
        "a": {
            "roles": ["client"],
            "memory_mib": 256,
            "nics": {"eth0": {"network": "lan", "address": "10.9.0.1", "extra_addresses": ["10.9.0.3-10.9.0.9"]}},
        }
    },
    "clusters": {
        "web": {
            "network": "lan",
            "address": "10.9.0.2",
            "fqdn": "web.small.test",
            "heartbeat": {"period_ms": 100, "tolerance": 5},
            "members": [{"node": "a", "nic": "eth0", "priority": 1}],
            "port_rules": [
                {"ports": [80, "90-99"], "weights": {"a": 50}},
                {"ports": 443, "filtering": "single-host", "handling": ["a"]},
            ],
        }
    },
}


def _paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _findings(data: Any) -> list[Finding]:
    structure = read_structure(data)
    return [*structure.findings, *check(structure.topology, CATALOGUE)]


def test_the_undamaged_lab_is_good() -> None:
    assert _findings(LAB) == []


@pytest.mark.parametrize("junk", [None, {}, [], [[]], {"x": None}, -1, True, "?"], ids=json.dumps)
@pytest.mark.parametrize("path", list(_paths(LAB)), ids=lambda path: ".".join(map(str, path)))
def test_junk_is_found_wherever_it_is(path: tuple[str | int, ...], junk: object) -> None:
    damaged = copy.deepcopy(LAB)
    inner: Any = damaged
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = junk
    may_be_empty = {"image", "clusters", "heartbeat", "port_rules", "roles", "extra_addresses", "memory_mib"}
    assert _findings(damaged) or (not junk and path[-1] in may_be_empty | {"profile", "weights", "handling"})


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", "~", "'x'", "? {}", "- - -", "!!binary x", "a: &a {b: *a}", "%YAML 1.1\n---\nlab: 1:30"]
)
def test_text_that_is_no_topology_is_refused_with_a_problem(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_topology(text, "lab.yaml", CATALOGUE)
    assert all(problem.line and problem.column for problem in refused.value.problems)
    assert refused.value.problems


def test_problems_come_in_the_order_of_the_file() -> None:
    damaged = json.dumps({**LAB, "lab": 7, "image": "none", "nodes": {}}, indent=1)  # JSON is YAML too
    with pytest.raises(InputError) as refused:
        parse_topology(damaged, "lab.json", CATALOGUE)
    lines = [problem.line for problem in refused.value.problems]
    assert lines == sorted(lines)
    assert len(lines) == 4  # the last one is the member, whose node is gone


def test_numbers_are_read_as_yaml_1_2_reads_them() -> None:
    text = (
        json.dumps(LAB)
        .replace('"memory_mib": 256', '"memory_mib": 0x100')
        .replace('"period_ms": 100', '"period_ms": 0100')
    )
    topology = parse_topology(text, "lab.yaml", CATALOGUE)
    assert topology.nodes["a"].memory_mib == 256
    heartbeat = topology.clusters["web"].heartbeat
    assert heartbeat.period_ms == 100


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: No such file"):
        load_topology(tmp_path / "gone.yaml", CATALOGUE)


def test_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("lab: caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: not UTF-8, from byte 8 on"):
        load_topology(tmp_path / "latin.yaml", CATALOGUE)


def test_problems_name_the_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_text("lab: [")
    with pytest.raises(InputError) as refused:
        load_topology(Path("lab.yaml"), CATALOGUE)
    assert str(refused.value.problems[0]).startswith("lab.yaml:1:7: not YAML")


def test_shipped_topology_is_found_by_name() -> None:
    assert find_topology("exchange2007") == shipped_topologies()["exchange2007"]


def test_file_is_found_by_path_and_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("micro").write_text("")
    assert find_topology("micro") == Path("micro")
    assert find_topology(str(tmp_path / "micro")) == tmp_path / "micro"


def test_unknown_name_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"exchange2008: neither a file nor a topology.* exchange2007, .*micro"):
        find_topology("exchange2008")


@pytest.mark.parametrize("path", shipped_topologies().values(), ids=lambda path: path.stem)
def test_shipped_topology_asks_only_for_what_labctl_ships(path: Path) -> None:
    assert load_topology(path, load_catalogue()).lab == path.stem
