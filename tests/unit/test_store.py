"""Where labctl looks for its data and puts what it makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.store import artifacts_dir, cache_dir, shipped


def test_shipped_data_is_found_in_the_checkout() -> None:
    assert (shipped("topologies") / "exchange2007.yaml").is_file()
    assert shipped("images").is_dir()


def test_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "labctl"


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_cache_ignores_what_is_no_absolute_path(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    expected = Path("/var/cache/labctl") if os.geteuid() == 0 else Path.home() / ".cache/labctl"
    assert cache_dir() == expected


@pytest.mark.parametrize(("value", "expected"), [("", "artifacts"), ("/evidence", "/evidence")])
def test_artifacts_go_where_the_environment_says(value: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_ARTIFACTS", value)
    assert artifacts_dir() == Path(expected)
