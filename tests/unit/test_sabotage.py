"""A test of the tests: each sabotage of a run that is fine is found by the check meant for it, for the right reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from test_checks import ALIVE, DEAD, END_S, FAULT_S, POWER_OFF, dies, history, owner, sampled

from labctl.checks import (
    Claim,
    Finding,
    Result,
    affinity_kept,
    answered_once,
    claim,
    connections_kept,
    fault_confirmed,
    heal_confirmed,
    judge,
    machines_lived,
    mail_read_once,
    members_agree,
    members_answer,
    members_stay,
    no_failures,
    nobody_waits,
    only_affected,
    recovers_unaided,
    recovers_within,
    sampler_healthy,
    sessions_kept,
    steady_state_restored,
)
from labctl.history import (
    Event,
    FaultEvent,
    FaultPhase,
    History,
    MachineEvent,
    MailboxEvent,
    MembershipEvent,
    Outcome,
    Sample,
    SamplerEvent,
    SamplerKind,
    Window,
)

HEALED_S, REJOINED_S = 18.0, 20.0
POWER = {"fault": "power-off", "target": "m1"}
BEFORE, AFTER = Window(until_s=FAULT_S), Window(from_s=REJOINED_S)


def fine(source: str, at_s: float) -> tuple[Outcome, str | None]:
    """m1 dies, m2 takes its clients over within half a second, and they go back when m1 has rejoined."""
    if at_s >= REJOINED_S:
        return Outcome.OK, owner(source)
    return dies(0.5)(source, at_s)


def fine_run() -> list[Event]:
    """What a run leaves in which everything is as it should be."""
    heal = [
        FaultEvent(HEALED_S, "power-off", "m1", FaultPhase.HEALED),
        FaultEvent(HEALED_S + 1.0, "power-off", "m1", FaultPhase.HEAL_CONFIRMED, "its agent answers"),
    ]
    seen = [
        *(MembershipEvent(0.1, "web", member, ("m1", "m2")) for member in ("m1", "m2")),
        MembershipEvent(FAULT_S + 0.5, "web", "m2", ("m2",)),
        *(MembershipEvent(REJOINED_S - 0.5, "web", member, ("m1", "m2")) for member in ("m1", "m2")),
    ]
    machines = [
        *(MachineEvent(0.0, node, "running") for node in ("m1", "m2", "client")),
        MachineEvent(FAULT_S + 0.2, "m1", "shut off"),
        MachineEvent(HEALED_S + 0.2, "m1", "running"),
    ]
    kept = [
        dataclasses.replace(e, connection=1, mail=f"web.{e.number}") if isinstance(e, Sample) else e
        for e in sampled(fine)
    ]
    accepted = [e.mail for e in kept if isinstance(e, Sample) and e.good]
    unknown = [e.mail for e in kept if isinstance(e, Sample) and not e.good]
    read = MailboxEvent(END_S + 5.0, "bob", (*accepted, *unknown[:3]))
    return [*kept, *POWER_OFF, *heal, *seen, *machines, read]


CLAIMS: tuple[Claim, ...] = (
    claim(fault_confirmed, **POWER),
    claim(heal_confirmed, **POWER),
    claim(machines_lived),
    claim(sampler_healthy, "web"),
    claim(members_answer, "web", ["m1", "m2"], window=BEFORE),
    claim(members_stay, "web", ["m1", "m2"], window=BEFORE),
    claim(no_failures, "web", window=BEFORE),
    claim(only_affected, "web", **POWER),
    claim(recovers_within, "web", DEAD, bound_s=1.0, **POWER),
    claim(recovers_unaided, "web", **POWER),
    claim(members_agree, "web", ["m1", "m2"], after_s=HEALED_S, within_s=5.0),
    claim(affinity_kept, "web", cluster="web"),
    claim(steady_state_restored, "web", within_s=2.0, **POWER),
    claim(answered_once, "web"),
    claim(connections_kept, "web", ALIVE),
    claim(sessions_kept, "web"),
    claim(nobody_waits, "web", bound_s=0.5, window=BEFORE),
    claim(mail_read_once, "web"),
)

Run = Sequence[Event]


def samples(change: Callable[[Sample], Sample | None]) -> Callable[[Run], Run]:
    """A sabotage of single requests; None leaves one out."""

    def sabotage(run: Run) -> Run:
        changed = (change(e) if isinstance(e, Sample) else e for e in run)
        return [e for e in changed if e is not None]

    return sabotage


def without(unwanted: Callable[[Event], bool]) -> Callable[[Run], Run]:
    return lambda run: [e for e in run if not unwanted(e)]


def also(*events: Event) -> Callable[[Run], Run]:
    return lambda run: [*run, *events]


def failing(sample: Sample, outcome: Outcome = Outcome.TIMEOUT) -> Sample:
    return dataclasses.replace(sample, outcome=outcome, member=None)


def mailbox(change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Callable[[Run], Run]:
    """A sabotage of what lies in the mailbox."""
    return lambda run: [
        dataclasses.replace(e, mails=change(e.mails)) if isinstance(e, MailboxEvent) else e for e in run
    ]


def is_phase(event: Event, phase: FaultPhase) -> bool:
    return isinstance(event, FaultEvent) and event.phase is phase


@dataclass(frozen=True)
class Sabotage:
    """What is done to the run, the check that must find it, with what result and in which words."""

    what: str
    do: Callable[[Run], Run]
    found_by: str
    result: Result
    words: str


FAIL, UNSURE = Result.FAIL, Result.INCONCLUSIVE
ONE = ALIVE[3]
SABOTAGES = (
    Sabotage(
        "a member drops one bucket",
        samples(lambda s: failing(s) if s.source == ONE and s.at_s < FAULT_S else s),
        "no request of 20 clients",
        FAIL,
        f"10 failed: 10 timeout; the first at .* from {ONE}",
    ),
    Sabotage(
        "two owners of one bucket",
        samples(lambda s: dataclasses.replace(s, answers=2) if s.source == ONE else s),
        "no request is answered twice",
        FAIL,
        f"from {ONE}, 2 answers",
    ),
    Sabotage(
        "the probe sends nothing",
        samples(lambda _s: None),
        "the sampler kept its plan",
        UNSURE,
        "probe web has no sample",
    ),
    Sabotage(
        "the sampler stalls for 2 s",
        samples(lambda s: None if 12.0 <= s.at_s < 14.0 else s),
        "the sampler kept its plan",
        UNSURE,
        "requests of the plan have no outcome",
    ),
    Sabotage(
        "the sampler says that it stalled",
        also(SamplerEvent(12.0, "web", SamplerKind.STALLED, "no sign of life for 3.1 s", lasted_s=3.1)),
        "the sampler kept its plan",
        UNSURE,
        "the sampler stalled: no sign of life",
    ),
    Sabotage(
        "the sampler dies",
        without(lambda e: isinstance(e, SamplerEvent) and e.kind is SamplerKind.ENDED),
        "the sampler kept its plan",
        UNSURE,
        "has not said that it ended",
    ),
    Sabotage(
        "the fault takes no effect",
        lambda run: [
            dataclasses.replace(e, phase=FaultPhase.UNCONFIRMED) if is_phase(e, FaultPhase.CONFIRMED) else e
            for e in run
        ],
        "power-off of m1 took effect",
        UNSURE,
        "not seen in effect",
    ),
    Sabotage(
        "nobody looks whether the fault took effect",
        without(lambda e: is_phase(e, FaultPhase.CONFIRMED)),
        "power-off of m1 took effect",
        UNSURE,
        "nobody looked",
    ),
    Sabotage(
        "the heal doesn't",
        lambda run: [
            dataclasses.replace(e, phase=FaultPhase.HEAL_FAILED, detail="still off")
            if is_phase(e, FaultPhase.HEAL_CONFIRMED)
            else e
            for e in run
        ],
        "power-off of m1 was healed",
        FAIL,
        "the heal failed: still off",
    ),
    Sabotage(
        "an affinity is broken",
        samples(lambda s: dataclasses.replace(s, member="m1") if s.source == ONE and 4.0 <= s.at_s < 5.0 else s),
        "each client stays with its member",
        FAIL,
        f"the first: {ONE} from m2 to m1",
    ),
    Sabotage(
        "a wrong certificate is told",
        samples(lambda s: failing(s, Outcome.WRONG) if s.source == ONE and s.at_s < FAULT_S else s),
        "no request of 20 clients",
        FAIL,
        "10 failed: 10 wrong",
    ),
    Sabotage(
        "the survivor resets its own clients",
        samples(lambda s: failing(s, Outcome.RESET) if s.source == ONE and 11.0 <= s.at_s < 12.0 else s),
        "is felt by no client but those of m1",
        FAIL,
        f"1 clients of others failed; the first: {ONE}",
    ),
    Sabotage(
        "the survivor breaks a connection and takes it up again",
        samples(lambda s: dataclasses.replace(s, connection=2) if s.source == ONE and s.at_s > 12.0 else s),
        "the connections of 10 clients last",
        FAIL,
        f"1 connections broke, the first that of {ONE}",
    ),
    Sabotage(
        "the cluster MAC leaks, and one member gets everything",
        samples(lambda s: dataclasses.replace(s, member="m2") if s.at_s < FAULT_S else s),
        "m1, m2 answer, and nobody else",
        FAIL,
        "m1 answered none of 20 clients",
    ),
    Sabotage(
        "the takeover takes too long",
        samples(lambda s: failing(s) if s.source in DEAD and FAULT_S < s.at_s < FAULT_S + 3 else s),
        "are served again within 1.000 s of power-off of m1",
        FAIL,
        "the outage lasted 2.9",
    ),
    Sabotage(
        "one client is never taken over",
        samples(lambda s: failing(s) if s.source == DEAD[2] and FAULT_S < s.at_s < REJOINED_S else s),
        "are served again before power-off of m1 is healed",
        FAIL,
        f"1 clients were not served when it was healed, such as {DEAD[2]}: timeout",
    ),
    Sabotage(
        "the buckets don't return",
        samples(lambda s: dataclasses.replace(s, member="m2") if s.at_s >= REJOINED_S else s),
        "all is as before within 2.000 s",
        FAIL,
        f"{DEAD[0]} had m1, has m2",
    ),
    Sabotage(
        "the members never see each other again",
        without(lambda e: isinstance(e, MembershipEvent) and e.at_s > HEALED_S and e.observer == "m2"),
        "m1, m2 see each other again",
        FAIL,
        "m2 sees m2",
    ),
    Sabotage(
        "a member is missed for a moment",
        also(MembershipEvent(5.0, "web", "m2", ("m2",)), MembershipEvent(5.0, "web", "m2", ("m1", "m2"))),
        "m1, m2 never miss each other",
        FAIL,
        "1 times; the first at 5.000 s: m2 sees m2",
    ),
    Sabotage(
        "an emulator crashes that nobody touched",
        also(MachineEvent(15.0, "m2", "shut off")),
        "no machine goes down by itself",
        FAIL,
        "nobody had planned it: m2 was shut off at 15.000 s",
    ),
    Sabotage(
        "the machine that was cut off goes down once more",
        also(MachineEvent(25.0, "m1", "crashed")),
        "no machine goes down by itself",
        FAIL,
        "m1 was crashed at 25.000 s",
    ),
    Sabotage(
        "nobody watches the members",
        without(lambda e: isinstance(e, MembershipEvent)),
        "m1, m2 see each other again",
        UNSURE,
        "nobody watched what m1, m2 sees",
    ),
    Sabotage(
        "somebody answers who is no member",
        samples(lambda s: dataclasses.replace(s, member="mallory") if s.source == ONE and s.at_s < FAULT_S else s),
        "m1, m2 answer, and nobody else",
        FAIL,
        "mallory answered too",
    ),
    Sabotage(
        "an error comes late",
        samples(
            lambda s: (
                dataclasses.replace(failing(s, Outcome.WRONG), ended_s=s.at_s + 0.7)
                if s.source == ONE and 4.0 <= s.at_s < 5.0
                else s
            )
        ),
        "nobody waits for more than 0.500 s",
        FAIL,
        r"1 did; the first at 4\.\d+ s for 0\.700 s",
    ),
    Sabotage(
        "a request is never answered",
        samples(lambda s: failing(s) if s.source == ONE and 4.0 <= s.at_s < 5.0 else s),
        "nobody waits for more than 0.500 s",
        FAIL,
        "1 did; the first at 4",
    ),
    Sabotage(
        "a mail is lost",
        mailbox(lambda mails: tuple(m for m in mails if m != "web.7")),
        "every mail that was accepted is read exactly once",
        FAIL,
        r"1 lost: web\.7 \(sent at 0\.350 s\)$",
    ),
    Sabotage(
        "a mail is doubled",
        mailbox(lambda mails: (*mails, "web.7")),
        "every mail that was accepted is read exactly once",
        FAIL,
        r"1 doubled: web\.7 \(sent at 0\.350 s\)$",
    ),
    Sabotage(
        "a mail that nobody said to have is there twice",
        mailbox(lambda mails: (*mails, mails[-1])),
        "every mail that was accepted is read exactly once",
        FAIL,
        r"1 doubled: web\.2\d\d ",
    ),
    Sabotage(
        "nobody reads the mailbox",
        without(lambda e: isinstance(e, MailboxEvent)),
        "every mail that was accepted is read exactly once",
        UNSURE,
        "nobody read the mailbox",
    ),
    Sabotage(
        "the mailbox is read before the last mail is sent",
        lambda run: [dataclasses.replace(e, at_s=END_S - 1) if isinstance(e, MailboxEvent) else e for e in run],
        "every mail that was accepted is read exactly once",
        UNSURE,
        "nobody read the mailbox after",
    ),
    Sabotage(
        "a session is forgotten by the one who takes over",
        samples(lambda s: failing(s, Outcome.LOST) if s.source == DEAD[1] and 11.0 <= s.at_s < 12.0 else s),
        "are known to whoever answers",
        FAIL,
        f"1 lost; the first at .*, that of {DEAD[1]}",
    ),
)


def findings(run: Run) -> list[Finding]:
    seen: History = history(run)
    return [c.judge(seen) for c in CLAIMS]


def test_a_run_that_is_fine_passes_every_claim() -> None:
    verdict = judge(*findings(fine_run()))
    assert [(f.check, f.reason) for f in verdict.findings if f.result is not Result.PASS] == []
    assert verdict.passed
    assert END_S > REJOINED_S


def test_there_are_at_least_fifteen_sabotages() -> None:
    assert len({s.what for s in SABOTAGES}) >= 15


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.what)
def test_a_sabotage_is_found_by_the_check_meant_for_it(sabotage: Sabotage) -> None:
    found = findings(sabotage.do(fine_run()))
    assert not judge(*found).passed
    (meant,) = (f for f in found if sabotage.found_by in f.check)
    assert meant.result is sabotage.result, meant
    assert re.search(sabotage.words, meant.reason), meant.reason
