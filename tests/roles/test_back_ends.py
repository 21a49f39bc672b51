"""What users see while the directory or the mailbox server is away: an error soon, and afterwards all is as before."""

from __future__ import annotations

import json

import pytest
from browser import Browser, Unanswered, straight_to
from conftest import Refused

from labctl.clock import Deadline, wait_until
from labctl.faults import Pause

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

SOON_S = 20.0  # eight seconds at most until it is known, and emulated guests on a busy host take some of their own
WORKS_AGAIN_WITHIN_S = 90.0


@pytest.fixture(params=["domain-controller", "mailbox"])
def back_end(request, lab):
    """A server that Client Access servers depend on."""
    return lab.spec.provider(request.param)


@pytest.fixture
def named(lab, back_end):
    """What `/health` has to name, and nothing else: the back ends that are on that machine."""
    roles = {"directory": "domain-controller", "mailbox": "mailbox", "transport": "hub-transport"}
    roles |= {"database": "groupware-store"}
    return {name for name, role in roles.items() if role in back_end.roles}


@pytest.fixture
def server(lab, client):
    """The Client Access server that is asked; it has forgotten who logged in before."""
    found = lab.spec.provider("client-access")
    lab.guest(found.name).shell("systemctl restart memcached")
    return found


def health(client, access, server):
    """The health page of one server, whatever its status."""
    argv = ["curl", "-sS", "--max-time", "60", *straight_to(server), f"https://{access}/health"]
    return json.loads(client.succeed(argv, within_s=90))


def took_s(lab, action):
    """How long an action took, and what it was refused with; nothing where it was not."""
    began_s = lab.clock.now_s()
    try:
        action()
    except (Refused, Unanswered) as refused:
        return lab.clock.now_s() - began_s, str(refused)
    return lab.clock.now_s() - began_s, ""


def test_who_logs_in_while_a_back_end_hangs_is_told_soon_and_gets_in_again_by_himself(
    lab, client, server, back_end, named, user, inject, record_property
):
    access, carol = f"mail.{lab.spec.domain}", user("carol")
    browser = Browser(client, access, carol.name)

    def imap():
        return carol.does("imap_subjects", host=access, at=str(server.address))

    def webmail():
        browser.log_in(carol.password, straight_to(server))
        return browser.inbox(straight_to(server))

    with inject(Pause(back_end.name)):
        for program in (imap, webmail, imap):
            seconds, refused = took_s(lab, program)
            record_property(f"{program.__name__} without {back_end.name} refused after", f"{seconds:.1f} s: {refused}")
            assert refused, f"{program.__name__} works without {back_end.name}"
            assert seconds < SOON_S, f"{program.__name__}: {refused}"
        silent = {name for name, said in health(client, access, server).items() if said != "answers"}
        assert silent == named
    began_s = lab.clock.now_s()

    def works():
        refusals = [took_s(lab, program)[1] for program in (imap, webmail)]
        return (None if any(refusals) else True), "; ".join(filter(None, refusals))

    wait_until(
        f"logins once {back_end.name} is back", works, Deadline.within(WORKS_AGAIN_WITHIN_S, lab.clock), every_s=1
    )
    record_property(f"logins work again, after {back_end.name} is back", f"{lab.clock.now_s() - began_s:.1f} s")
    assert set(health(client, access, server).values()) == {"answers"}
