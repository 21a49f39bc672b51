"""Mail: handing one in, and a mailbox that tells of its arrival."""

from __future__ import annotations

import base64
import re

from .attempt import AnswerError, Attempt, Steps, Waits, connected, handshake, say
from .dialogue import Dialogue

__all__ = ["GREETING", "ask_idle", "ask_submit", "quoted"]

GREETING = r"\* (OK|PREAUTH)"  # of IMAP
_NAME = "probe.invalid"


def ask_submit(attempt: Attempt) -> Steps:
    """Hand in a mail whose Message-ID nobody else uses (RFC 5321, RFC 4954)."""
    plan, smtp = attempt.plan, Dialogue(attempt)
    yield from connected(attempt)
    yield from smtp.until("220 ")
    yield from smtp.ask(f"EHLO {_NAME}", "250 ")
    if plan.starttls:
        yield from smtp.ask("STARTTLS", "220 ")
        yield from handshake(attempt)
        yield from smtp.ask(f"EHLO {_NAME}", "250 ")
    word = base64.b64encode(f"\0{plan.user}\0{plan.password}".encode()).decode()
    yield from smtp.ask(f"AUTH PLAIN {word}", "235 ")
    yield from smtp.ask(f"MAIL FROM:<{plan.user}>", "250 ")
    yield from smtp.ask(f"RCPT TO:<{plan.to}>", "250 ")
    yield from smtp.ask("DATA", "354 ")
    # From here on nobody can say whether the mail is taken until the server has said so.
    attempt.mail = f"{plan.name}.{attempt.run}.{attempt.k}"
    try:
        yield from smtp.ask(mail_of(attempt), "250 ")
    except AnswerError as error:
        if error.args[0] == "wrong":
            attempt.mail = ""  # it has said no
        raise
    yield from say(attempt, b"QUIT\r\n")
    return None, "accepted"


def mail_of(attempt: Attempt) -> str:
    """A mail with the line that ends it, but for the end of that line."""
    plan, mail = attempt.plan, attempt.mail
    head = f"From: <{plan.user}>\r\nTo: <{plan.to}>\r\nSubject: {mail}\r\nMessage-ID: <{mail}@{_NAME}>\r\n"
    return f"{head}\r\nmail {attempt.k} of {plan.name}\r\n."


def ask_idle(attempt: Attempt) -> Steps:
    """Put a mail into a mailbox, and see it arrive on a connection that has waited for it all the time (RFC 2177)."""
    imap, known = Dialogue(attempt), attempt.client.known
    if attempt.fresh:
        yield from waiting(attempt, imap)
    known["mails"] += 1
    text = f"Subject: {attempt.plan.name} {attempt.run} {attempt.k}\r\n\r\n\r\n"
    attempt.on = "writer"
    yield from imap.ask(f"e APPEND {mailbox_of(attempt)} {{{len(text)}}}", r"\+")
    yield from imap.ask(text, "e OK")
    attempt.on = ""
    yield from imap.until(rf"\* {known['mails']} EXISTS")
    return None, f"mail {known['mails']} of its connection"


def waiting(attempt: Attempt, imap: Dialogue) -> Waits[None]:
    """Log in twice: to put mail into an empty mailbox, and to wait for it."""
    mailbox = mailbox_of(attempt)
    attempt.client.known["mails"] = 0
    yield from logged_in(attempt, imap)
    attempt.connect("writer")
    yield from logged_in(attempt, imap)
    yield from imap.ask(f"b DELETE {mailbox}", "b (OK|NO)")
    yield from imap.ask(f"c CREATE {mailbox}", "c OK")
    attempt.on = ""
    yield from imap.ask(f"d SELECT {mailbox}", "d OK")
    yield from imap.ask("e IDLE", r"\+")


def logged_in(attempt: Attempt, imap: Dialogue) -> Waits[None]:
    """Log in on the connection that is spoken on."""
    yield from connected(attempt)
    yield from imap.until(GREETING)
    yield from imap.ask(f"a LOGIN {quoted(attempt.plan.user)} {quoted(attempt.plan.password)}", "a OK")


def mailbox_of(attempt: Attempt) -> str:
    """The mailbox of this probe and this client alone."""
    return quoted(re.sub(r"[^A-Za-z0-9]+", "-", f"{attempt.plan.name} {attempt.client.address}").strip("-"))


def quoted(text: str) -> str:
    """As an IMAP quoted string (RFC 9051, 4.3)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
