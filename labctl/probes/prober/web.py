"""Requests over HTTP."""

from __future__ import annotations

import re

from .answer import judged_http
from .attempt import AnswerError, Attempt, Steps, connected, handshake, patiently, receive_all, say

__all__ = ["ask_http", "ask_kept"]


def ask_http(attempt: Attempt) -> Steps:
    """GET, the answer read to the end of the connection."""
    yield from connected(attempt)
    yield from handshake(attempt)
    attempt.stage = "sending the request"
    yield from say(attempt, request_of(attempt, "1.0"))
    attempt.stage = "waiting for the answer"
    answer = yield from receive_all(attempt)
    return judged_http(attempt.plan, answer)


def ask_kept(attempt: Attempt) -> Steps:
    """GET on a connection that stays, made first if need be; the length says where the answer ends."""
    if attempt.fresh:
        yield from connected(attempt)
        yield from handshake(attempt)
    attempt.stage = "sending the request"
    yield from say(attempt, request_of(attempt, "1.1"))
    attempt.stage = "waiting for the answer"
    answer = b""
    while True:
        head, found, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head) if found else None
        if found and length is None:
            raise AnswerError("wrong", "an answer without its length can't be kept apart from the next one")
        if length and len(body) >= int(length[1]):
            return judged_http(attempt.plan, answer)
        chunk = yield from patiently(lambda: attempt.sock.recv(65536))
        if not chunk:
            raise AnswerError("reset", f"closed after {len(answer)} bytes of an answer")
        answer += chunk


def request_of(attempt: Attempt, version: str) -> bytes:
    """A GET."""
    agent = f"labctl-probe/{attempt.plan.name} {attempt.k}"
    host = f"[{attempt.host}]" if ":" in attempt.host else attempt.host
    head = f"GET {attempt.plan.path} HTTP/{version}\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\r\n"
    return head.encode()
