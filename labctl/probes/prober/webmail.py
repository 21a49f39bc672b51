"""Webmail: a user who logs in once and then looks at the inbox, as SOGo's own page does."""

from __future__ import annotations

import json

from .answer import Answer, expect_status, judged_body
from .attempt import AnswerError, Attempt, Steps, Waits
from .web import exchange

__all__ = ["ask_webmail"]


def ask_webmail(attempt: Attempt) -> Steps:
    """The inbox, after logging in if need be; a session that the server does not know any more is told as lost."""
    known = attempt.client.known
    if not known:
        known.update((yield from logged_in(attempt)))
        attempt.client.connections += 1
    attempt.connection = attempt.client.connections
    path = f"/SOGo/so/{attempt.plan.user}/Mail/0/folderINBOX/view"
    answer = yield from exchange(attempt, "POST", path, {"Content-Type": "application/json", **known}, b"{}")
    if not answer.body.lstrip().startswith(b"{") and answer.status in {"200", "302", "401", "403"}:
        known.clear()
        raise AnswerError("lost", f"session {attempt.connection} is not known any more: {answer.line[:60]!r}")
    expect_status(answer, attempt.plan.status)
    return judged_body(attempt.plan, answer.body, answer.member), f"session {attempt.connection}"


def logged_in(attempt: Attempt) -> Waits[dict[str, str]]:
    """Log in; the header fields that go with every request of the session."""
    who = json.dumps({"userName": attempt.plan.user, "password": attempt.plan.password}).encode()
    answer = yield from exchange(attempt, "POST", "/SOGo/connect", {"Content-Type": "application/json"}, who)
    expect_status(answer, 200)
    cookies = dict(cookies_of(answer))
    if not cookies:
        raise AnswerError("wrong", "logged in, and no cookie came")
    fields = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    return {**fields, "X-XSRF-TOKEN": cookies.get("XSRF-TOKEN", "")}


def cookies_of(answer: Answer) -> list[tuple[str, str]]:
    """Names and values of the cookies that came."""
    pairs = (value.partition(";")[0].partition("=") for name, value in answer.fields if name == "set-cookie")
    return [(name.strip(), value.strip()) for name, _, value in pairs]
