"""Topologies and what becomes of them, one case per file.

`bad/NAME.yaml` shows one mistake (or, many-*, several); `bad/NAME.out` holds all its problems as people see them.
`good/NAME.yaml` shows one kind of lab; `good/NAME.spec` holds the lab that it resolves to, emulated.

    LABCTL_GOLDEN=write pytest tests/golden

makes the second file of each pair anew. Read the difference before you commit it: that is the test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from spec_dump import dump

from labctl.errors import InputError
from labctl.store import shipped
from labctl.topology.catalogue import Catalogue
from labctl.topology.load import parse_topology, shipped_topologies
from labctl.topology.resolve import resolve
from labctl.topology.schema import schema_json
from labctl.topology.spec import Accelerator

GOLDEN = Path(__file__).parent

SameAs = Callable[[Path, str], None]

BAD = sorted((GOLDEN / "bad").glob("*.yaml"))
GOOD = sorted((GOLDEN / "good").glob("*.yaml"))
ALL_GOOD = [*GOOD, *shipped_topologies().values()]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_topology_is_refused_with_all_its_problems(path: Path, catalogue: Catalogue, same_as: SameAs) -> None:
    with pytest.raises(InputError) as refused:
        parse_topology(path.read_text("utf-8"), path.name, catalogue)
    lines = [*refused.value.problems, refused.value]
    same_as(path.with_suffix(".out"), "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_topology_resolves_to_its_lab(path: Path, catalogue: Catalogue, same_as: SameAs) -> None:
    topology = parse_topology(path.read_text("utf-8"), path.name, catalogue)
    spec = resolve(topology, lab=None, accelerator=Accelerator.TCG, catalogue=catalogue)
    same_as(path.with_suffix(".spec"), dump(spec))


@pytest.mark.parametrize("suffix", [".out", ".spec"])
def test_every_golden_file_has_its_topology(suffix: str) -> None:
    orphans = [path.name for path in GOLDEN.glob(f"*/*{suffix}") if not path.with_suffix(".yaml").is_file()]
    assert orphans == []


def test_the_schema_for_editors_is_current(same_as: SameAs) -> None:
    same_as(shipped("topologies") / "labctl.schema.json", schema_json())


@pytest.mark.parametrize("path", ALL_GOOD, ids=lambda path: path.stem)
def test_good_topology_fits_the_schema_for_editors(path: Path) -> None:
    data = YAML(typ="safe").load(path)
    errors = [error.message for error in Draft202012Validator(json.loads(schema_json())).iter_errors(data)]
    assert errors == []


@pytest.mark.parametrize("path", shipped_topologies().values(), ids=lambda path: path.stem)
def test_shipped_topology_is_good_and_names_the_schema(path: Path, catalogue: Catalogue) -> None:
    text = path.read_text("utf-8")
    assert parse_topology(text, path.name, catalogue).lab == path.stem
    assert text.startswith("# yaml-language-server: $schema=./labctl.schema.json\n")
