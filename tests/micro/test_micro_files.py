"""Files into a guest and out of it, over its agent."""

from __future__ import annotations

import hashlib
import os

import pytest

from labctl.errors import GuestError, LabError

pytestmark = pytest.mark.lab(topology="micro")


@pytest.mark.parametrize("size_bytes", [0, 1, 128 << 10, (1 << 20) + 1])
def test_a_file_comes_back_as_it_was_sent(guest, size_bytes):
    data = os.urandom(size_bytes)
    guest.write_file("/root/some.file", data)
    assert guest.read_file("/root/some.file") == data


def test_100_mb_arrive_and_come_back_whole(guest, micro, record_property):
    data = os.urandom(100_000_000)
    digest = hashlib.sha256(data).hexdigest()
    began_s = micro.clock.now_s()
    guest.write_file("/var/tmp/large", data)
    arrived_s = micro.clock.now_s()
    assert guest.succeed(["/usr/bin/sha256sum", "/var/tmp/large"]).split()[0] == digest
    summed_s = micro.clock.now_s()
    back = guest.read_file("/var/tmp/large")
    record_property("into the guest", f"{100 / (arrived_s - began_s):.1f} MB/s")
    record_property("out of the guest", f"{100 / (micro.clock.now_s() - summed_s):.1f} MB/s")
    guest.succeed(["/bin/rm", "/var/tmp/large"])
    assert hashlib.sha256(back).hexdigest() == digest


def test_a_file_gets_its_permissions_and_its_directories(guest):
    guest.write_file("/root/a new/directory/für.txt", b"some", mode=0o640)
    assert guest.shell("cd '/root/a new/directory' && stat -c '%a %s %n' * && rm -r '/root/a new'") == "640 4 für.txt"


def test_a_file_can_be_read_from_an_offset(guest):
    guest.write_file("/root/digits", b"0123456789")
    assert guest.read_file("/root/digits", offset=7) == b"789"
    assert guest.read_file("/root/digits", offset=10) == b""


def test_a_file_that_is_not_there_is_named(guest):
    with pytest.raises(GuestError, match=r"client: .*/nowhere.*No such file"):
        guest.read_file("/nowhere")


def test_a_file_that_can_not_be_written_leaves_nothing_behind(guest):
    guest.shell("rm -rf /root/taken && mkdir -p /root/taken/inner")
    with pytest.raises(LabError, match="/root/taken"):
        guest.write_file("/root/taken", b"some")
    assert guest.shell("ls -A /root/taken; rm -r /root/taken; ls -d /root/*.labctl-new 2>/dev/null || true") == "inner"


def test_many_files_are_written_in_one_go(guest):
    files = {f"/root/many/{n}/file": (os.urandom(n * 100), 0o600 + n % 8) for n in range(40)}
    guest.write_files(files)
    assert {path: guest.read_file(path) for path in list(files)[::8]} == {p: files[p][0] for p in list(files)[::8]}
    modes = guest.shell("cd /root/many && stat -c '%n %a' */file; rm -r /root/many").splitlines()
    assert sorted(modes) == sorted(f"{path.removeprefix('/root/many/')} {mode:o}" for path, (_, mode) in files.items())
