"""Reading a mailbox at the end, as its user would, so that mail which was accepted can be looked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from labctl.errors import GuestError
from labctl.history import HistoryWriter, MailboxEvent, Sample

__all__ = ["Mailbox", "read_mailbox"]

_READER = Path(__file__).with_name("reader.py")
_SLACK_S = 60.0  # Python and a last look in an emulated guest on a busy host


class MailGuest(Protocol):
    """What reading needs of the guest that the user sits at."""

    @property
    def name(self) -> str: ...
    def succeed(self, argv: Sequence[str], *, stdin: bytes | None = None, within_s: float = ...) -> str: ...


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A user's inbox, over IMAP with TLS from the first byte on.

    Attributes:
        address: of the server; `host` is the name in its certificate.
        ca_file: in the guest; its own CA store when empty.
    """

    user: str
    password: str = field(repr=False)
    address: str
    host: str
    port: int = 993
    ca_file: str = ""


def read_mailbox(guest: MailGuest, mailbox: Mailbox, history: HistoryWriter, *, within_s: float = 60.0) -> MailboxEvent:
    """Read a mailbox, and record what is in it: once all mail that the history says was accepted is there.

    Args:
        within_s: after so long it is recorded as it is.

    Raises:
        GuestError: it could not be read.
    """
    awaited = [s.mail for s in history.read().of(Sample) if s.mail and s.good]
    asked = {**asdict(mailbox), "awaited": awaited, "within_s": within_s}
    argv = ["python3", "-I", "-S", "-c", _READER.read_text(encoding="utf-8")]
    said = guest.succeed(argv, stdin=json.dumps(asked).encode(), within_s=within_s + _SLACK_S)
    answer = json.loads(said)
    if "error" in answer:
        raise GuestError(
            f"{guest.name}: the mailbox of {mailbox.user} at {mailbox.host} can't be read: {answer['error']}"
        )
    event = MailboxEvent(history.now_s(), mailbox.user, tuple(answer["mails"]), answer["others"])
    history.append(event)
    return event
