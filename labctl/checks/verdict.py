"""Findings, and the verdict over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from labctl.errors import VerdictFailed

__all__ = ["Figure", "Finding", "Result", "Verdict", "judge", "summary"]


class Result(StrEnum):
    """What a measurement says of a claim."""

    PASS = "PASS"  # noqa: S105 - a result, no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number. `unit` is never empty; a count's unit is what was counted."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        if math.isinf(self.value):
            return f"{self.name} unknown"
        number = str(self.value) if isinstance(self.value, int) else f"{self.value:.3f}"
        return f"{self.name} {number} {self.unit}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: the claim that was checked, with its parameters.
        reason: one sentence that says why, with numbers and names.
    """

    check: str
    result: Result
    reason: str
    figures: tuple[Figure, ...] = ()

    def figure(self, name: str) -> float:
        """The value of a figure; KeyError if there is none of that name."""
        for figure in self.figures:
            if figure.name == name:
                return figure.value
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What several findings come to.

    Attributes:
        evidence: path of the history that was judged; empty when it has no file.
    """

    result: Result
    findings: tuple[Finding, ...]
    evidence: str = ""

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.result is Result.PASS

    def require_pass(self) -> None:
        """Raise VerdictFailed with the summary unless the verdict is PASS."""
        if not self.passed:
            raise VerdictFailed(summary(self))


def judge(*findings: Finding, evidence: str = "") -> Verdict:
    """FAIL if anything failed, else INCONCLUSIVE if anything was or nothing was checked, else PASS."""
    results = {finding.result for finding in findings} or {Result.INCONCLUSIVE}
    worst = next(r for r in (Result.FAIL, Result.INCONCLUSIVE, Result.PASS) if r in results)
    return Verdict(worst, findings, evidence)


def summary(verdict: Verdict) -> str:
    """The verdict for a person at night: the worst first, each with its reason and figures, then where to look."""
    order = [Result.FAIL, Result.INCONCLUSIVE, Result.PASS]
    lines = [f"verdict: {verdict.result}" + ("" if verdict.findings else " (nothing was checked)")]
    for finding in sorted(verdict.findings, key=lambda f: order.index(f.result)):
        lines.append(f"  {finding.result:<12}  {finding.check}")
        lines.append(f"  {'':<12}    {finding.reason}")
        if finding.figures:
            lines.append(f"  {'':<12}    {', '.join(map(str, finding.figures))}")
    return "\n".join([*lines, f"evidence: {verdict.evidence or 'in memory only'}"])
