"""C14: the Client Access protocols work through the virtual address, before, during and after a failure.

C2: when a member fails, clients go on working and do not learn which member it was; here with mail, of which none is
lost and none comes twice.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from users import LARGE_MIB, LIMITS, Users

from labctl.checks import (
    claim,
    fault_confirmed,
    heal_confirmed,
    machines_lived,
    mail_read_once,
    members_agree,
    members_answer,
    no_failures,
    sessions_kept,
)
from labctl.checks.faults import injection
from labctl.clock import Deadline, wait_until
from labctl.faults import PowerOff
from labctl.history import Sample, Window
from labctl.probes import Mailbox, read_mailbox
from labctl.readiness import wait_ready
from labctl.roles.role import role_checks

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

REJOIN_WITHIN_S = 600.0
STEADY_WITHIN_S = 600.0
SERVES_WITHIN_S = 300.0
DELIVERED_WITHIN_S = 180.0


def one_round(running) -> None:
    """Every client asks once more."""
    for group in running:
        group.sample_rounds(1)


def wait_steady(running, lab, history) -> float:
    """Let every client ask round after round, until one in which nobody is let down; when that one began."""

    def tried() -> tuple[float | None, str]:
        began_s = lab.clock.now_s()
        one_round(running)
        failed = [s for s in history.read().of(Sample) if s.at_s >= began_s and s.failed]
        return (None if failed else began_s), "; ".join(f"{s.probe}: {s.detail}" for s in failed)

    return wait_until("nobody is let down", tried, Deadline.within(STEADY_WITHIN_S, lab.clock), every_s=0.0)


def wait_serves(lab, name) -> None:
    """Wait until a node passes its roles' checks: a member is back in its cluster before its webmail has started."""
    for role, checks in role_checks(lab.spec, lab.spec.node(name)).items():
        wait_ready(lab.guest(name), role, checks, Deadline.within(SERVES_WITHIN_S, lab.clock), print)


def wait_delivered(lab, node) -> None:
    """Wait until nothing is left to deliver, so that no mail can still come, nor come again."""
    hub = node(lab.spec.provider("hub-transport").name)

    def delivered() -> tuple[bool | None, str]:
        said = hub.run("postqueue -p").stdout.strip()
        return (True if said == "Mail queue is empty" else None), said

    wait_until("all mail is delivered", delivered, Deadline.within(DELIVERED_WITHIN_S, lab.clock), every_s=1.0)


def test_c14_and_c2_every_protocol_works_before_during_and_after_a_members_power_off_and_each_mail_is_read_once(
    lab, client, node, secrets, probe, inject, history, watch, verdict
):
    """Two users of each protocol, one with each member. At first requests find a server that has to load its programs,
    after a failure broken connections and lost sessions; then everything has to work, at the same name and address."""
    users = Users(lab, secrets)
    victim, survivor = (m.node for m in users.cluster.members)
    for member in (victim, survivor):
        assert node(member).run(f"truncate -s {LARGE_MIB}M /var/www/labctl/large").rc == 0
    with ExitStack() as stack:
        running = []
        for specs in (users.groupware(), users.mail()):
            running.append(stack.enter_context(probe(*specs)))
            warm_s = wait_steady(running, lab, history)
        stack.enter_context(probe(users.download(survivor)))
        with inject(PowerOff(victim)):
            taken_over_s = wait_steady(running, lab, history)
            one_round(running)
            healing_s = lab.clock.now_s()
        lab.wait_converged(REJOIN_WITHIN_S)
        rejoined_s = lab.clock.now_s()
        wait_serves(lab, victim)
        settled_s = wait_steady(running, lab, history)
        one_round(running)
    wait_delivered(lab, node)
    address, fqdn = str(users.cluster.address.ip), users.cluster.fqdn
    read_mailbox(client, Mailbox("bob", secrets.users["bob"], address, fqdn), history)
    fault = {"fault": PowerOff(victim).kind, "target": victim}
    phases = (
        Window(warm_s, injection(history.read(), **fault).at_s),
        Window(taken_over_s, healing_s),
        Window(from_s=settled_s),
    )
    verdict(
        claim(fault_confirmed, **fault),
        claim(heal_confirmed, **fault),
        claim(machines_lived),
        claim(
            members_agree,
            users.cluster.name,
            [victim, survivor],
            after_s=healing_s,
            within_s=rejoined_s - healing_s + 10,
        ),
        claim(members_answer, "autodiscover", [victim, survivor], window=phases[0], limits=LIMITS),
        *(
            claim(no_failures, p.name, window=phase, limits=LIMITS)
            for p in (*users.groupware(), *users.mail())
            for phase in phases
        ),
        claim(no_failures, "download", limits=LIMITS),
        claim(sessions_kept, "webmail", [users.of_member[survivor]], limits=LIMITS),
        claim(mail_read_once, "submission", limits=LIMITS),
    ).require_pass()
