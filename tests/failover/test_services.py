"""What serves breaks while its machine lives, and what the Client Access servers themselves depend on."""

from __future__ import annotations

import pytest
from users import Users

from labctl.checks import (
    SamplerLimits,
    claim,
    fault_confirmed,
    heal_confirmed,
    machines_lived,
    no_failures,
    nobody_serves,
    nobody_waits,
    only_affected,
)
from labctl.checks.faults import injection
from labctl.clock import Deadline, wait_until
from labctl.faults import CertificateExpired, Pause, StopService
from labctl.history import Sample, Window
from labctl.probes import Kind

pytestmark = [pytest.mark.lab(topology="exchange2007"), pytest.mark.timeout(1800)]

# Emulated, on a busy host, a login takes seconds; a program of the year gives up after a minute or two.
SOON_S = 30.0
PATIENCE_S = 45.0
LIMITS = SamplerLimits(rate_share=0.5, gap_s=30.0, late_share=0.5)
BACK_WITHIN_S = 180.0
IN_A_ROW = 3  # logins that work, until nothing of the hang is left


@pytest.fixture
def users(lab, secrets):
    return Users(lab, secrets)


@pytest.mark.parametrize(
    ("breaks", "told"),
    [(lambda node: StopService(node, "nginx"), "refused"), (CertificateExpired, "wrong")],
    ids=["service dead", "certificate expired"],
)
def test_a_members_service_breaks_while_its_host_lives_and_its_clients_are_told_at_once_and_the_others_notice_nothing(
    lab, users, probe, inject, history, watch, verdict, breaks, told
):
    """As with NLB, which does not look at services: the member's clients go on failing until it is mended."""
    victim, survivor = (m.node for m in users.cluster.members)
    theirs = [users.of_member[victim]]
    fault = breaks(victim)
    named = {"fault": fault.kind, "target": fault.target}
    with probe(users.probe("web", Kind.HTTPS, 443, rate_hz=0.5, timeout_s=20.0)) as running:
        running.sample_rounds(2)
        with inject(fault):
            running.sample_rounds(3)
        healed_s = lab.clock.now_s()
        running.sample_rounds(2)
    seen = history.read()
    verdict(
        claim(fault_confirmed, **named),
        claim(heal_confirmed, **named),
        claim(machines_lived),
        claim(no_failures, "web", window=Window(until_s=injection(seen, **named).at_s), limits=LIMITS),
        claim(nobody_serves, "web", theirs, **named, limits=LIMITS),
        claim(only_affected, "web", **named, limits=LIMITS),
        claim(nobody_waits, "web", bound_s=SOON_S, limits=LIMITS),
        claim(no_failures, "web", window=Window(from_s=healed_s), limits=LIMITS),
    ).require_pass()
    failed = [s for s in seen.of(Sample) if s.failed]
    assert {str(s.outcome) for s in failed} == {told}
    assert told == "refused" or all("certificate has expired" in s.detail for s in failed), failed
    assert {s.member for s in seen.samples("web", [users.of_member[survivor]])} == {survivor}


def processes(node, names) -> str:
    """What runs, so that one sees whether anything was started anew."""
    return "".join(node(name).run("pgrep -o -a -x 'dovecot|nginx|master|sogod'").stdout for name in names)


@pytest.mark.parametrize("role", ["domain-controller", "mailbox"], ids=["the directory", "the mailbox server"])
def test_a_back_end_hangs_and_users_are_told_soon_and_served_again_without_a_restart(
    lab, node, users, probe, inject, history, watch, verdict, role
):
    """What a hang of the machine shows, a power-off would show too: nothing answers there, not even with a refusal."""
    fault = Pause(lab.spec.provider(role).name)
    named = {"fault": fault.kind, "target": fault.target}
    members = [m.node for m in users.cluster.members]
    before = processes(node, members)
    imap = users.probe("imap", Kind.IMAPS, 993, "bob", rate_hz=0.2, timeout_s=PATIENCE_S)
    with probe(imap) as running:
        running.sample_rounds(1)
        with inject(fault):
            running.sample_rounds(1)
        healed_s = lab.clock.now_s()

        def served() -> tuple[bool | None, str]:
            last = history.read().samples("imap", window=Window(from_s=healed_s))[-IN_A_ROW:]
            steady = len(last) == IN_A_ROW and all(s.good for s in last)
            return (True if steady else None), ", ".join(s.detail for s in last)

        wait_until("logins work again", served, Deadline.within(BACK_WITHIN_S, lab.clock), every_s=1.0)
        served_s = lab.clock.now_s()
        running.sample_rounds(1)
    verdict(
        claim(fault_confirmed, **named),
        claim(heal_confirmed, **named),
        claim(machines_lived),
        claim(no_failures, "imap", window=Window(until_s=injection(history.read(), **named).at_s), limits=LIMITS),
        claim(nobody_waits, "imap", bound_s=SOON_S, limits=LIMITS),
        claim(no_failures, "imap", window=Window(from_s=served_s), limits=LIMITS),
    ).require_pass()
    assert processes(node, members) == before
