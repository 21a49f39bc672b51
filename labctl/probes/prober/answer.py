"""Whether an answer is the one that the plan expects, and who gave it."""

from __future__ import annotations

import re

from .attempt import AnswerError
from .plan import Plan

__all__ = ["judged_body", "judged_http"]


def judged_http(plan: Plan, answer: bytes) -> tuple[str | None, str]:
    """Member and status of an answer that is what the plan expects; raises AnswerError."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        raise AnswerError("reset", f"closed after {len(answer)} bytes, before the end of the header")
    status_line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    length = headers.get("content-length", "")
    if length.isdigit() and len(body) < int(length):
        raise AnswerError("reset", f"closed after {len(body)} of {length} bytes")
    status = status_line[9:12]  # HTTP/1.1 200 OK
    if status != str(plan.status):
        raise AnswerError("wrong", f"{status_line[:80]!r}, expected status {plan.status}")
    return judged_body(plan, body, headers.get("x-labctl-member")), status


def judged_body(plan: Plan, body: bytes, member: str | None) -> str | None:
    """The member that a right body names; raises AnswerError."""
    text = body.decode("utf-8", "replace")
    if plan.body and not re.search(plan.body, text):
        raise AnswerError("wrong", f"body {text[:60]!r} without {plan.body!r}")
    match = re.search(plan.member, text) if plan.member and member is None else None
    return match[match.re.groups and 1] if match else member
