"""A connection to a daemon that hangs."""

from __future__ import annotations

import socket
from pathlib import Path

import libvirt
import pytest

from labctl.errors import HypervisorError
from labctl.hypervisor.libvirt_calls import open_connection


def test_a_daemon_that_takes_a_connection_and_says_nothing_is_told_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "libvirt-sock"
    uri = f"qemu+unix:///system?socket={path}"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(HypervisorError, match=r"the daemon has said nothing for 0\.5 s") as refused:
            open_connection(uri, within_s=0.5)
    assert refused.value.hint is not None
    assert "restart its daemon" in refused.value.hint


def test_a_daemon_that_is_not_there_is_told_at_once_by_libvirt(tmp_path: Path) -> None:
    with pytest.raises(libvirt.libvirtError, match="Failed to connect socket"):
        open_connection(f"qemu+unix:///system?socket={tmp_path}/nobody")
