"""What one needs to understand a lab in which something failed: each node's console and journal."""

from __future__ import annotations

from pathlib import Path

from labctl.errors import LabError
from labctl.lab import Lab, console_tail

__all__ = ["gather"]


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
