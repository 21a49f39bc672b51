"""A member loses power: its clients come back within the bound, the others notice nothing."""

from __future__ import annotations

import pytest
from scenario import takeover

from labctl.checks import Result

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]


def test_both_members_serve_and_each_client_stays_with_one(lab, client):
    cluster = lab.cluster("mail")
    sources = [str(a) for a in lab.spec.node("client").nics[0].extra_addresses[:60]]
    ask = f'curl -sS --max-time 10 -o /dev/null -D - --interface "$source" https://{cluster.fqdn}/'
    member = r"s/^x-labctl-member: *\([a-z0-9]*\).*/\1/Ip"
    once = f"$({ask} | sed -n '{member}')"
    script = f"for source in {' '.join(sources)}; do echo $source {once} {once}; done"
    answers = [line.split() for line in client.shell(script, within_s=600).splitlines()]
    assert [a[0] for a in answers] == sources
    assert all(len(a) == 3 and a[1] == a[2] for a in answers), answers
    assert {a[1] for a in answers} == {m.node for m in cluster.members}


def test_the_members_run_what_they_should(lab, node):
    for member in lab.cluster("mail").members:
        host = node(member.node)
        assert host.service("nginx").is_running
        assert host.service("nginx").is_enabled
        assert host.service("keepalived").is_running
        assert host.socket("tcp://0.0.0.0:443").is_listening
        assert host.interface(member.nic).exists
        assert str(lab.cluster("mail").address.ip) in host.interface(member.nic).addresses


def test_a_member_loses_power_and_comes_back(lab, probe, inject, history, watch, verdict):
    takeover(lab).run(lab, probe, inject, history, verdict).require_pass()


def test_the_scenario_fails_when_the_victim_was_no_member_beforehand(lab, node, probe, inject, history, watch, verdict):
    """Its keepalived is off, so nobody is its client, and a power-off that hits nobody proves nothing."""
    victim = lab.cluster("mail").members[0].node
    assert node(victim).run("systemctl stop keepalived").rc == 0
    # It is enabled all the same, so that the node that is powered on again is a member again.
    found = takeover(lab).run(lab, probe, inject, history, verdict)
    assert found.result is Result.FAIL
    assert any(f"{victim} answered none of" in f.reason for f in found.findings if f.result is Result.FAIL)


def test_the_scenario_fails_when_the_survivor_drops_what_it_should_take_over(
    lab, node, probe, inject, history, watch, verdict
):
    """Its packet filter knows its own buckets only, so nobody serves the dead member's clients."""
    cluster = lab.cluster("mail")
    victim, survivor = cluster.members
    host, file = node(survivor.node), f"/etc/labctl/cluster/{cluster.name}.nft"
    # The file's rules are sorted by port, and not all of them hash the same: the one for the port that is asked.
    _, _, https = host.file(file).content_string.partition("chain rule_443_tcp {")
    first_preference = next(line.strip() for line in https.splitlines() if "jhash" in line)
    rule = f"tcp dport 443 {first_preference} meta mark {victim.priority} counter drop"
    broken = host.run("nft insert rule ip %s decide %s", f"labctl_{cluster.name}", rule)
    assert broken.rc == 0, broken.stderr
    try:
        found = takeover(lab).run(lab, probe, inject, history, verdict)
    finally:
        mended = host.run("nft -f %s", file)
    assert mended.rc == 0, mended.stderr
    reasons = {f.check: f.reason for f in found.findings if f.result is Result.FAIL}
    assert any("the outage lasted" in reason for reason in reasons.values()), reasons
    # And the sabotage hit nobody else: the survivor's own clients were served throughout.
    assert not any("is felt by no client but those of" in check for check in reasons), reasons
