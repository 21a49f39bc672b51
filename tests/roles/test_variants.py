"""The variants of the lab: each is brought up, looked at as its clients see it, and gone before the next one comes.

They begin with the layers of `exchange2007` where nothing differs, so they are quick where that was up before. That lab
is taken down first, since guests that idle still take time from those that work.
"""

from __future__ import annotations

import json

import pytest
from browser import Browser, Unanswered, curl, straight_to

from labctl.clock import Deadline, wait_until
from labctl.faults import PowerOff

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="class")
def brought_up(request, labs):
    """The lab of a class's marker, for as long as its tests take."""
    topology = request.node.get_closest_marker("lab").kwargs["topology"]
    for other in list(labs.labs):
        labs.drop(other)
    yield labs.get(topology)
    labs.drop(topology)


@pytest.fixture
def lab(brought_up):
    """In place of the plugin's own, which stays up until the end."""
    return brought_up


@pytest.fixture
def access(lab):
    """The one name by which users find it all."""
    return f"mail.{lab.spec.domain}"


@pytest.fixture
def servers(lab):
    """The Client Access servers."""
    return [node for node in lab.spec.nodes if "client-access" in node.roles]


class EachVariant:
    """What holds of all of them."""

    def test_users_find_their_mail_by_the_one_name(self, lab, user, access):
        alice, bob = user("alice"), user("bob")
        subject = f"in {lab.name} {alice.client.clock_ns()}"
        alice.does("send", host=access, to=[bob.address], subject=subject)
        assert subject in bob.does("imap_subjects", host=access, wanted=subject, within_s=60)

    def test_every_server_reaches_its_back_ends_and_lets_users_into_webmail(self, client, user, access, servers):
        carol = user("carol")
        for server in servers:
            via = straight_to(server)
            assert set(json.loads(curl(client, via, f"https://{access}/health")).values()) == {"answers"}
            browser = Browser(client, access, carol.name)
            assert browser.log_in(carol.password, via) == server.name
            assert browser.inbox(via)

    def test_clients_are_spread_over_the_servers(self, lab, client, access, servers):
        """By plain HTTP, which leads to HTTPS: cheap, and each answer says who gave it."""
        sources = " ".join(str(a) for a in client_addresses(lab)[:24])
        ask = 'curl -sS -o /dev/null -w "%header{X-Labctl-Member}\\n" --max-time 20 --interface "$source"'
        members = client.shell(f"for source in {sources}; do {ask} http://{access}/; done", within_s=300).split()
        assert len(members) == 24
        assert set(members) == {server.name for server in servers}


def client_addresses(lab):
    return lab.spec.provider("client").nics[0].extra_addresses


@pytest.mark.lab(topology="exchange2007-small")
class TestSmall(EachVariant):
    def test_it_has_a_machine_less(self, lab):
        directory = lab.spec.directory
        assert lab.spec.provider("mailbox") == lab.spec.provider("hub-transport") == directory
        assert len(lab.status()) == 4


@pytest.mark.lab(topology="exchange2007-one-nic")
class TestOneNic(EachVariant):
    def test_a_session_ends_with_its_server_and_the_user_logs_in_at_the_other(
        self, lab, client, user, access, servers, inject
    ):
        """One NIC carries the heartbeat and all else, and that a member died is noticed all the same."""
        assert [len(server.nics) for server in servers] == [1, 1]
        bob = user("bob")
        browser = Browser(client, access, bob.name)
        member = browser.log_in(bob.password)
        assert browser.inbox()
        with inject(PowerOff(member)):

            def answered():
                try:
                    return (browser.inbox(),), ""
                except Unanswered as refused:
                    return None, str(refused)

            shown = wait_until(f"an answer after {member} died", answered, Deadline.within(120, lab.clock), every_s=1)
            assert shown == (None,)  # the page to log in at
            assert browser.log_in(bob.password) != member
            assert browser.inbox()


@pytest.mark.lab(topology="exchange2007-dns-round-robin")
class TestDnsRoundRobin(EachVariant):
    def test_the_name_has_the_address_of_each_server_and_they_take_turns(self, client, access, servers):
        answers = [client.shell(f"dig +short +tries=2 {access} A").split() for _ in range(16)]
        addresses = {str(server.address) for server in servers}
        assert all(set(answer) == addresses for answer in answers), answers
        assert {answer[0] for answer in answers} == addresses, answers

    def test_a_shared_session_goes_on_at_another_server_and_a_forged_one_nowhere(self, client, user, access, servers):
        """Whoever asks again may be led to another server each time, so the topology shares sessions."""
        first, second = (straight_to(server) for server in servers)
        bob = user("bob")
        browser = Browser(client, access, bob.name)
        browser.log_in(bob.password, first)
        assert browser.inbox(first)
        assert browser.inbox(second)
        client.shell(f"sed -i 's/basic%20..../basic%20XXXX/' {browser.jar}")
        assert browser.inbox(second) is None
