"""What members are told under load, and that one with other rules than those that serve is not let in."""

from __future__ import annotations

import dataclasses

import pytest
from failover import LIMITS, connect, kept, web

from labctl.checks import (
    claim,
    clients_of,
    connections_kept,
    fault_confirmed,
    heal_confirmed,
    interrupted_at_most,
    machines_lived,
    members_answer,
    no_failures,
)
from labctl.clock import Deadline, wait_until
from labctl.cluster.membership import MemberState
from labctl.cluster.render import member_files
from labctl.errors import GuestError, LabError
from labctl.faults import Reset
from labctl.history import Window
from labctl.topology.spec import Affinity

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

LIMIT = {"limits": LIMITS}
MEMBERS = ["m1", "m2"]


def test_a_member_is_drained_enabled_suspended_and_started_under_load(lab, cluster, probe, history, watch, verdict):
    """A drain lets nobody down, nor does a return; a stop those who were connected, and the others for a heartbeat."""
    begun, done = [], []
    bound_s = cluster.spec.heartbeat.period_ms / 1000 + connect(lab).timeout_s + 2.0

    def told(verb, port=""):
        begun.append(lab.clock.now_s())
        cluster.tell(verb, "m1", port=port)
        done.append(lab.clock.now_s())
        history.note(f"m1 was told to {verb}")
        keeping.sample_rounds(1)

    with probe(kept(lab)) as keeping, probe(connect(lab)), probe(web(lab)):
        keeping.sample_rounds(2)
        told("drain", port="80")
        told("enable", port="80")
        told("suspend")
        with pytest.raises(GuestError, match="it is suspended, and ignores all but resume"):
            cluster.tell("start", "m1")
        cluster.tell("resume", "m1")
        assert cluster.look().state_of(cluster.look().member("m1")) is MemberState.STOPPED
        told("start")
    draining_s, enabling_s, suspending_s, starting_s = begun
    drained_s, _, suspended_s, started_s = done
    seen = history.read()
    others = [s for s in kept(lab).sources if s not in clients_of(seen, "kept", "m1", before_s=suspending_s)]
    settled = cluster.spec.heartbeat.period_ms / 1000 + 0.5
    verdict(
        claim(machines_lived),
        claim(members_answer, "web", MEMBERS, window=Window(until_s=draining_s), **LIMIT),
        claim(members_answer, "web", ["m2"], window=Window(drained_s + settled, enabling_s), **LIMIT),
        claim(members_answer, "web", ["m2"], window=Window(suspended_s + settled, starting_s), **LIMIT),
        claim(members_answer, "web", MEMBERS, window=Window(started_s), **LIMIT),
        claim(no_failures, "web", window=Window(until_s=suspending_s), **LIMIT),
        claim(connections_kept, "kept", window=Window(until_s=suspending_s), **LIMIT),
        claim(connections_kept, "kept", others, **LIMIT),
        claim(interrupted_at_most, "connect", bound_s=bound_s, window=Window(suspending_s, starting_s), **LIMIT),
        claim(no_failures, "web", window=Window(started_s), **LIMIT),
        claim(connections_kept, "kept", window=Window(started_s), **LIMIT),
    ).require_pass()


@pytest.fixture
def other_rules(lab, cluster):
    """m1 is stopped, and has other rules than m2: each connection of a client is for itself."""
    cluster.tell("stop", "m1")
    (rule,) = cluster.spec.port_rules
    changed = dataclasses.replace(cluster.spec, port_rules=(dataclasses.replace(rule, affinity=Affinity.NONE),))
    path, guest = f"/etc/labctl/cluster/{cluster.spec.name}.nft", lab.guest("m1")
    files = member_files(dataclasses.replace(lab.spec, clusters=(changed,)), lab.spec.node("m1"))
    guest.write_file(path, files[path][0].encode())
    guest.succeed(["/usr/sbin/nft", "--file", path])
    guest.succeed(["/bin/sync"])
    yield
    guest.write_file(path, member_files(lab.spec, lab.spec.node("m1"))[path][0].encode())
    guest.succeed(["/usr/sbin/nft", "--file", path])


def test_a_member_with_other_rules_may_not_start_and_one_that_boots_with_them_is_kept_out(
    lab, cluster, other_rules, probe, inject, history, watch, verdict
):
    reset = {"fault": "reset", "target": "m1"}

    def refused():
        view = cluster.look()
        state = view.state_of(view.member("m1"))
        return (view.why(view.member("m1")) if state is MemberState.REFUSED else None), str(state)

    with probe(web(lab)) as serving:
        with pytest.raises(LabError, match=r"the members' rules differ: m1 has \w{8}, m2 has \w{8}; expected the same"):
            cluster.tell("start", "m1")
        serving.sample_rounds(1)
        with inject(Reset("m1")):
            pass
        assert wait_until("m1 is refused", refused, Deadline.within(60), every_s=0.5) == "its rules are not those of m2"
        serving.sample_rounds(1, at_least_s=2 * cluster.spec.heartbeat.down_after_s)
        assert refused()[0]
    verdict(
        claim(fault_confirmed, **reset),
        claim(heal_confirmed, **reset),
        claim(members_answer, "web", ["m2"], **LIMIT),
        claim(no_failures, "web", **LIMIT),
    ).require_pass()
