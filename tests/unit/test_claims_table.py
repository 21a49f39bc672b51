"""docs/claims.md leads from every claim and every fault to tests that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "claims.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| # ", "| fault "))
]
NAMED = {name for row in ROWS for name in re.findall(r"`(tests/[^`]+)`", row[2])}


FOLDERS = sorted({"/".join(name.split("/")[:2]) for name in NAMED})


def collected(folder: str) -> set[str]:
    """All tests of a folder, with and without their parameters; each folder has helpers of its own in its conftest."""
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", folder]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = {line for line in done.stdout.splitlines() if "::" in line}
    return whole | {name.partition("[")[0] for name in whole}


def test_every_claim_is_in_the_table_once() -> None:
    numbers = [row[0] for row in ROWS if re.fullmatch(r"C\d+", row[0])]
    assert numbers == [f"C{n}" for n in range(1, 17)]


def test_every_claim_and_every_fault_names_a_test() -> None:
    assert len(ROWS) >= 16 + 14
    assert [row[0] for row in ROWS if "`tests/" not in row[2]] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_test_that_is_named_is_there(folder: str) -> None:
    assert sorted({name for name in NAMED if name.startswith(f"{folder}/")} - collected(folder)) == []
