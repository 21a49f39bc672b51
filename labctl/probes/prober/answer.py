"""Whether an answer is the one that the plan expects, and who gave it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .attempt import AnswerError
from .plan import Plan

__all__ = ["Answer", "expect_status", "judged_body", "judged_http", "parsed"]


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP.

    Attributes:
        status: `200`.
        line: all of the status line.
        fields: names in lower case, in the order in which they came.
    """

    status: str
    line: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def field(self, name: str) -> str:
        """The last one of a name, or nothing."""
        return dict(self.fields).get(name, "")

    @property
    def member(self) -> str | None:
        """Who gave it, if it says so."""
        return self.field("x-labctl-member") or None


def parsed(answer: bytes, *, whole: bool = True) -> Answer:
    """An answer; raises AnswerError for one that ends before its end, unless it need not be whole."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        raise AnswerError("reset", f"closed after {len(answer)} bytes, before the end of the header")
    line, *fields = head.decode("latin-1").split("\r\n")
    pairs = tuple((name.strip().lower(), value.strip()) for name, _, value in (f.partition(":") for f in fields))
    read = Answer(line[9:12], line, pairs, body)  # HTTP/1.1 200 OK
    length = read.field("content-length")
    if whole and length.isdigit() and len(body) < int(length):
        raise AnswerError("reset", f"closed after {len(body)} of {length} bytes")
    return read


def judged_http(plan: Plan, answer: bytes) -> tuple[str | None, str]:
    """Member and status of an answer that is what the plan expects; raises AnswerError."""
    read = parsed(answer)
    expect_status(read, plan.status)
    return judged_body(plan, read.body, read.member), read.status


def expect_status(answer: Answer, status: int) -> None:
    """Raise AnswerError for another status."""
    if answer.status != str(status):
        raise AnswerError("wrong", f"{answer.line[:80]!r}, expected status {status}")


def judged_body(plan: Plan, body: bytes, member: str | None) -> str | None:
    """The member that a right body names; raises AnswerError."""
    text = body.decode("utf-8", "replace")
    if plan.body and not re.search(plan.body, text):
        raise AnswerError("wrong", f"body {text[:60]!r} without {plan.body!r}")
    match = re.search(plan.member, text) if plan.member and member is None else None
    return match[match.re.groups and 1] if match else member
