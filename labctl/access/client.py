"""What OpenSSH's client has to have and to know on this host: the lab's key, and a configuration."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labctl import store
from labctl.access.files import SshFiles, full_name

__all__ = ["configuration", "forget", "keep_files"]


def keep_files(lab: str) -> SshFiles:
    """A lab's SSH files on this host; its key is made when it isn't there."""
    files = _files_of(lab)
    files.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    with store.locked(f"ssh-{lab}", lambda: None):
        if not (files.key.exists() and files.public_key.exists()):
            private, public = _make_key(lab)
            files.keep(files.key, private)
            files.keep(files.public_key, public)
    return files


def _make_key(lab: str) -> tuple[str, str]:
    """A private and a public key, as OpenSSH writes them."""
    key = Ed25519PrivateKey.generate()
    form, no_password = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, form, no_password)
    encoding, public_form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return private.decode(), f"{key.public_key().public_bytes(encoding, public_form).decode()} labctl-{lab}\n"


def forget(lab: str) -> None:
    """Remove a lab's SSH files."""
    directory = _files_of(lab).directory
    if directory.exists():
        shutil.rmtree(directory)


def _files_of(lab: str) -> SshFiles:
    return SshFiles(store.cache_dir() / "ssh" / lab)


def configuration(files: SshFiles, uri: str, lab: str, nodes: Sequence[str]) -> str:
    """An `ssh_config(5)` of the lab: each node under its own name, and under one that no other lab has."""
    return "\n".join(_host(files, uri, lab, node) for node in nodes)


def _host(files: SshFiles, uri: str, lab: str, node: str) -> str:
    """What `ssh_config(5)` wants to know of one node."""
    alias = full_name(lab, node)
    lines = (
        f"HostName {alias}",
        f"HostKeyAlias {alias}",
        "User root",
        f"ProxyCommand {_escaped(shlex.join(_proxy_command(files, uri, lab, node)))}",
        f"IdentityFile {_quoted(files.key)}",
        "Ciphers ^aes128-gcm@openssh.com",  # the quickest, also emulated; nobody listens in
        "IdentitiesOnly yes",
        "IdentityAgent none",
        "PreferredAuthentications publickey",
        f"UserKnownHostsFile {_quoted(files.host_key(node))}",
        "GlobalKnownHostsFile none",
        "StrictHostKeyChecking yes",
        "UpdateHostKeys no",
    )
    return f"Host {alias} {node}\n" + "".join(f"  {line}\n" for line in lines)


def _proxy_command(files: SshFiles, uri: str, lab: str, node: str) -> Sequence[str]:
    """The command whose input and output are a session with the node.

    Without Ctrl-C, and without the SIGHUP that ssh(1) ends its ProxyCommand with: the end of its input is its end, and
    it has a channel to let go of first.
    """
    module = (sys.executable, "-P", "-m", "labctl.access")
    return ("/usr/bin/env", "--ignore-signal=INT,HUP", *module, str(files.directory), uri, lab, node)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(path: Path) -> str:
    return f'"{_escaped(str(path))}"'
