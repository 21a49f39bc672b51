"""A campaign on real guests: what is fine passes, and what is not is made short and repeats itself."""

from __future__ import annotations

import json
import re
import sys

import pytest

from labctl.cli import main
from labctl.faults import Duplicate
from labctl.faults.network_ways import ImpairmentWay
from labctl.lab import Lab

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

# Draws a delay of m1 and, as its second, frames of m2 that come twice.
CAMPAIGN = ("campaign", "micro", "--seed", "69", "--steps", "2")


@pytest.fixture
def heal_breaks_the_member(monkeypatch):
    """Whoever undoes a Duplicate leaves a node that drops all that its cluster is asked."""
    heal = ImpairmentWay.heal

    def heal_and_break(way: ImpairmentWay) -> None:
        heal(way)
        if isinstance(way._fault, Duplicate):
            way._guest.succeed(["nft", "insert", "rule", "ip", "labctl_web", "decide", "drop"])

    monkeypatch.setattr(ImpairmentWay, "heal", heal_and_break)


def test_a_campaign_finds_the_step_that_breaks_the_lab_and_repeats_it(
    heal_breaks_the_member, lab: Lab, labctl, tmp_path, monkeypatch, capfd
):
    # on the lab of this session, in this process, for the defect is in it
    arguments = [*CAMPAIGN, "--lab", lab.name, "--connect", lab.hypervisor.uri]
    monkeypatch.setenv("LABCTL_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["labctl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().out
    assert ended.value.code == 1, said
    assert re.search(r"^PASS  step 1: delay cluster of m1 for 3 s$", said, re.MULTILINE), said
    assert re.search(r"^FAIL  step 2: duplicate cluster of m2 for 3 s$", said, re.MULTILINE), said
    assert re.search(r"\d+ failed: \d+ timeout", said), said  # who was let down, and how
    (again,) = re.findall(r"^again: labctl (.*)$", said, re.MULTILINE)
    assert again.endswith(" --only 2"), said

    # Nobody set the lab back; without the defect the same step is fine.
    repeated = labctl(*again.split(), within_s=240)
    assert repeated.returncode == 0, repeated
    assert re.findall(rb"^(\w+)  step (\d)", repeated.stdout, re.MULTILINE) == [(b"PASS", b"2")]
    # Every run has kept its evidence: the campaign, its one try, and the repetition.
    folder = tmp_path / f"campaign-{lab.name}-69"
    failed, tried = folder / "step-2.jsonl", folder / "try-1" / "step-2.jsonl"
    fine = folder.with_name(f"{folder.name}-2") / "step-2.jsonl"
    judged = labctl("verdict", str(failed), str(tried), str(fine), "--json")
    assert judged.returncode == 1
    assert [found["verdict"] for found in json.loads(judged.stdout)] == ["FAIL", "FAIL", "PASS"]
