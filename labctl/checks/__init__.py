"""Checks: pure functions of a history, each returning a finding, and the verdict over several of them.

A check returns PASS only for what the history shows; a probe that sampled badly, a fault that nobody confirmed or too
few samples make it INCONCLUSIVE.
"""

from labctl.checks.faults import fault_confirmed, heal_confirmed
from labctl.checks.members import affinity_kept, clients_of, members_answer
from labctl.checks.outage import Outage, outage, outage_by_source
from labctl.checks.sampling import SamplerLimits, sampler_healthy
from labctl.checks.service import no_failures, recovers_within
from labctl.checks.verdict import Figure, Finding, Result, Verdict, judge, summary

__all__ = [
    "Figure",
    "Finding",
    "Outage",
    "Result",
    "SamplerLimits",
    "Verdict",
    "affinity_kept",
    "clients_of",
    "fault_confirmed",
    "heal_confirmed",
    "judge",
    "members_answer",
    "no_failures",
    "outage",
    "outage_by_source",
    "recovers_within",
    "sampler_healthy",
    "summary",
]
