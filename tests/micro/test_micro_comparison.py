"""What one has without a cluster: each topology serves, and DNS round robin beside the cluster when a server dies."""

from __future__ import annotations

import pytest
from users import HIT_S, Asked, Load, User

from labctl.clock import Deadline, wait_until
from labctl.faults import PowerOff, injected

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(900)]

SERVERS = {"m1", "m2"}
# An emulated guest on a busy host answers well within that.
LOAD = Load("10.78.1.1", 30, rate_hz=4.0, patience_s=4.0)
CALM_S, DEAD_S = 5.0, 16.0


@pytest.fixture
def brought_up(labs):
    """Brings a shipped topology up for the length of the test."""
    used = []

    def bring_up(topology):
        used.append(topology)
        return labs.get(topology)

    yield bring_up
    for topology in used:
        labs.drop(topology)


def served_by(lab, url, count=8):
    """Who has answered."""
    script = f"for n in $(seq {count}); do curl -sS --fail --max-time 10 {url}; done"
    return {said.removeprefix("served by ") for said in lab.guest("client").shell(script).split("\n")}


def test_an_address_that_moves_is_at_one_server_and_moves_when_its_keepalived_stops(brought_up):
    lab = brought_up("micro-moving-address")
    url = "http://10.78.255.254/"
    (holder,) = served_by(lab, url)
    (other,) = SERVERS - {holder}
    lab.guest(holder).succeed(["sv", "-w", "20", "down", "/etc/labctl/service/keepalived"])

    def moved():
        ran = lab.guest("client").run(["curl", "-sS", "--fail", "--max-time", "5", url])
        return (True if ran.text.strip() == f"served by {other}" else None), ran.text + ran.stderr.decode()

    wait_until(f"{other} serves", moved, Deadline.within(60), every_s=0.5)


def test_a_balancer_gives_requests_to_both_servers_and_to_the_other_one_when_a_service_stops(brought_up):
    lab = brought_up("micro-haproxy")
    assert served_by(lab, "http://10.78.0.20/") == SERVERS
    lab.guest("m1").succeed(["sv", "-w", "20", "down", "/etc/labctl/service/nginx"])

    def out():
        found = served_by(lab, "http://10.78.0.20/")
        return (True if found == {"m2"} else None), str(found)

    wait_until("m1 gets no more requests", out, Deadline.within(60), every_s=0.5)


def when_a_server_dies(lab, host, history, settled) -> dict[str, list[Asked]]:
    """The requests of a user, by what happened meanwhile: the server has died, and all that the scheme does is done."""
    with User(lab.guest("client"), host, LOAD) as user:
        lab.clock.sleep(CALM_S)
        user.phase("dies")
        with injected(PowerOff("m1"), lab.ground(), history):
            settled()
            user.phase("dead")
            lab.clock.sleep(DEAD_S)
            asked = user.asked()
    return {phase: [a for a in asked if a.phase == phase] for phase in ("calm", "dies", "dead")}


def share_failed(asked: list[Asked]) -> float:
    """Of requests whose first try failed."""
    return sum(a.failed_tries > 0 for a in asked) / len(asked)


def longest_s(asked: list[Asked]) -> float:
    return max(a.waited_s for a in asked)


def test_with_dns_round_robin_clients_fail_first_as_long_as_a_server_is_dead_and_with_the_cluster_they_do_not(
    micro, brought_up, history, record_property
):
    def survivor_serves_alone():
        cluster = micro.spec.clusters[0]

        def alone():
            view = micro.look(cluster)
            return (True if view.member("m2").alive == {2} else None), str(view)

        wait_until("m2 serves alone", alone, Deadline.within(60), every_s=0.5)

    cluster = when_a_server_dies(micro, "web.micro.test", history, survivor_serves_alone)
    micro.wait_converged()
    names = brought_up("micro-dns-round-robin")
    assert served_by(names, "http://web.micro.test/", count=24) == SERVERS
    by_dns = when_a_server_dies(names, "web.micro.test", history, lambda: None)

    for what, seen in (("cluster", cluster), ("DNS round robin", by_dns)):
        figures = (
            f"{share_failed(seen['dead']):.0%} of {len(seen['dead'])} requests, up to {longest_s(seen['dead']):.1f} s"
        )
        print(f"{what}: a server is dead: first try failed: {figures}")
        record_property(f"{what}: first try failed while a server is dead", figures)
        assert share_failed(seen["calm"]) < 0.1
        assert len(seen["dead"]) > 0.5 * DEAD_S * LOAD.rate_hz

    assert share_failed(cluster["dead"]) < 0.1
    assert 0.15 < share_failed(by_dns["dead"]) < 0.85  # about half: which address comes first is left to chance
    assert longest_s(by_dns["dead"]) > HIT_S  # until the client's kernel has given up, or its user
    assert {a.who for a in by_dns["dead"] if a.who} == {"m2"}  # whoever tries on is served
