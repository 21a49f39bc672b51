"""The certificate authority: who gets a certificate, who trusts it, and what becomes of one that is taken back."""

from __future__ import annotations

import json
import re

import pytest

from labctl.certificates import Enrolment, RevocationReason, current, enrol, issued, revoke

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]


@pytest.fixture
def authority(lab):
    return lab.guest(lab.spec.authority.name)


@pytest.fixture
def member(lab):
    """A node that clients reach over HTTPS."""
    return lab.spec.node(lab.cluster("mail").members[0].node)


def https(client, node, name, *more):
    """A request to one node under a name, and how it ends."""
    argv = ["curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}"]
    return client.run([*argv, "--connect-to", f"::{node.address}:", *more, f"https://{name}/"])


def test_every_node_trusts_the_authority(lab, member):
    fqdn = lab.cluster("mail").fqdn
    for node in lab.spec.nodes:
        done = https(lab.guest(node.name), member, fqdn)
        assert done.text == "200", done


def test_a_member_answers_under_the_clusters_name_and_its_own_and_no_other(lab, client, member):
    for name in (lab.cluster("mail").fqdn, f"autodiscover.{lab.spec.domain}", member.fqdn):
        assert https(client, member, name).text == "200"
    foreign = https(client, member, f"other.{lab.spec.domain}")
    assert foreign.exit_code == 60, foreign  # CURLE_PEER_FAILED_VERIFICATION


def request(client, lab, names, key):
    """Ask the authority for a certificate as an enrolled node would, with that enrolment key."""
    url = f"http://{lab.spec.authority.address}:8888"
    signing = {"default": {"auth_remote": {"remote": "ca", "auth_key": "k"}}}
    config = {"signing": signing, "auth_keys": {"k": {"type": "standard", "key": key}}, "remotes": {"ca": url}}
    csr = {"CN": names[0], "hosts": names, "key": {"algo": "ecdsa", "size": 256}}
    client.write_file("/run/ask/config.json", json.dumps(config).encode())
    client.write_file("/run/ask/csr.json", json.dumps(csr).encode())
    return client.run(["cfssl", "gencert", "-config", "/run/ask/config.json", "/run/ask/csr.json"])


def test_only_who_has_the_enrolment_key_gets_a_certificate_and_only_for_the_labs_names(lab, client, secrets):
    key = secrets.roles["certificate-authority"]["enrolment_key"]
    mine = [f"client.{lab.spec.domain}"]
    assert b"invalid token" in request(client, lab, mine, "00" * 16).stderr
    assert b"does not match policy whitelist" in request(client, lab, ["www.example.org"], key).stderr
    assert b"does not match policy whitelist" in request(client, lab, [*mine, "www.example.org"], key).stderr
    assert b"BEGIN CERTIFICATE" in request(client, lab, mine, key).stdout


def test_nobody_can_sign_without_the_key_or_take_back_over_the_network(lab, client):
    for endpoint in ("sign", "revoke", "newcert", "init_ca"):
        url = f"http://{lab.spec.authority.address}:8888/api/v1/cfssl/{endpoint}"
        assert client.shell(f"curl -s -o /dev/null -w '%{{http_code}}' --data '{{}}' {url}") == "404"


def serial_of(client, node):
    ask = f"openssl s_client -connect {node.address}:443 -servername {node.fqdn} </dev/null 2>/dev/null"
    said = client.shell(f"{ask} | openssl x509 -noout -serial -pubkey")
    return int(re.search(r"serial=(\w+)", said)[1], 16), said.partition("\n")[2]


def check(client, node):
    """Connect as a client that looks up the list of revoked certificates where the certificate says that it is."""
    argv = ["openssl", "s_client", "-connect", f"{node.address}:443", "-servername", node.fqdn, "-crl_check"]
    return client.run([*argv, "-crl_download", "-verify_return_error", "-verify_hostname", node.fqdn])


def test_renewing_keeps_the_key_and_issuing_makes_another_one(lab, client, authority, member):
    serial, key = serial_of(client, member)
    enrol(lab.guest(member.name), Enrolment.RENEW)
    renewed, same_key = serial_of(client, member)
    enrol(lab.guest(member.name), Enrolment.ISSUE)
    another, another_key = serial_of(client, member)
    assert len({serial, renewed, another}) == 3
    assert same_key == key != another_key
    assert current(issued(authority), member.fqdn).serial == str(another)


def test_a_certificate_that_was_taken_back_is_refused_until_there_is_another(lab, client, authority, member):
    before = check(client, member)
    assert b"Verify return code: 0 (ok)" in before.stdout, before
    revoke(authority, current(issued(authority), member.fqdn).serial, RevocationReason.KEY_COMPROMISE)
    try:
        refused = check(client, member)
        assert b"certificate revoked" in refused.stdout + refused.stderr, refused
    finally:
        enrol(lab.guest(member.name), Enrolment.ISSUE)
    after = check(client, member)
    assert b"Verify return code: 0 (ok)" in after.stdout, after
