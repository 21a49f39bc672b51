"""What one needs to understand a lab in which something failed: consoles, journals, packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labctl.clock import Deadline
from labctl.errors import LabError
from labctl.guest.agent import Guest
from labctl.lab import Lab, console_tail

__all__ = ["capturing", "gather"]

CAPTURE_BACK_WITHIN_S = 60.0  # a node that was broken meanwhile


def gather(lab: Lab, folder: Path) -> Path:
    """Keep the consoles and journals of a lab in a folder, which is returned; what can't be had says why."""
    for node in lab.spec.nodes:
        for what, get in (("console.log", _console), ("journal.log", _journal)):
            try:
                text = get(lab, node.name)
            except LabError as error:
                text = f"could not be read: {error}\n"
            (folder / f"{node.name}.{what}").write_text(text)
    return folder


def _console(lab: Lab, node: str) -> str:
    return console_tail(lab.hypervisor, lab.name, node, size_bytes=1 << 20)


# A guest without systemd has journalctl all the same, which finds nothing and is content with that.
_JOURNAL = """
if [ -d /run/systemd/system ]; then exec journalctl --merge --no-pager --lines 2000; fi
tail -n 500 /var/log/*.log /var/log/nginx/error.log
"""


def _journal(lab: Lab, node: str) -> str:
    guest = lab.guest(node)
    if why_not := guest.answers():
        return f"not to be had, the guest agent does not answer: {why_not}\n"
    return guest.run(["/bin/sh", "-c", _JOURNAL], within_s=60.0).stdout.decode(errors="replace")


# $1: folder, $2: NIC, $3: what to capture. The folder is the working directory, which tells it from other processes.
# What came last must not wait in a buffer when it is ended.
_CAPTURE = """
mkdir -p "$1" && cd "$1" || exit
setsid nohup tcpdump --immediate-mode -i "$2" -s 200 -c 20000 -U -w "$1/packets" $3 >/dev/null 2>"$1/said" </dev/null &
for _ in $(seq 100); do
    grep -q 'listening on' "$1/said" && exit
    sleep 0.1
done
cat "$1/said" >&2
exit 1
"""
_END_CAPTURE = """
for p in /proc/[0-9]*; do [ "$p/cwd" -ef "$1" ] && kill -INT "${p#/proc/}"; done
for _ in $(seq 100); do
    left=
    for p in /proc/[0-9]*; do [ "$p/cwd" -ef "$1" ] && left=yes; done
    [ -z "$left" ] && exit
    sleep 0.1
done
exit 1
"""


@contextmanager
def capturing(guest: Guest, nic: str, target: Path, what: str = "") -> Iterator[None]:
    """Capture what a NIC sends and receives for the length of a block, into a file that Wireshark reads.

    The first 200 bytes of at most 20,000 frames, kept in the guest's memory meanwhile.

    Args:
        target: here.
        what: a filter, pcap-filter(7).

    Raises:
        CommandFailed: it could not begin, for what tcpdump says.
    """
    folder = f"/run/labctl-capture.{target.name}"
    guest.succeed(["/bin/sh", "-c", _CAPTURE, "sh", folder, nic, what])
    try:
        yield
    finally:
        guest.wait_for_agent(Deadline.within(CAPTURE_BACK_WITHIN_S))
        guest.succeed(["/bin/sh", "-c", _END_CAPTURE, "sh", folder])
        target.write_bytes(guest.read_file(f"{folder}/packets"))
        guest.succeed(["/bin/rm", "-rf", folder])
