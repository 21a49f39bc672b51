"""Reads a mailbox, in a guest: `python3 reader.py`, with who, where and what is awaited as JSON on standard input.

Standard output: {"mails": the ids of probes' mails as they lie there, "others": how many others}, or {"error"}.
"""

import imaplib
import json
import re
import socket
import ssl
import sys
import time
from typing import Any

ANSWERS_WITHIN_S = 30.0
PAUSE_S = 1.0


class AtAddress(imaplib.IMAP4_SSL):
    """A connection to an address, whose certificate is for a name."""

    def __init__(self, address: str, host: str, port: int, trusted: ssl.SSLContext) -> None:
        self.address, self.trusted = address, trusted
        super().__init__(host, port, ssl_context=trusted, timeout=ANSWERS_WITHIN_S)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        plain = socket.create_connection((self.address, self.port), timeout)
        return self.trusted.wrap_socket(plain, server_hostname=self.host)


def read(asked: dict[str, Any], trusted: ssl.SSLContext) -> tuple[list[str], int]:
    """The ids of probes' mails in the inbox, and the number of other mails."""
    with AtAddress(asked["address"], asked["host"], asked["port"], trusted) as imap:
        imap.login(asked["user"], asked["password"])
        count = int(imap.select("INBOX", readonly=True)[1][0] or 0)
        if not count:
            return [], 0
        said = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]
    headers = [part[1].decode("utf-8", "replace") for part in said if isinstance(part, tuple)]
    found = [match[1] for match in (re.search(r"<([^@>\s]+)@probe\.invalid>", text) for text in headers) if match]
    return found, len(headers) - len(found)


def awaited(asked: dict[str, Any]) -> dict[str, Any]:
    """What is in the mailbox once all that is awaited is, or the time is over."""
    trusted = ssl.create_default_context(cafile=asked["ca_file"] or None)
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as the prober does it
    deadline = time.monotonic() + asked["within_s"]
    while True:
        try:
            mails, others = read(asked, trusted)
        except (OSError, imaplib.IMAP4.error) as error:
            answer: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
        else:
            answer = {"mails": mails, "others": others}
            if set(asked["awaited"]) <= set(mails):
                return answer
        if time.monotonic() >= deadline:
            return answer
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    print(json.dumps(awaited(json.load(sys.stdin))))  # noqa: T201 - its answer
