"""What a Client Access server gives to users' programs, through the virtual address and from one server alone."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from browser import Browser, curl, straight_to
from conftest import Refused

from labctl.clock import Deadline, wait_until

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

OUTLOOK = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
PHONE = "http://schemas.microsoft.com/exchange/autodiscover/mobilesync/responseschema/2006"
ASKS = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"


@pytest.fixture
def access(lab):
    """The one name of the Client Access array."""
    return lab.cluster("mail").fqdn


@pytest.fixture
def via(one_server):
    """Where requests go: curl's arguments."""
    return straight_to(one_server) if one_server else []


def test_plain_http_and_the_old_name_of_webmail_lead_to_webmail(client, access):
    shown = ["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"]
    assert curl(client, [], f"http://{access}/owa", *shown) == f"301 https://{access}/owa"
    assert curl(client, [], f"https://{access}/owa", *shown) == f"302 https://{access}/SOGo/"


def test_the_health_page_names_every_back_end(client, via, access):
    health = json.loads(curl(client, via, f"https://{access}/health"))
    assert set(health) == {"directory", "mailbox", "transport", "database", "webmail"}
    assert set(health.values()) == {"answers"}


def test_a_user_logs_in_to_webmail_and_reads_what_another_sent(client, via, access, user, hub):
    alice, bob, browser = user("alice"), user("bob"), Browser(client, access, "alice")
    subject, body = f"for webmail {client.clock_ns()}", f"by {len(via)} at {client.clock_ns()}"
    bob.does("send", host=hub, to=[alice.address], subject=subject, body=body)
    browser.log_in(alice.password, via)

    def arrived():
        mails = browser.mails(via)
        return mails.get(subject), str(sorted(mails))

    number = wait_until("the mail in webmail", arrived, Deadline.within(60), every_s=1)
    shown = browser.read(number, via)
    assert body in shown
    assert bob.address in shown


def test_webmail_refuses_a_wrong_password(client, via, access):
    asked = json.dumps({"userName": "alice", "password": "wrong"})
    argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", *via, "--data", asked]
    done = client.run([*argv, "-H", "Content-Type: application/json", f"https://{access}/SOGo/connect"])
    assert done.text == "403"


def test_the_address_book_holds_the_directorys_users(lab, client, via, access, user):
    alice = user("alice")
    body = (
        '<C:addressbook-query xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:carddav"><D:prop><D:getetag/>'
        '<C:address-data/></D:prop><C:filter><C:prop-filter name="FN"><C:text-match>b</C:text-match></C:prop-filter>'
        "</C:filter></C:addressbook-query>"
    )
    url = f"https://{access}/SOGo/dav/alice/Contacts/directory/"
    asked = ["-u", f"alice:{alice.password}", "-X", "REPORT", "-H", "Depth: 1", "-H", "Content-Type: application/xml"]
    said = curl(client, via, url, *asked, "--data", body)
    assert "FN:Bob Brown" in said
    assert f"bob@{lab.spec.domain}" in said


def test_submission_imap_pop3_and_sieve_go_through_the_access_servers(user, access, at):
    alice, bob = user("alice"), user("bob")
    subject = f"through the access servers {alice.client.clock_ns()}"
    alice.does("send", host=access, at=at, to=[bob.address], subject=subject)
    assert subject in bob.does("imap_subjects", host=access, at=at, wanted=subject, within_s=60)
    assert subject in bob.does("pop3_subjects", host=access, at=at)
    bob.does("sieve", host=access, at=at, script="keep;\r\n")
    bob.does("sieve", host=access, at=at, script="")
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        bob.does("imap_subjects", host=access, at=at, password="wrong")
    with pytest.raises(Refused, match="Relay access denied"):
        bob.does("send", host=access, at=at, to=["x@example.org"], subject="no")
    with pytest.raises(Refused, match="not owned by user"):
        bob.does("send", host=access, at=at, sender=alice.address, login="bob", to=[bob.address], subject="no")


def discover(client, via, lab, address, schema):
    body = (
        f'<Autodiscover xmlns="{ASKS}"><Request><EMailAddress>{address}</EMailAddress>'
        f"<AcceptableResponseSchema>{schema}</AcceptableResponseSchema></Request></Autodiscover>"
    )
    url = f"https://autodiscover.{lab.spec.domain}/autodiscover/autodiscover.xml"
    return ElementTree.fromstring(curl(client, via, url, "-H", "Content-Type: text/xml", "--data", body))


