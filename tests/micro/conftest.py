"""One lab of tiny guests for all of these tests, and labctl as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labctl.guest.agent import Guest
from labctl.lab import Lab, Silent
from labctl.labs import Labs

IMPORTS_S = 0.4  # a labctl that dies earlier has done nothing yet
LABCTL = str(Path(sys.executable).with_name("labctl"))


@dataclass(frozen=True)
class CommandLine:
    """Runs `labctl` as a process of its own, on one lab."""

    uri: str
    lab: str
    more: Mapping[str, str] = field(default_factory=dict)  # of the environment

    def argv(self, *arguments: str) -> list[str]:
        return [LABCTL, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LABCTL_URI": self.uri, "LABCTL_LAB": self.lab, **self.more}

    def __call__(self, *arguments: str, stdin: bytes = b"", within_s: float = 120) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.argv(*arguments), input=stdin, capture_output=True, timeout=within_s, env=self.environment, check=False
        )

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
        )

    def killed_after(self, seconds: float, *arguments: str) -> str:
        """Start labctl and kill it, unless it is done by then; what it said."""
        process = self.start(*arguments)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        said, _ = process.communicate(timeout=30)
        return said.decode()


class Said(Silent):
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has to hold after all that is asked last."""
    items.sort(key=lambda item: item.name == "test_no_lab_has_written_to_the_parent_disk")


@pytest.fixture(scope="session")
def micro(labs: Labs) -> Lab:
    """The lab, brought up once: for tests that leave it as it is. Those that break something take `lab`."""
    return labs.get("micro")


@pytest.fixture(scope="session")
def guest(micro: Lab) -> Guest:
    """One of its nodes, to try things on: not a member, so that no cluster minds."""
    return micro.guest("client")


@pytest.fixture(scope="session")
def labctl(micro: Lab) -> CommandLine:
    """`labctl` on the lab."""
    return CommandLine(micro.hypervisor.uri, micro.name)


@pytest.fixture
def in_background(guest: Guest) -> Callable[[str], None]:
    """Starts a shell script in the guest that outlives its command, and even the agent."""

    def start(script: str) -> None:
        guest.shell(f"setsid nohup sh -c '{script}' >/dev/null 2>&1 </dev/null &")

    return start
