"""Where clients have to be let down, the run shows that they are, for how long, and that it ends."""

from __future__ import annotations

import pytest
from failover import LIMITS, connect, web

from labctl.checks import (
    affinity_kept,
    claim,
    clients_of,
    fault_confirmed,
    heal_confirmed,
    machines_lived,
    members_agree,
    members_stay,
    no_failures,
    nobody_serves,
    only_affected,
    steady_state_restored,
)
from labctl.checks.faults import injection
from labctl.faults import PowerOff, StopService
from labctl.history import Window

pytestmark = [pytest.mark.lab(topology="micro"), pytest.mark.timeout(600)]

LIMIT = {"limits": LIMITS}
MEMBERS = ["m1", "m2"]
LISTENS_WITHIN_S = 5.0


def test_a_dead_service_on_a_living_host_goes_on_failing_its_clients_as_with_nlb(
    lab, probe, inject, history, watch, verdict
):
    dead = {"fault": "stop-service nginx", "target": "m1"}
    with probe(connect(lab)) as connecting, probe(web(lab)) as serving:
        serving.sample_rounds(1)
        with inject(StopService("m1", "nginx")):
            connecting.sample_rounds(1, at_least_s=2 * lab.cluster().heartbeat.down_after_s)
        serving.sample_rounds(1, at_least_s=LISTENS_WITHIN_S + 3.0)
    seen = history.read()
    theirs = clients_of(seen, "web", "m1", before_s=injection(seen, **dead).at_s)
    verdict(
        claim(fault_confirmed, **dead),
        claim(heal_confirmed, **dead),
        claim(machines_lived),
        claim(members_stay, "web", MEMBERS),
        claim(nobody_serves, "connect", theirs, **dead, **LIMIT),
        claim(only_affected, "web", **dead, **LIMIT),
        claim(steady_state_restored, "web", within_s=LISTENS_WITHIN_S, **dead, **LIMIT),
    ).require_pass()


def test_when_the_last_member_has_died_too_both_serve_again_after_they_started(
    lab, probe, inject, history, watch, verdict
):
    faults = [{"fault": "power-off", "target": member} for member in MEMBERS]
    with probe(connect(lab)) as connecting, probe(web(lab)) as serving:
        serving.sample_rounds(1)
        with inject(*map(PowerOff, MEMBERS)):
            connecting.sample_rounds(2)
        healed_s = lab.clock.now_s()
        lab.wait_converged(60.0)
        settled_s = lab.clock.now_s()
        serving.sample_rounds(2)
    verdict(
        *(claim(fault_confirmed, **fault) for fault in faults),
        *(claim(heal_confirmed, **fault) for fault in faults),
        claim(machines_lived),
        claim(nobody_serves, "connect", **faults[-1], **LIMIT),
        claim(members_agree, "web", MEMBERS, after_s=healed_s, within_s=65.0),
        claim(no_failures, "web", window=Window(from_s=settled_s), **LIMIT),
        claim(affinity_kept, "web", window=Window(from_s=settled_s), **LIMIT),
        claim(steady_state_restored, "web", within_s=max(0.0, settled_s - healed_s) + 1.0, **faults[0], **LIMIT),
    ).require_pass()
