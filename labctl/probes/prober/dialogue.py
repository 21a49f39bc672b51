"""Dialogues line by line, as in SMTP, IMAP, POP3 and ManageSieve."""

from __future__ import annotations

import re

from .attempt import MAX_ANSWER_BYTES, AnswerError, Attempt, Steps, Waits, connected, handshake, receive, say

__all__ = ["TO_TLS", "Dialogue", "ask_lines"]

TO_TLS = "*TLS*"
_REFUSAL = r"(-ERR|[45]\d\d[ -]|(\S+ )?(NO|BAD)\b|BYE\b)"


class Dialogue:
    """What is said and heard, line by line, on the connection that the attempt speaks on."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.lines = 0

    def line(self) -> Waits[str]:
        """The next line."""
        wire = self.attempt.wire
        while b"\n" not in wire.rest:
            chunk = yield from receive(self.attempt)
            if not chunk or len(wire.rest) > MAX_ANSWER_BYTES:
                raise AnswerError("reset", f"closed while {self.attempt.stage}")
            wire.rest += chunk
        line, _, wire.rest = wire.rest.partition(b"\n")
        self.lines += 1
        return line.decode("utf-8", "replace")

    def until(self, awaited: str) -> Waits[None]:
        """Read lines over until one begins so; raises AnswerError for one that refuses."""
        self.attempt.stage = f"waiting for {awaited!r}"
        while True:
            line = yield from self.line()
            if re.match(awaited, line):
                return
            if re.match(_REFUSAL, line):
                raise AnswerError("wrong", f"{line.strip()[:80]!r}, expected {awaited!r}")

    def ask(self, text: str, awaited: str) -> Waits[None]:
        """Say a line, and wait for the answer."""
        yield from say(self.attempt, text.encode() + b"\r\n")
        yield from self.until(awaited)


def ask_lines(attempt: Attempt) -> Steps:
    """Each line that is awaited, and what is said to it."""
    yield from connected(attempt)
    dialogue = Dialogue(attempt)
    for awaited, reply in attempt.plan.dialogue:
        yield from dialogue.until(awaited)
        if reply == TO_TLS:
            yield from handshake(attempt)
        elif reply:
            yield from say(attempt, reply.encode() + b"\r\n")
    return None, f"{dialogue.lines} lines"
