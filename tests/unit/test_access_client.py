"""What OpenSSH's client is given: a key that nobody else can read, and a configuration that asks no questions."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from labctl.access.client import configuration, forget, keep_files
from labctl.access.files import SshFiles, full_name


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshFiles:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "100% mine"))
    return keep_files("lab")


def test_the_keys_are_for_their_owner_alone(files: SshFiles) -> None:
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files.directory.iterdir()} == {0o600}
    assert {file.name for file in files.directory.iterdir()} == {"key", "key.pub"}


def test_openssh_reads_the_key_and_makes_the_same_public_one_of_it(files: SshFiles) -> None:
    read = subprocess.run(["ssh-keygen", "-y", "-f", files.key], capture_output=True, text=True, check=True)
    assert read.stdout.split()[:2] == files.public_key.read_text().split()[:2]


def test_a_lab_has_one_key_and_another_lab_another(files: SshFiles) -> None:
    first = files.key.read_text()
    assert keep_files("lab").key.read_text() == first
    assert keep_files("other").key.read_text() != first


def test_a_key_without_its_public_part_is_made_anew(files: SshFiles) -> None:
    first = files.key.read_text()
    files.public_key.unlink()
    assert keep_files("lab").key.read_text() != first
    assert files.public_key.exists()


def test_nothing_is_left_of_a_lab_that_is_forgotten(files: SshFiles) -> None:
    forget("lab")
    assert not files.directory.exists()
    forget("lab")


def asked(files: SshFiles, host: str) -> dict[str, list[str]]:
    """What OpenSSH makes of the configuration for a host."""
    config = files.directory / "config"
    files.keep(
        config, configuration(files, "qemu+ssh://root@host/system?socket=/run/it's%20there", "lab", ["m1", "m2"])
    )
    said = subprocess.run(["ssh", "-G", "-F", config, host], capture_output=True, text=True, check=True)
    told: dict[str, list[str]] = {}
    for key, _, value in (line.partition(" ") for line in said.stdout.splitlines()):
        told.setdefault(key, []).append(value)
    return told


@pytest.mark.parametrize("host", ["m2", "m2.lab"])
def test_openssh_understands_the_configuration(files: SshFiles, host: str) -> None:
    told = asked(files, host)
    assert told["hostkeyalias"] == [full_name("lab", "m2")] == ["m2.lab"]
    assert told["user"] == ["root"]
    assert told["stricthostkeychecking"] == ["true"]
    assert told["updatehostkeys"] == ["false"]
    assert told["identitiesonly"] == ["yes"]
    assert [Path(p.replace("%%", "%")) for p in told["identityfile"]] == [files.key]
    assert [Path(p.replace("%%", "%")) for p in told["userknownhostsfile"]] == [files.host_key("m2")]


def test_the_proxy_is_told_where_what_and_which(files: SshFiles) -> None:
    (command,) = asked(files, "m1")["proxycommand"]
    said = subprocess.run(
        ["/bin/sh", "-c", f"set -- {command.replace('%%', '%')}; shift 2; printf '%s\\n' \"$@\""],
        capture_output=True,
        text=True,
        check=True,
    )
    uri = "qemu+ssh://root@host/system?socket=/run/it's%20there"
    assert said.stdout.splitlines()[1:] == ["-P", "-m", "labctl.access", str(files.directory), uri, "lab", "m1"]
