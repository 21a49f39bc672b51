"""The commands ssh, ssh-config and forward, as far as they are ours: what they refuse, and what they tell OpenSSH."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab_bench import Bench
from test_cli import Labctl, bench, brought_up, file, run, same, small

from labctl.errors import AgentGone
from labctl.render.names import domain_name

__all__ = ["bench", "brought_up", "file", "run", "same", "small"]  # fixtures of the command line


def test_ssh_config_tells_openssh_of_every_node(same: Bench, run: Labctl, tmp_path: Path) -> None:
    ran = run("ssh-config")
    assert (ran.code, ran.err) == (0, "")
    config = tmp_path / "config"
    config.write_text(ran.out)
    for node in ("m1", "m2", "c"):
        said = subprocess.run(["ssh", "-G", "-F", config, node], capture_output=True, text=True, check=True).stdout
        assert f"\nhostkeyalias {node}.small\n" in said
        assert f" -P -m labctl.access {config_directory(ran.out)} fake:/// small {node}\n" in said


def config_directory(text: str) -> str:
    """Where the files are that the configuration names."""
    (line,) = {line for line in text.splitlines() if "IdentityFile" in line}
    return str(Path(line.split('"')[1]).parent)


@pytest.mark.parametrize("arguments", [("ssh", "m9"), ("forward", "m9", "80")], ids=str)
def test_a_node_that_is_not_in_the_lab_is_bad_input(same: Bench, run: Labctl, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "labctl: lab small has no node m9\n  next: its nodes: m1, m2, c\n"


@pytest.mark.parametrize("arguments", [("ssh", "m1"), ("forward", "m1", "80")], ids=str)
def test_a_node_that_is_off_is_named_with_the_way_back(small: Bench, run: Labctl, arguments: tuple[str, ...]) -> None:
    small.hypervisor.power_off(domain_name("small", "m1"))
    ran = run(*arguments)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "labctl: node m1 is shut off; SSH takes one that runs\n  next: labctl up brings it back\n"


def test_a_node_without_its_agent_is_named_with_what_works_without(small: Bench, run: Labctl) -> None:
    small.guests["m1"].fail["guest-ping"] = AgentGone("domain small.m1: agent: not connected")
    ran = run("ssh", "m1")
    assert ran.code == 3
    assert "node m1 has no SSH while its agent does not answer: domain small.m1: agent: not connected" in ran.err
    assert "labctl console m1 works without the agent" in ran.err


def test_a_host_without_ssh_is_told_how_to_get_it(same: Bench, run: Labctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ran = run("ssh", "m1")
    assert ran.code == 3
    assert ran.err == "labctl: ssh: program not found\n  next: sudo ./bootstrap true installs what labctl needs\n"


def test_a_port_that_means_nothing_is_refused_before_the_hypervisor_is_asked(bench: Bench, run: Labctl) -> None:
    bench.hypervisor.fail_on["domains"] = AssertionError("asked")
    assert run("forward", "m1", "https").code == 2


def test_nothing_of_ssh_is_left_of_a_lab_that_is_destroyed(small: Bench, run: Labctl) -> None:
    directory = Path(config_directory(run("ssh-config").out))
    assert directory.is_dir()
    assert run("destroy").code == 0
    assert not directory.exists()
