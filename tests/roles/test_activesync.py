"""A phone: provisioned, its folders synced, a mail on it."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]


def test_a_phone_provisions_itself_syncs_its_folders_and_gets_a_mail(lab, client, user, hub, at):
    owner = user("carol")  # whose mailbox nobody has opened yet: a phone may be all she has
    subject = f"for the phone {client.clock_ns()}"
    user("bob").does("send", host=hub, to=[owner.address], subject=subject)
    device = f"labctl{at.replace('.', '')}"
    seen = owner.does("phone", host=lab.cluster("mail").fqdn, at=at, device=device, wanted=subject, within_s=90)
    assert seen["policy"][0] == "1"  # [MS-ASPROV] 2.2.2.54.2: success
    assert {"INBOX", "Sent", "Trash"} <= set(seen["folders"])
    assert subject in seen["subjects"]
