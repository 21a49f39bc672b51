"""Dialogues line by line, as in SMTP, IMAP and POP3."""

from __future__ import annotations

import re

from .attempt import MAX_ANSWER_BYTES, AnswerError, Attempt, Steps, connected, handshake, patiently, say

__all__ = ["ask_lines"]


def ask_lines(attempt: Attempt) -> Steps:
    """Each line that is awaited, and what is said to it."""
    yield from connected(attempt)
    yield from handshake(attempt)
    said, lines = b"", 0
    for awaited, reply in attempt.plan.dialogue:
        attempt.stage = f"waiting for {awaited!r}"
        while True:
            line, found, said = said.partition(b"\n")
            if not found:
                chunk = yield from patiently(lambda: attempt.sock.recv(65536))
                if not chunk or len(line) > MAX_ANSWER_BYTES:
                    raise AnswerError("reset", f"closed while {attempt.stage}")
                said = line + chunk
                continue
            lines += 1
            if re.match(awaited, line.decode("utf-8", "replace")):
                break
            if re.match(r"(-ERR|[45]\d\d[ -]|\S+ (NO|BAD) )", line.decode("utf-8", "replace")):
                raise AnswerError("wrong", f"{line.decode('utf-8', 'replace').strip()[:80]!r}, expected {awaited!r}")
        if reply:
            yield from say(attempt, reply.encode() + b"\r\n")
    return None, f"{lines} lines"
