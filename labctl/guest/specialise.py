"""Give a clone its own identity: name, machine-id, host keys, time zone, addresses, whom it asks for names and time,
and whom it trusts."""

from __future__ import annotations

from pathlib import Path

from labctl.guest.agent import Guest
from labctl.render.scripts import alone
from labctl.render.templates import render_text
from labctl.secrets import Secrets
from labctl.topology.spec import LabSpec, NodeSpec, digest_of

__all__ = ["identity_digest", "specialise"]

_FILES = Path(__file__).parent / "files"
_SCRIPT = "/etc/labctl/specialise"  # stays in the guest, to be read and run again by hand


def identity_digest(lab: LabSpec, node: NodeSpec) -> str:
    """Names all that `specialise` gives a node, but for what is random."""
    root = "(root)" if lab.authority else ""
    return digest_of(_files(lab, node, root), _script(lab, node, "(domain)"))


def specialise(guest: Guest, lab: LabSpec, node: NodeSpec, secrets: Secrets) -> None:
    """Make the guest that node; another domain's name than last time makes machine-id and host keys anew.

    Raises:
        CommandFailed: a step failed in the guest, with what it said.
    """
    files = {**_files(lab, node, secrets.root_certificates), _SCRIPT: (_script(lab, node, guest.domain), 0o755)}
    guest.write_files({path: (text.encode(), mode) for path, (text, mode) in files.items()})
    guest.succeed([_SCRIPT], within_s=120.0)


def _files(lab: LabSpec, node: NodeSpec, root: str) -> dict[str, tuple[str, int]]:
    return {
        "/etc/hostname": (f"{node.name}\n", 0o644),
        "/etc/hosts": (_render("hosts.j2", lab, node), 0o644),
        "/etc/resolv.conf": (_render("resolv.conf.j2", lab, node), 0o644),
        "/etc/krb5.conf": (_render("krb5.conf.j2", lab, node), 0o644),
        "/etc/labctl/chrony.conf": (_render("chrony.conf.j2", lab, node), 0o644),
        "/usr/local/share/ca-certificates/labctl-root.crt": (root, 0o644),
        "/etc/labctl/boot.d/10-network": (_render("network.sh.j2", lab, node), 0o755),
    }


def _script(lab: LabSpec, node: NodeSpec, domain: str) -> str:
    return alone(_render("specialise.sh.j2", lab, node, domain=domain))


def _render(file: str, lab: LabSpec, node: NodeSpec, **more: str) -> str:
    return render_text((_FILES / file).read_text(), file, {"lab": lab, "node": node, **more})
