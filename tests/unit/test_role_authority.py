"""What the certificate authority knows when another machine takes its place: the rendered script, run here."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from lab_bench import lab_spec, node_spec

from labctl.roles.role import load_role, render_role, wanted_secrets
from labctl.secrets import Secrets

LAB = lab_spec(node_spec("dc", 1, roles=("certificate-authority",)))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the script defines; its folders are here, and a cfssl that signs anything."""
    secrets = Secrets().completed(wanted_secrets(LAB), (), LAB.domain)
    source = render_role(load_role("certificate-authority"), LAB, LAB.node("dc"), secrets).files[
        "/usr/local/sbin/labctl-ca"
    ]
    text = source[0].decode().replace("/var/lib/labctl-ca", str(tmp_path / "data"))
    (tmp_path / "issuing.pem").write_text("PEM")
    cfssl = tmp_path / "bin" / "cfssl"
    cfssl.parent.mkdir()
    cfssl.write_text("#!/bin/sh\necho c2lnbmVk\n")
    cfssl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{cfssl.parent}:/usr/bin:/bin")
    names: dict[str, Any] = {"__name__": "ca"}
    exec(text.replace("/etc/labctl/ca", str(tmp_path)), names)
    return names


def put(database: Path, **statuses: str) -> None:
    """Certificates by serial number, with their statuses."""
    with sqlite3.connect(database) as known:
        for serial, status in statuses.items():
            row = (serial, "aki", "", status, 0, None, None, "pem", None, None, None, "[]", "cn")
            known.execute(f"INSERT INTO certificates VALUES ({', '.join('?' * len(row))})", row)
    known.close()


def statuses(database: Path) -> dict[str, str]:
    known = sqlite3.connect(database)
    found = dict(known.execute("SELECT serial_number, status FROM certificates"))
    known.close()
    return found


def test_a_new_authority_begins_with_an_empty_list(script: dict[str, Any]) -> None:
    script["init"]()
    assert statuses(script["DATA"] / "certificates.db") == {}


def test_a_successor_knows_what_was_issued_and_revoked_and_publishes_it(script: dict[str, Any], tmp_path: Path) -> None:
    script["init"]()
    mine, handed_over = script["DATA"] / "certificates.db", script["HANDED_OVER"]
    handed_over.write_bytes(mine.read_bytes())
    put(handed_over, old="good", bad="revoked", both="revoked")
    put(mine, new="good", both="good")
    script["init"]()
    assert statuses(mine) == {"old": "good", "bad": "revoked", "both": "revoked", "new": "good"}
    assert (tmp_path / "data" / "pki" / "issuing.crl").read_bytes() == b"signed"
    script["init"]()
    assert len(statuses(mine)) == 4
