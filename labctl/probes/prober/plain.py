"""Connections and datagrams."""

from __future__ import annotations

import time

from .answer import judged_body
from .attempt import WRITE, AnswerError, Attempt, Steps, connected, patiently

__all__ = ["ask_dns", "ask_tcp", "ask_udp"]


def ask_tcp(attempt: Attempt) -> Steps:
    """Connect, no more."""
    yield from connected(attempt)
    return None, ""


def ask_udp(attempt: Attempt) -> Steps:
    """One datagram, and the first answer to it."""
    plan = attempt.plan
    attempt.stage = "waiting for the answer"
    yield from patiently(lambda: attempt.sock.send(plan.payload.encode()), WRITE)
    while True:
        answer = yield from patiently(lambda: attempt.sock.recv(65535))
        member, detail = judged_body(plan, answer, None), f"{len(answer)} bytes"
        if not plan.linger:
            return member, detail
        attempt.answers.append((time.monotonic(), member, detail))


def ask_dns(attempt: Attempt) -> Steps:
    """One question, and an answer to it that resolves (RFC 1035, 4.1)."""
    attempt.stage = "waiting for the answer"
    question = (attempt.k % 0xFFFF).to_bytes(2) + bytes.fromhex(attempt.plan.payload)
    yield from patiently(lambda: attempt.sock.send(question), WRITE)
    answer = b""
    while answer[:2] != question[:2]:  # what is no answer to this question is somebody's else
        answer = yield from patiently(lambda: attempt.sock.recv(65535))
    code, count = answer[3] & 15, int.from_bytes(answer[6:8])
    if code or not count:
        raise AnswerError("wrong", f"response code {code}, {count} answers")
    return None, f"{count} answers"
