"""The directory: names, tickets, accounts and time, as other nodes see them."""

from __future__ import annotations

import re

import pytest

from labctl.clock import Deadline, wait_until

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]


def test_every_node_resolves_every_other_forward_and_reverse_through_the_directory(lab):
    pairs = [(n.fqdn, str(n.address)) for n in lab.spec.nodes]
    pairs += [(c.fqdn, str(c.address.ip)) for c in lab.spec.clusters]
    script = "".join(f"getent ahostsv4 {name}; getent hosts {address}; " for name, address in pairs)
    for node in lab.spec.nodes:
        said = lab.guest(node.name).shell(f"cat /etc/resolv.conf; {script}")
        assert f"nameserver {lab.spec.directory.address}" in said
        for name, address in pairs:
            assert re.search(rf"^{re.escape(address)} +STREAM {re.escape(name)}$", said, re.MULTILINE), said
            assert re.search(rf"^{re.escape(address)} +{re.escape(name)}( |$)", said, re.MULTILINE), said


def test_the_names_for_mail_are_the_virtual_address(lab, client):
    virtual = str(lab.cluster("mail").address.ip)
    for label in ("mail", "autodiscover"):
        assert client.shell(f"getent ahostsv4 {label}.{lab.spec.domain}").split()[0] == virtual


@pytest.mark.parametrize(
    ("kind", "name", "answer"),
    [
        ("SRV", "_kerberos._udp", "0 100 88 {directory}."),
        ("SRV", "_ldap._tcp", "0 100 389 {directory}."),
        ("SRV", "_autodiscover._tcp", "0 100 443 autodiscover.{domain}."),
        ("SRV", "_submission._tcp", "0 100 587 mail.{domain}."),
        ("MX", "", "10 {hub}."),
    ],
)
def test_services_are_found_by_name(lab, client, hub, kind, name, answer):
    asked = f"{name}.{lab.spec.domain}".lstrip(".")
    expected = answer.format(directory=lab.spec.directory.fqdn, domain=lab.spec.domain, hub=hub)
    assert client.shell(f"dig +short {asked} {kind}") == expected


def test_a_name_that_is_not_there_is_told_at_once(client, lab):
    assert "status: NXDOMAIN" in client.shell(f"dig +tries=1 +timeout=5 nobody.{lab.spec.domain}; true")


def test_a_user_gets_a_ticket_with_his_password_and_with_no_other(lab, client, user):
    alice, realm = user("alice"), lab.spec.domain.upper()
    client.shell(f"kdestroy -q; echo {alice.password} | kinit alice")
    assert f"krbtgt/{realm}@{realm}" in client.shell("klist")
    refused = client.run(["/bin/sh", "-c", "kdestroy -q; echo wrong | kinit alice"])
    assert refused.exit_code == 1
    assert b"Password incorrect" in refused.stderr


def search(client, lab, who, ask, *, uri="ldaps"):
    base = ",".join(f"dc={label}" for label in lab.spec.domain.split("."))
    argv = ["ldapsearch", "-LLL", "-x", "-o", "nettimeout=20", "-H", f"{uri}://{lab.spec.directory.fqdn}"]
    return client.run([*argv, "-D", who.address, "-w", who.password, "-b", f"cn=users,{base}", *ask])


def test_users_and_groups_are_those_of_the_topology(lab, client, user):
    alice = user("alice")
    found = search(client, lab, alice, ["(mail=*)", "mail"])
    assert found.exit_code == 0, found.stderr
    mails = set(re.findall(r"^mail: (\S+)$", found.text, re.MULTILINE))
    names = [*(u.name for u in lab.spec.users), *(g.name for g in lab.spec.groups), "administrator"]
    assert mails == {f"{name}@{lab.spec.domain}" for name in names}
    for group in lab.spec.groups:
        said = search(client, lab, alice, [f"(sAMAccountName={group.name})", "member"]).text
        assert set(re.findall(r"^member: CN=([^,]+),", said, re.MULTILINE)) == set(group.members)


def test_no_password_goes_over_the_wire_in_clear(lab, client, user):
    refused = search(client, lab, user("alice"), ["(cn=x)"], uri="ldap")
    assert b"Strong(er) authentication required" in refused.stderr


def test_all_nodes_keep_the_directorys_time(lab):
    directory = str(lab.spec.directory.address)
    for node in lab.spec.nodes:
        if node.name == lab.spec.directory.name:
            continue

        def kept(name=node.name):
            fields = lab.guest(name).shell("chronyc -n -c tracking").split(",")
            right = fields[1] == directory and abs(float(fields[4])) < 0.5
            return (True if right else None), f"reference {fields[1]}, off by {fields[4]} s"

        wait_until(f"{node.name} keeps the time of {directory}", kept, Deadline.within(120, lab.clock), every_s=1)


def test_with_a_clock_that_is_off_nobody_is_trusted_until_it_is_set_right_again(lab, client):
    ask = ["curl", "-sS", "-o", "/dev/null", "--max-time", "20", f"https://{lab.cluster('mail').fqdn}/"]
    client.shell("systemctl stop chrony && date --set=@$(($(date +%s) - 3 * 366 * 86400))")
    try:
        refused = client.run(ask)
        assert b"certificate is not yet valid" in refused.stderr, refused
    finally:
        client.shell("systemctl start chrony")

    def trusted():
        done = client.run(ask)
        return (True if done.exit_code == 0 else None), done.stderr.decode().strip()

    wait_until("a certificate that is valid, once the clock is", trusted, Deadline.within(120, lab.clock), every_s=1)


def test_roles_applied_twice_change_nothing(lab):
    for node in lab.spec.nodes:
        guest = lab.guest(node.name)
        services = "cfssl samba dovecot master nginx sogod postgres"
        look = f"for s in {services}; do pgrep -o -x -a $s; done\n"
        if node.name == lab.spec.directory.name:
            look += "ldbsearch -H /var/lib/samba/private/sam.ldb -b '' -s base highestCommittedUSN | grep USN"
        before = guest.shell(f"{look}\ntrue")
        for role in node.roles:
            guest.succeed([f"/etc/labctl/roles/{role}"], within_s=120)
        assert guest.shell(f"{look}\ntrue") == before