def test_what_autodiscover_answers_works(lab, client, via, user):
    alice = user("alice")
    found = {}
    for protocol in discover(client, via, lab, alice.address, OUTLOOK).iter(f"{{{OUTLOOK}}}Protocol"):
        fields = {element.tag.rpartition("}")[2]: element.text for element in protocol}
        found[fields["Type"]] = fields
    subject = f"as Autodiscover says {alice.client.clock_ns()}"
    smtp, imap = found["SMTP"], found["IMAP"]
    login = smtp["LoginName"]
    alice.does("send", host=smtp["Server"], port=int(smtp["Port"]), login=login, to=[alice.address], subject=subject)
    login = imap["LoginName"]
    assert subject in alice.does("imap_subjects", host=imap["Server"], user=login, wanted=subject, within_s=60)


def test_a_phone_is_led_to_activesync_and_a_stranger_nowhere(lab, client, via, access, user):
    phone = discover(client, via, lab, user("alice").address, PHONE)
    assert phone.find(f".//{{{PHONE}}}Url").text == f"https://{access}/Microsoft-Server-ActiveSync"
    stranger = discover(client, via, lab, "alice@example.org", OUTLOOK)
    assert stranger.find(f".//{{{OUTLOOK}}}ErrorCode").text == "500"


def test_thunderbird_finds_the_same_servers(client, via, access):
    said = curl(client, via, f"https://{access}/mail/config-v1.1.xml")
    assert re.findall(r"<hostname>(.*?)</hostname>", said) == [access, access, access]


def test_a_webmail_session_is_with_the_member_that_began_it_and_with_no_other(lab, client, access, user):
    first, second = (straight_to(lab.spec.node(m.node)) for m in lab.cluster("mail").members)
    browser = Browser(client, access, "bob")
    browser.log_in(user("bob").password, first)
    assert browser.inbox(first)
    assert browser.inbox(second) is None


MEETING = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//labctl//EN
BEGIN:VEVENT
UID:{uid}
DTSTAMP:20300107T000000Z
DTSTART:{day}T090000Z
DTEND:{day}T103000Z
SUMMARY:private matter
END:VEVENT
END:VCALENDAR
"""
WHEN_FREE = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//labctl//EN
METHOD:REQUEST
BEGIN:VFREEBUSY
UID:{uid}-asked
DTSTAMP:20300107T000000Z
DTSTART:{day}T000000Z
DTEND:{day}T235900Z
ORGANIZER:mailto:{asks}
ATTENDEE:mailto:{asked}
END:VFREEBUSY
END:VCALENDAR
"""


def test_a_meeting_in_one_users_calendar_shows_him_busy_to_another_and_not_why(client, via, access, user):
    """As a calendar program asks (RFC 6638, 5): by a request to its own outbox, which is the user's calendar."""
    alice, bob = user("alice"), user("bob")
    now_s = client.clock_ns() // 10**9
    uid, day = f"labctl-{now_s}", f"2030{now_s % 12 + 1:02d}{now_s // 12 % 28 + 1:02d}"

    def calendar(who, method, path, text, *more):
        sent = ["-u", f"{who.name}:{who.password}", "-X", method, "-H", "Content-Type: text/calendar", *more]
        return curl(client, via, f"https://{access}/SOGo/dav/{who.name}/Calendar/{path}", *sent, "--data-binary", text)

    asked = WHEN_FREE.format(uid=uid, day=day, asks=bob.address, asked=alice.address).replace("\n", "\r\n")
    parties = ["-H", f"Originator: mailto:{bob.address}", "-H", f"Recipient: mailto:{alice.address}"]
    calendar(alice, "PUT", f"personal/{uid}.ics", MEETING.format(uid=uid, day=day).replace("\n", "\r\n"))
    try:
        said = calendar(bob, "POST", "personal/", asked, *parties)
        assert re.search(rf"FREEBUSY;(FBTYPE=BUSY[^:]*):{day}T090000Z/{day}T103000Z", said), said
        assert "private matter" not in said
    finally:
        calendar(alice, "DELETE", f"personal/{uid}.ics", "")
    assert f"{day}T090000Z" not in calendar(bob, "POST", "personal/", asked, *parties)
