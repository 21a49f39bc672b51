"""Whether mail that was accepted is there, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from labctl.checks.sampling import SamplerLimits, sampler_trouble
from labctl.checks.verdict import Figure, Finding, Result
from labctl.history import History, MailboxEvent, Sample, Window

__all__ = ["mail_read_once"]


def mail_read_once(history: History, probe: str, *, limits: SamplerLimits | None = None) -> Finding:
    """Whether every mail of a probe that was accepted is read exactly once afterwards, and no other one twice.

    A mail whose connection broke before the server said whether it has it may be there or not; twice it may not be.
    """
    samples = [s for s in history.samples(probe) if s.mail]
    accepted = [s for s in samples if s.good]
    read = _read(history, samples)
    times = Counter(read.mails if read else ())
    lost = [s for s in accepted if not times[s.mail]]
    doubled = [s for s in samples if times[s.mail] > 1]
    check = f"{probe}: every mail that was accepted is read exactly once"
    figures = (
        Figure("accepted", len(accepted), "mails"),
        Figure("unknown", len(samples) - len(accepted), "mails"),
        Figure("lost", len(lost), "mails"),
        Figure("doubled", len(doubled), "mails"),
    )
    if read is None:
        return Finding(check, Result.INCONCLUSIVE, "nobody read the mailbox after the last of them was sent", figures)
    if lost or doubled:
        told = [_said("lost", lost), _said("doubled", doubled)]
        return Finding(check, Result.FAIL, "; ".join(t for t in told if t), figures)
    trouble = sampler_trouble(history, probe, Window(), limits or SamplerLimits())
    if trouble or not accepted:
        return Finding(check, Result.INCONCLUSIVE, trouble or "no mail was accepted", figures)
    return Finding(check, Result.PASS, f"all {len(accepted)} were, in the mailbox of {read.user}", figures)


def _read(history: History, samples: Sequence[Sample]) -> MailboxEvent | None:
    """What was found when the mailbox was read last, if that was after all of them were sent."""
    last_s = max((s.ended_s for s in samples), default=0.0)
    return next((e for e in reversed(history.of(MailboxEvent)) if e.at_s >= last_s), None)


def _said(what: str, samples: Sequence[Sample]) -> str:
    shown = ", ".join(f"{s.mail} (sent at {s.at_s:.3f} s)" for s in samples[:5])
    more = f" and {len(samples) - 5} more" if len(samples) > 5 else ""
    return f"{len(samples)} {what}: {shown}{more}" if samples else ""
