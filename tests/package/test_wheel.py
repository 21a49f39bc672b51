"""The wheel, installed in an empty environment: complete, and nothing in it that doesn't belong there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".tox" / "wheels"  # libvirt-python is compiled once and kept


def run(*argv: str | Path, cwd: Path) -> str:
    # Outside of the checkout and without its environment, or the checkout's own package would be found.
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(argv, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built as for a release: from the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def contents(wheel: Path) -> frozenset[str]:
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment that holds the wheel and what it depends on, nothing else."""
    empty = tmp_path_factory.mktemp("empty")
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", WHEELS, f"libvirt-python=={version('libvirt-python')}", cwd=empty)
    venv.create(empty / "env", with_pip=True)
    binaries = empty / "env" / "bin"
    run(binaries / "python", "-m", "pip", "--quiet", "install", "--find-links", WHEELS, wheel, cwd=empty)
    return binaries


def shipped(folder: str) -> list[str]:
    """What the repository tracks or would track in `folder`, as the wheel should name it."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder, cwd=ROOT)
    return [f"labctl/data/{line}" for line in listed.splitlines()]


@pytest.mark.parametrize("folder", ["images", "topologies"])
def test_recipes_and_topologies_ship(contents: frozenset[str], folder: str) -> None:
    expected = shipped(folder)
    assert expected
    assert set(expected) <= contents


def test_templates_and_role_files_ship(contents: frozenset[str]) -> None:
    data = [p.relative_to(ROOT).as_posix() for p in (ROOT / "labctl").rglob("*") if p.is_file()]
    expected = {name for name in data if "__pycache__" not in name and "/." not in name}
    assert any(name.startswith("labctl/roles/library/") for name in expected)
    assert expected <= contents


def test_nothing_else_is_in_the_wheel(contents: frozenset[str]) -> None:
    assert {name.split("/")[0] for name in contents} == {"labctl", f"labctl-{version('labctl')}.dist-info"}
    names = {name: name.split("/")[-1] for name in contents}
    assert [name for name, file in names.items() if file.startswith(("test_", "conftest")) or "/tests/" in name] == []


def test_the_wheel_installs_in_an_empty_environment_and_says_what_it_does(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "labctl", "--help", cwd=tmp_path)
    assert [verb for verb in ("up", "destroy", "status", "doctor") if verb not in said] == []


def test_the_installed_labctl_finds_its_own_topologies(installed: Path, tmp_path: Path) -> None:
    for name in sorted(path.stem for path in (ROOT / "topologies").glob("*.yaml")):
        run(installed / "labctl", "validate", name, cwd=tmp_path)


def test_pytest_loads_its_plugin(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "python", "-m", "pytest", "--trace-config", "--fixtures", "-q", cwd=tmp_path)
    assert "labctl.pytest_plugin" in said
