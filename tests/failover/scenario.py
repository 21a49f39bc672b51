"""The scenario that the tests of this folder share: a member of the Client Access array loses power and comes back."""

from __future__ import annotations

from labctl.checks import (
    SamplerLimits,
    Verdict,
    affinity_kept,
    clients_of,
    fault_confirmed,
    heal_confirmed,
    judge,
    members_answer,
    no_failures,
    recovers_within,
    summary,
)
from labctl.clock import Deadline, wait_until
from labctl.faults import PowerOff
from labctl.history import FaultPhase, Window
from labctl.probes.probe import Expect, Kind, Probe

REJOIN_WITHIN_S = 600.0


CLIENTS = 20
# The client is emulated beside the rest of the lab, so it pauses now and then. Intervals are reckoned from when
# requests were really made, so a pause widens what is reported; from so much on the verdict is INCONCLUSIVE.
LIMITS = SamplerLimits(rate_share=0.9, gap_s=4.0, late_share=0.25)


def webmail(lab):
    """HTTPS to the virtual address by its name, certificate checked: who serves whom, and whether anybody fails."""
    cluster = lab.cluster("mail")
    return Probe(
        name="webmail",
        kind=Kind.HTTPS,
        address=str(cluster.address.ip),
        port=443,
        host=cluster.fqdn,
        sources=clients(lab),
        rate_hz=4.0,
        timeout_s=6.0,  # emulated, a TLS handshake takes tenths of a second, and several on a busy host
        late_s=1.0,
        expect=Expect(body=cluster.fqdn),
    )


def connect(lab):
    """Bare connections to the same port from the same clients: cheap, so often, and each speaks of one moment."""
    cluster = lab.cluster("mail")
    return Probe(
        name="connect",
        kind=Kind.TCP,
        address=str(cluster.address.ip),
        port=443,
        sources=clients(lab),
        rate_hz=10.0,
        timeout_s=0.9,
        late_s=0.5,
    )


def clients(lab):
    """Source addresses in the client guest."""
    return tuple(str(a) for a in lab.spec.node("client").nics[0].extra_addresses[:CLIENTS])


def a_member_loses_power_and_comes_back(lab, probe, inject, history) -> Verdict:
    """Power off the first member under load, power it on again, and judge what the clients saw."""
    cluster = lab.cluster("mail")
    victim, survivor = (m.node for m in cluster.members)
    web = webmail(lab)
    with probe(web), probe(connect(lab)):
        sampled_for(lab, history, web, rounds=3)
        with inject(PowerOff(victim)):
            sampled_for(lab, history, web, rounds=3, at_least_s=4 * cluster.heartbeat.down_after_s)
        rejoined_s = converged_at_s(lab)
        sampled_for(lab, history, web, rounds=3)
    return verdict_on(history.read(), cluster, victim, survivor, rejoined_s)


def verdict_on(seen, cluster, victim, survivor, rejoined_s) -> Verdict:
    """What the history of the scenario says."""
    injected = next(e for e in seen.faults("power-off", victim) if e.phase is FaultPhase.INJECTED)
    theirs = clients_of(seen, "webmail", victim, before_s=injected.at_s)
    others = clients_of(seen, "webmail", survivor, before_s=injected.at_s)
    # The outage ends when the last failed connection gives up, 0.9 s after it began. The rest is for the host: members,
    # client and clock are emulated on few cores, and the bound has to tell a broken takeover from a slow one.
    bound_s = cluster.heartbeat.down_after_s + 0.9 + 2.0
    verdict = judge(
        fault_confirmed(seen, "power-off", victim),
        heal_confirmed(seen, "power-off", victim),
        members_answer(seen, "webmail", [victim, survivor], window=Window(until_s=injected.at_s), limits=LIMITS),
        no_failures(seen, "webmail", others, limits=LIMITS),
        recovers_within(seen, "connect", theirs, fault="power-off", target=victim, bound_s=bound_s, limits=LIMITS),
        no_failures(seen, "webmail", theirs, window=Window(from_s=injected.at_s + bound_s), limits=LIMITS),
        members_answer(seen, "webmail", [victim, survivor], window=Window(from_s=rejoined_s), limits=LIMITS),
        affinity_kept(seen, "webmail", others, cluster=cluster.name, limits=LIMITS),
        evidence=seen.path,
    )
    print(summary(verdict))
    return verdict


def sampled_for(lab, history, spec, *, rounds, at_least_s=0.0) -> None:
    """Let the probe go round its clients so many times, as counted by what it has written."""
    began_s = lab.clock.now_s()
    wanted = rounds * len(spec.sources)

    def enough():
        fresh = sum(1 for s in history.read().samples(spec.name) if s.at_s >= began_s)
        done = fresh >= wanted and lab.clock.now_s() >= began_s + at_least_s
        return (True if done else None), f"{fresh} samples"

    wait_until(f"probe {spec.name}: {wanted} samples", enough, Deadline.within(300, lab.clock), every_s=0.5)


def converged_at_s(lab) -> float:
    """Wait until the members all see each other, and return when they did."""
    lab.wait_converged(REJOIN_WITHIN_S)
    return lab.clock.now_s()
