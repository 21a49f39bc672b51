"""Who owns each client, at every instant, while members of three come and go: sampled by datagrams from 60 clients.

Each must be answered by exactly one member, but for the windows that are stated here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from failover import LIMITS, connect, web

from labctl.checks import (
    answered_once,
    answered_twice_until,
    claim,
    clients_of,
    fault_confirmed,
    heal_confirmed,
    machines_lived,
    members_agree,
    members_answer,
    members_stay,
    no_failures,
    only_affected,
    recovers_within,
    steady_state_restored,
)
from labctl.checks.faults import injection, phase_after
from labctl.clock import Deadline, wait_until
from labctl.cluster.control import Control, Order, give
from labctl.cluster.ownership import owner_of
from labctl.errors import GuestError
from labctl.faults import Partition, Pause, PowerOff, StopService, injected
from labctl.history import FaultPhase, Window
from labctl.probes.probe import Expect, Kind, Probe

HERE = Path(__file__).parent
GUEST = HERE / "guest"

pytestmark = [pytest.mark.lab(topology=str(HERE / "three.yaml")), pytest.mark.timeout(900)]

FIRST, COUNT, RATE_HZ, PORT = IPv4Address("10.78.1.1"), 60, 50, 7
FOLDER = "/run/sample"
# Three emulated guests share few cores: what one says reaches the others so much later at worst.
SLOW_S = 1.0
SETTLE_S = 2.0
# What comes later is no answer: a guest that was paused answers, when it goes on, what has queued in its NIC.
IN_TIME_S = 1.5


@dataclass
class Seen:
    """What was sampled while something happened.

    Attributes:
        unanswered, doubled: when, by client; seconds on the sampling guest's clock.
        owners: who alone has answered each client, in order.
    """

    count: int = 0
    unanswered: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    doubled: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))


def lasted_s(times: dict[int, list[float]]) -> float:
    """From the first to the last, of all clients."""
    found = [at_s for of_one in times.values() for at_s in of_one]
    return max(found) - min(found) if found else 0.0


class Sampler:
    """Samples in the client guest from its start to `seen`."""

    def __init__(self, client, history_path):
        self._client, self._kept = client, history_path
        client.shell(f"rm -rf {FOLDER}; mkdir {FOLDER}; echo -n before >{FOLDER}/phase")
        client.write_file(f"{FOLDER}/sample.py", (GUEST / "sample.py").read_bytes())
        arguments = f"10.78.0.20 {PORT} {FIRST} {COUNT} {RATE_HZ} {FOLDER}"
        client.shell(
            f"setsid python3 {FOLDER}/sample.py {arguments} >{FOLDER}/log 2>&1 </dev/null &\necho $! >{FOLDER}/pid"
        )

    def phase(self, name: str) -> None:
        self._client.shell(f"echo -n {name} >{FOLDER}/new-phase && mv {FOLDER}/new-phase {FOLDER}/phase")

    def seen(self) -> dict[str, Seen]:
        self._client.shell(f"touch {FOLDER}/end")

        def there():
            try:
                return self._client.read_file(f"{FOLDER}/samples"), ""
            except GuestError as not_yet:
                return None, f"{not_yet}; {self._client.shell(f'cat {FOLDER}/log')}"

        said = wait_until("the samples", there, Deadline.within(60), every_s=0.5)
        self._kept.write_bytes(said)
        found: dict[str, Seen] = defaultdict(Seen)
        for line in said.decode().splitlines():
            at_s, phase, client, answers = json.loads(line)
            who = [member for member, after_s in answers if after_s < IN_TIME_S]
            found[phase].count += 1
            if not who:
                found[phase].unanswered[client].append(at_s)
            elif len(who) > 1:
                found[phase].doubled[client].append(at_s)
            else:
                found[phase].owners[client].append(who[0])
        return found

    def end(self) -> None:
        self._client.shell(f"kill $(cat {FOLDER}/pid) 2>/dev/null; rm -rf {FOLDER}")


# It listens before the heartbeat begins: that a service comes up later than its host is another matter.
ECHO = """#!/bin/sh
listens() {{ ss -Huln "sport = {port}" | grep -q .; }}
listens && exit
setsid python3 /root/echo.py {address} {port} {name} </dev/null >/dev/null 2>&1 &
for _ in $(seq 300); do listens && exit; sleep 0.1; done
exit 1
"""


@pytest.fixture
def three(lab):
    """The lab of three members, on each of which something answers datagrams, also after a boot."""
    cluster = lab.spec.clusters[0]
    for member in cluster.members:
        step = ECHO.format(address=cluster.address.ip, port=PORT, name=member.node)
        guest = lab.guest(member.node)
        guest.write_file("/root/echo.py", (GUEST / "echo.py").read_bytes())
        guest.write_file("/etc/labctl/boot.d/30-echo", step.encode(), mode=0o755)
        guest.shell("/etc/labctl/boot.d/30-echo; sync")
    return lab


@contextmanager
def sampling(lab, evidence_dir) -> Iterator[Sampler]:
    sampler = Sampler(lab.guest("client"), evidence_dir / "samples.jsonl")
    try:
        yield sampler
    finally:
        sampler.end()


def predicted(lab, serving: set[int]) -> dict[int, str]:
    """Who should answer each client, by `ownership`."""
    cluster = lab.spec.clusters[0]
    rule = next(r for r in cluster.port_rules if r.first_port == PORT)
    names = {m.priority: m.node for m in cluster.members}
    return {
        number: names[owner_of(cluster, rule, FIRST + number, 40000 + number, lambda _rule: serving) or 0]
        for number in range(COUNT)
    }


def test_every_client_has_exactly_one_owner_through_a_members_death_and_return_drain_and_hang(
    three, evidence_dir, history, record_property
):
    lab, ground, cluster = three, three.ground(), three.spec.clusters[0]
    beat = cluster.heartbeat

    with sampling(lab, evidence_dir) as sampler:
        lab.clock.sleep(4)
        sampler.phase("power-off")
        with injected(PowerOff("m1"), ground, history):
            lab.clock.sleep(beat.down_after_s + SETTLE_S)
            sampler.phase("dead")
            lab.clock.sleep(4)
            sampler.phase("return")
        lab.wait_converged(90)
        lab.clock.sleep(SETTLE_S)
        sampler.phase("drain")
        give(cluster, lab.members(cluster), Order(Control.DRAIN, ("m1",), cluster.port_rules))
        lab.clock.sleep(SETTLE_S)
        sampler.phase("drained")
        lab.clock.sleep(4)
        sampler.phase("enable")
        give(cluster, lab.members(cluster), Order(Control.ENABLE, ("m1",), cluster.port_rules))
        lab.clock.sleep(SETTLE_S)
        sampler.phase("hang")
        with injected(Pause("m1"), ground, history):
            lab.clock.sleep(beat.down_after_s + SETTLE_S)
            sampler.phase("resume")
        lab.wait_converged(30)
        lab.clock.sleep(SETTLE_S)
        sampler.phase("after")
        lab.clock.sleep(4)
        seen = sampler.seen()

    everyone, without = predicted(lab, {1, 2, 3}), predicted(lab, {2, 3})
    mine = {client for client, owner in everyone.items() if owner == "m1"}
    print({name: (s.count, dict(s.unanswered), dict(s.doubled)) for name, s in seen.items()})
    for phase in ("power-off", "hang"):
        record_property(f"{phase}: gap", f"{lasted_s(seen[phase].unanswered):.2f} s")
    record_property("resume: two owners", f"{lasted_s(seen['resume'].doubled):.2f} s")

    # Who owns whom, when nothing happens: exactly the member that labctl names.
    for phase, owners in (("before", everyone), ("dead", without), ("drained", without), ("after", everyone)):
        assert dict(seen[phase].unanswered) == {}, phase
        assert dict(seen[phase].doubled) == {}, phase
        assert {c: set(who) for c, who in seen[phase].owners.items()} == {c: {who} for c, who in owners.items()}, phase
    # The dead member's clients, and they alone, wait for the heartbeat's bound. Nobody is answered twice, but for what
    # queued in the NIC of a paused member just before it went on.
    for phase in ("power-off", "hang"):
        assert set(seen[phase].unanswered) <= mine
        assert lasted_s(seen[phase].unanswered) <= beat.down_after_s + SLOW_S
    assert dict(seen["power-off"].doubled) == {}
    assert set(seen["hang"].doubled) <= mine
    assert lasted_s(seen["hang"].doubled) <= IN_TIME_S
    # A member that comes back, drains or is enabled hands over within one message.
    for phase in ("return", "drain", "enable"):
        assert set(seen[phase].unanswered) | set(seen[phase].doubled) <= mine, phase
        assert lasted_s(seen[phase].unanswered) <= SLOW_S, phase
        assert lasted_s(seen[phase].doubled) <= SLOW_S, phase
    # One that does not know that it was away answers beside the others until its next heartbeat.
    assert set(seen["resume"].doubled) <= mine
    assert lasted_s(seen["resume"].doubled) <= beat.period_ms / 1000 + SLOW_S


def asking(lab) -> Probe:
    """Datagrams from many clients, and who all answers each of them."""
    sources = tuple(str(FIRST + number) for number in range(30))
    address = str(lab.spec.clusters[0].address.ip)
    expect = Expect(member=r"(\S+)$")
    patient = {"timeout_s": 2.0, "late_s": 1.0}
    return Probe("owners", Kind.UDP, address, PORT, sources=sources, expect=expect, linger=True, **patient)


APART = {
    "both ways": Partition((("m1",), ("m2", "m3")), heartbeat_only=True),
    "one way": Partition((("m2", "m3"), ("m1",)), one_way=True, heartbeat_only=True),
}


@pytest.mark.parametrize("partition", APART.values(), ids=APART.keys())
def test_members_that_do_not_hear_each_other_both_answer_and_nobody_does_twice_once_they_do(
    partition, three, probe, inject, history, watch, verdict
):
    cluster, apart = three.spec.clusters[0], {"fault": "partition", "target": partition.target}
    members = [m.node for m in cluster.members]
    with probe(asking(three)) as running:
        running.sample_rounds(3)
        with inject(partition):
            running.sample_rounds(3, at_least_s=cluster.heartbeat.down_after_s + 3.0)
        healed_s = three.clock.now_s()
        three.wait_converged(30)
        settled_s = three.clock.now_s()
        running.sample_rounds(3)
    begun = injection(history.read(), **apart)
    verdict(
        claim(fault_confirmed, **apart),
        claim(heal_confirmed, **apart),
        claim(machines_lived),
        claim(answered_once, "owners", window=Window(until_s=begun.at_s), limits=LIMITS),
        claim(
            answered_twice_until, "owners", within_s=cluster.heartbeat.period_ms / 1000 + SLOW_S, **apart, limits=LIMITS
        ),
        claim(no_failures, "owners", limits=LIMITS),
        claim(members_agree, "web", members, after_s=healed_s, within_s=35.0),
        claim(answered_once, "owners", window=Window(from_s=settled_s + SLOW_S), limits=LIMITS),
        claim(members_answer, "owners", members, window=Window(from_s=settled_s), limits=LIMITS),
    ).require_pass()


def test_a_member_whose_service_dies_loses_that_rule_alone_and_its_clients_go_to_the_others_until_it_is_back(
    three, probe, inject, history, watch, verdict
):
    cluster, dead = three.spec.clusters[0], {"fault": "stop-service nginx", "target": "m1"}
    members, limits = [m.node for m in cluster.members], {"limits": LIMITS}
    (rule,) = (r for r in cluster.port_rules if r.health)
    spread = {3: dict.fromkeys(members, 20), 2: dict.fromkeys(members[1:], 30)}

    def wait_owned(count):
        wanted = {"80/tcp": spread[count], "7/udp": spread[3]}

        def probe():
            found = three.look(cluster).owned
            return (True if found == wanted else None), str(found)

        wait_until(f"80/tcp is served by {count} members", probe, Deadline.within(30), every_s=0.2)

    with probe(connect(three)) as connecting, probe(web(three)) as serving:
        wait_owned(3)
        serving.sample_rounds(1)
        with inject(StopService("m1", "nginx")):
            wait_owned(2)
            assert [m.node for m in three.look(cluster).members if m.fails(rule)] == ["m1"]
            out_s = three.clock.now_s() + SLOW_S
            connecting.sample_rounds(2, at_least_s=2 * SLOW_S)
            serving.sample_rounds(2)
        wait_owned(3)
        back_s = three.clock.now_s()
        serving.sample_rounds(3, at_least_s=2 * SLOW_S)  # each client once SLOW_S is over
    seen = history.read()
    begun = injection(seen, **dead)
    healed_s = phase_after(seen, begun, FaultPhase.HEALED).at_s
    # The service may die just after a check, so that only the next one sees it; the others learn it by heartbeat.
    checked_s = (rule.health.fall + 1) * rule.health.interval_s
    bound_s = checked_s + cluster.heartbeat.period_ms / 1000 + SLOW_S
    theirs = clients_of(seen, "web", "m1", before_s=begun.at_s)
    verdict(
        claim(fault_confirmed, **dead),
        claim(heal_confirmed, **dead),
        claim(machines_lived),
        claim(members_stay, cluster.name, members),
        claim(recovers_within, "connect", theirs, bound_s=bound_s, **dead, **limits),
        claim(only_affected, "web", **dead, **limits),
        claim(members_answer, "web", members[1:], window=Window(out_s, healed_s), **limits),
        claim(no_failures, "web", window=Window(from_s=healed_s), **limits),
        claim(steady_state_restored, "web", within_s=back_s - healed_s + SLOW_S, **dead, **limits),
    ).require_pass()
