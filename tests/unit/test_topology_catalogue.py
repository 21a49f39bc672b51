"""The catalogue: what the folders of roles and images say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import InputError
from labctl.topology.catalogue import Catalogue, ImageDefaults, load_catalogue


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_roles_and_images_are_read_from_their_folders(tmp_path: Path) -> None:
    _write(tmp_path / "roles/web/role.yaml", "requires: [ca]\nwith: [key]\nfiles: {/etc/x: {mode: '0600'}}\n")
    _write(tmp_path / "roles/ca/role.yaml", "description: a CA\n")
    _write(tmp_path / "images/tiny/recipe.yaml", "memory_mib: 96\nsuite: trixie\n")
    (tmp_path / "images/notes").mkdir()
    assert load_catalogue(tmp_path / "roles", tmp_path / "images") == Catalogue(
        {"ca": (), "web": ("ca",)},
        {"tiny": ImageDefaults(memory_mib=96)},
        {"ca": (), "web": ("key",)},
        {"ca": (), "web": ("/etc/x",)},
    )


def test_a_role_comes_after_those_that_come_with_it_and_once() -> None:
    catalogue = Catalogue(companions={"web": ("key",), "mail": ("key", "store"), "store": ("disk",)})
    assert catalogue.with_companions(("web", "mail")) == ("key", "web", "disk", "store", "mail")


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("roles/web/role.yaml", "x: 1\nrequires: ca\n", "role.yaml:2:11: requires is not a list of roles"),
        ("roles/web/role.yaml", "with: 7\n", "role.yaml:1:7: with is not a list of roles"),
        ("roles/web/role.yaml", "requires: [1]\n", "role.yaml:1:11: requires is not a list of roles"),
        ("roles/web/role.yaml", "files: [a]\n", "role.yaml:1:8: files is not a mapping of paths to templates"),
        ("images/tiny/recipe.yaml", "suite: trixie\n", "recipe.yaml:1:1: memory_mib is missing or not a number"),
        ("images/tiny/recipe.yaml", "memory_mib: 1G\n", "recipe.yaml:1:13: memory_mib is missing or not a number"),
        ("images/tiny/recipe.yaml", "memory_mib: [\n", "recipe.yaml:2:1: not YAML"),
    ],
)
def test_unusable_file_is_named_with_line_and_column(tmp_path: Path, file: str, text: str, problem: str) -> None:
    _write(tmp_path / file, text)
    with pytest.raises(InputError) as refused:
        load_catalogue(tmp_path / "roles", tmp_path / "images")
    assert problem in str(refused.value.problems[0])
