"""OpenSSH's ProxyCommand: a session with a node on standard input and output.

A program of its own, and not a command of `labctl`, since each ssh, scp and rsync waits for it: it loads a third of
what those need. Its last words, if any, are shown by ssh.
"""

from __future__ import annotations

import sys
from pathlib import Path

from labctl.access.channel import open_session, pass_bytes
from labctl.access.files import SshFiles, full_name
from labctl.errors import LabError
from labctl.guest.agent import Guest
from labctl.hypervisor.libvirt_api import connect
from labctl.process import end_in_order
from labctl.render.names import domain_name


def main(directory: str, uri: str, lab: str, node: str) -> None:
    """Be that session."""
    files = SshFiles(Path(directory))
    hypervisor = connect(uri)
    guest = Guest(hypervisor, node, domain_name(lab, node))
    with open_session(hypervisor, guest, files.public_key.read_text().strip()) as session:
        # Before sshd's first byte gets through: what ssh checks it against is there then, and is that of this machine.
        files.keep(files.host_key(node), f"{full_name(lab, node)} {session.host_key}\n")
        pass_bytes(session.stream, sys.stdin.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    end_in_order()
    try:
        main(*sys.argv[1:])
    except LabError as error:
        sys.exit(f"labctl: {error}")
