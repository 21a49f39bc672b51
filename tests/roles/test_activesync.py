"""A phone: provisioned, its folders synced, a mail on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

SCRIPT = "/run/labctl-activesync.py"


def test_a_phone_provisions_itself_syncs_its_folders_and_gets_a_mail(lab, client, user, hub, at):
    client.write_file(SCRIPT, (Path(__file__).parent / "activesync.py").read_bytes())
    owner = user("carol")  # whose mailbox nobody has opened yet: a phone may be all she has
    subject = f"for the phone {client.clock_ns()}"
    user("bob").does("send", host=hub, to=[owner.address], subject=subject)
    asked = {"host": lab.cluster("mail").fqdn, "at": at, "user": owner.name, "password": owner.password}
    asked |= {"device": f"labctl{at.replace('.', '')}", "wanted": subject, "within_s": 90}
    said = client.succeed(["python3", SCRIPT], stdin=json.dumps(asked).encode(), within_s=240)
    seen = json.loads(said)
    assert seen["policy"][0] == "1"  # [MS-ASPROV] 2.2.2.54.2: success
    assert {"INBOX", "Sent", "Trash"} <= set(seen["folders"])
    assert subject in seen["subjects"]
