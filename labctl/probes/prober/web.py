"""Requests over HTTP."""

from __future__ import annotations

import re
import time

from .answer import Answer, expect_status, judged_http, parsed
from .attempt import AnswerError, Attempt, Steps, Until, Waits, connected, patiently, receive, receive_all, say

__all__ = ["ask_download", "ask_http", "ask_kept", "exchange"]

_PIECE_BYTES = 1 << 14


def ask_http(attempt: Attempt) -> Steps:
    """GET or POST, the answer read to the end of the connection."""
    yield from connected(attempt)
    attempt.stage = "sending the request"
    yield from say(attempt, request_of(attempt, "1.0"))
    attempt.stage = "waiting for the answer"
    answer = yield from receive_all(attempt)
    return judged_http(attempt.plan, answer)


def ask_kept(attempt: Attempt) -> Steps:
    """GET on a connection that stays, made first if need be; the length says where the answer ends."""
    if attempt.fresh:
        yield from connected(attempt)
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


def ask_download(attempt: Attempt) -> Steps:
    """GET of something large, no faster than the plan says; what comes is counted and thrown away."""
    yield from connected(attempt)
    attempt.stage = "sending the request"
    yield from say(attempt, request_of(attempt, "1.0"))
    attempt.stage = "waiting for the answer"
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = yield from receive(attempt, _PIECE_BYTES)
        if not chunk:
            raise AnswerError("reset", "closed before the end of the header")
        head += chunk
    answer = parsed(head, whole=False)
    expect_status(answer, attempt.plan.status)
    length = answer.field("content-length")
    if not length.isdigit():
        raise AnswerError("wrong", "an answer without its length can't be told from one that breaks off")
    return answer.member, (yield from counted(attempt, len(answer.body), int(length)))


def counted(attempt: Attempt, came: int, length: int) -> Waits[str]:
    """Count what comes until it is as much as was said, or it may end."""
    began, pace = time.monotonic(), attempt.plan.kib_s * 1024
    while came < length:
        now = time.monotonic()
        attempt.deadline = now + attempt.plan.timeout_s
        attempt.stage = f"at {came} of {length} bytes, where nothing more came,"
        if attempt.ending:
            return f"{came} of {length} bytes, when it was ended"
        if pace and began + came / pace > now:
            yield Until(began + came / pace)
        chunk = yield from receive(attempt, _PIECE_BYTES)
        if not chunk:
            raise AnswerError("reset", f"closed after {came} of {length} bytes")
        came += len(chunk)
    return f"{came} bytes"


def exchange(attempt: Attempt, method: str, path: str, fields: dict[str, str], body: bytes) -> Waits[Answer]:
    """One request of several, on a connection of its own."""
    if attempt.stage != "connecting":
        attempt.connect(f"{len(attempt.wires)}")  # the one before stays open until the end, so that numbers differ
    yield from connected(attempt)
    attempt.stage = f"sending {method} {path}"
    given = {"Host": named(attempt.host), "Content-Length": str(len(body)), **fields}
    head = f"{method} {path} HTTP/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in given.items())
    yield from say(attempt, head.encode() + b"\r\n" + body)
    attempt.stage = f"waiting for the answer to {method} {path}"
    return parsed((yield from receive_all(attempt)))


def request_of(attempt: Attempt, version: str) -> bytes:
    """A GET, or a POST."""
    plan = attempt.plan
    body = plan.post.encode()
    fields = [f"{'POST' if body else 'GET'} {plan.path} HTTP/{version}", f"Host: {named(attempt.host)}"]
    fields.append(f"User-Agent: labctl-probe/{plan.name} {attempt.k}")
    if body:
        fields += [f"Content-Type: {plan.content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*fields, "", ""]).encode() + body


def named(host: str) -> str:
    """A host as it stands in a header field: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
