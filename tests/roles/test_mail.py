"""Mail from user to user: submission, delivery, IMAP, POP3, groups, quotas, answers while away, and what is refused."""

from __future__ import annotations

import time

import pytest
from conftest import Refused

from labctl.clock import Deadline, wait_until

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

ARRIVES_WITHIN_S = 60


@pytest.fixture
def subject():
    """A subject that no other test and no earlier run has; short, so that no server folds it."""
    return f"mail {time.time_ns()}"


def test_a_mail_from_one_user_is_read_by_another_over_imap_and_pop3(user, hub, store, subject):
    alice, bob = user("alice"), user("bob")
    alice.does("send", host=hub, to=[bob.address], subject=subject)
    assert subject in bob.does("imap_subjects", host=store, wanted=subject, within_s=ARRIVES_WITHIN_S)
    assert subject in bob.does("pop3_subjects", host=store)


def test_mail_to_a_group_reaches_its_members_and_nobody_else(lab, user, hub, store, subject):
    group = lab.spec.groups[0]
    user("carol").does("send", host=hub, to=[f"{group.name}@{lab.spec.domain}"], subject=subject)
    for name in group.members:
        assert subject in user(name).does("imap_subjects", host=store, wanted=subject, within_s=ARRIVES_WITHIN_S)
    others = {u.name for u in lab.spec.users} - set(group.members)
    assert not any(subject in user(name).does("imap_subjects", host=store) for name in others)


@pytest.mark.parametrize(
    ("to", "login", "says"),
    [
        ("x@example.org", "alice", "Relay access denied"),
        ("nobody@contoso.test", "alice", "User unknown"),
        ("bob@contoso.test", "bob", "not owned by user"),
    ],
    ids=["to another domain", "to nobody", "in another's name"],
)
def test_a_mail_that_must_not_go_is_refused_with_the_reason(user, hub, to, login, says):
    alice = user("alice")
    with pytest.raises(Refused, match=says):
        alice.does("send", host=hub, to=[to], subject="no", password=user(login).password, login=login)


def test_nobody_relays_without_a_password_either(user, hub):
    with pytest.raises(Refused, match="Relay access denied"):
        user("alice").does("send", host=hub, port=25, password="", to=["x@example.org"], subject="no")


def test_a_wrong_password_opens_nothing(user, hub, store):
    alice = user("alice")
    with pytest.raises(Refused, match=r"authentication failed|Authentication"):
        alice.does("send", host=hub, to=[alice.address], subject="no", password="wrong")
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        alice.does("imap_subjects", host=store, password="wrong")


def test_no_password_is_taken_in_clear(user, store):
    with pytest.raises(Refused, match=r"PRIVACYREQUIRED|LOGINDISABLED"):
        user("alice").does("login_in_clear", host=store)


def test_mail_waits_in_the_queue_while_the_store_is_off_also_over_a_restart(lab, node, user, hub, store, subject):
    alice, bob = user("alice"), user("bob")
    host = node(lab.spec.provider("mailbox").name)
    assert host.run("systemctl stop dovecot").rc == 0
    try:
        # Users log in to the store's own account check, so what comes meanwhile comes from another server.
        alice.does("send", host=hub, port=25, password="", to=[bob.address], subject=subject)
        assert host.run("postqueue -p").stdout.count(bob.address) == 1
        assert host.run("systemctl restart postfix").rc == 0
        assert host.run("postqueue -p").stdout.count(bob.address) == 1
    finally:
        assert host.run("systemctl start dovecot").rc == 0
    assert subject in bob.does("imap_subjects", host=store, wanted=subject, within_s=120)


def test_a_full_mailbox_takes_no_more_and_says_so(lab, user, hub, store, subject):
    small = min(lab.spec.users, key=lambda u: u.quota_mib)
    carol = user(small.name)
    assert f"{small.quota_mib << 10})" in carol.does("imap_quota", host=store)
    alice, body = user("alice"), "\r\n".join(["x" * 76] * (small.quota_mib * 14000))
    before = alice.does("imap_subjects", host=store, sender="MAILER-DAEMON")
    alice.does("send", host=hub, to=[carol.address], subject=subject, body=body)

    def told():
        reports = alice.does("imap_subjects", host=store, sender="MAILER-DAEMON")
        return (True if len(reports) > len(before) else None), f"reports: {reports}"

    wait_until("a report that the mail was not taken", told, Deadline.within(ARRIVES_WITHIN_S, lab.clock), every_s=1)
    assert subject not in carol.does("imap_subjects", host=store)


AWAY = """require ["vacation"];
vacation :days 1 :subject "Away: {subject}" "I am on holiday.";
"""


def test_who_is_away_answers_by_a_script_of_his_own(lab, user, subject, at):
    through = {"host": lab.cluster("mail").fqdn, "at": at}
    alice, bob = user("alice"), user("bob")
    bob.does("sieve", **through, script=AWAY.format(subject=subject))
    try:
        alice.does("send", **through, to=[bob.address], subject="where are you?")
        away = f"Away: {subject}"
        found = alice.does("imap_subjects", **through, wanted=away, within_s=ARRIVES_WITHIN_S)
    finally:
        bob.does("sieve", **through, script="")
    assert away in found
