"""Checks: pure functions of a history, each returning a finding, and the verdict over several of them.

A check returns PASS only for what the history shows; a probe that sampled badly, a fault that nobody confirmed or too
few samples make it INCONCLUSIVE.
"""

from labctl.checks.claims import CHECKS, Claim, claim, claims_of, general_claims, judge_history, judged
from labctl.checks.connections import answered_once, answered_twice_until, connections_kept, sessions_kept
from labctl.checks.faults import fault_confirmed, heal_confirmed
from labctl.checks.machines import machines_lived
from labctl.checks.mail import mail_read_once
from labctl.checks.members import affinity_kept, clients_of, members_agree, members_answer, members_stay
from labctl.checks.outage import Outage, outage, outage_by_source
from labctl.checks.sampling import SamplerLimits, sampler_healthy
from labctl.checks.service import interrupted_at_most, no_failures, nobody_serves, recovers_within
from labctl.checks.steady import only_affected, recovers_unaided, steady_state_restored
from labctl.checks.verdict import Figure, Finding, Result, Verdict, judge, summary
from labctl.checks.waiting import nobody_waits

__all__ = [
    "CHECKS",
    "Claim",
    "Figure",
    "Finding",
    "Outage",
    "Result",
    "SamplerLimits",
    "Verdict",
    "affinity_kept",
    "answered_once",
    "answered_twice_until",
    "claim",
    "claims_of",
    "clients_of",
    "connections_kept",
    "fault_confirmed",
    "general_claims",
    "heal_confirmed",
    "interrupted_at_most",
    "judge",
    "judge_history",
    "judged",
    "machines_lived",
    "mail_read_once",
    "members_agree",
    "members_answer",
    "members_stay",
    "no_failures",
    "nobody_serves",
    "nobody_waits",
    "only_affected",
    "outage",
    "outage_by_source",
    "recovers_unaided",
    "recovers_within",
    "sampler_healthy",
    "sessions_kept",
    "steady_state_restored",
    "summary",
]
