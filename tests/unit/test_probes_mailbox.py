"""Reading a mailbox at the end: the real reader, as a process, against a small IMAP server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from test_probes_prober import CERTIFICATE, Server, secured

from labctl.errors import GuestError
from labctl.history import HistoryWriter, MailboxEvent, Outcome, Sample
from labctl.probes import Mailbox, read_mailbox

WHO = {"user": "bob", "password": "s3cr3t"}


class Here:
    """A guest whose programs run on this machine."""

    name = "client"

    def __init__(self) -> None:
        self.argv: list[str] = []

    def succeed(self, argv: Sequence[str], *, stdin: bytes | None = None, within_s: float = 60.0) -> str:
        self.argv = [*argv]
        run = [sys.executable, *argv[1:]]
        return subprocess.run(run, check=True, capture_output=True, input=stdin, timeout=within_s).stdout.decode()


class Store:
    """An inbox whose mails have these Message-IDs; each further connection finds one more of them."""

    def __init__(self, *mails: str, at_first: int = 100, refuses: bool = False) -> None:
        self.mails, self.there, self.refuses = mails, at_first, refuses
        self.lock = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        with self.lock:
            mails = self.mails[: self.there]
            self.there += 1
        connection.sendall(b"* OK ready\r\n")
        for raw in connection.makefile("rb"):
            tag, command, *_ = raw.decode().split()
            connection.sendall(self.answer(command, mails).encode())
            said = "NO who?" if self.refuses and command == "LOGIN" else "OK done"
            connection.sendall(f"{tag} {said}\r\n".encode())

    def answer(self, command: str, mails: Sequence[str]) -> str:
        if command == "CAPABILITY":
            return "* CAPABILITY IMAP4rev1\r\n"
        if command == "EXAMINE":
            return f"* {len(mails)} EXISTS\r\n"
        if command != "FETCH":
            return ""
        heads = [f"Message-ID: <{mail}>\r\n\r\n" for mail in mails]
        item = "* {} FETCH (BODY[HEADER.FIELDS (MESSAGE-ID)] {{{}}}\r\n{})\r\n"
        return "".join(item.format(n, len(head), head) for n, head in enumerate(heads, 1))


@pytest.fixture
def reads(tmp_path: Path) -> Iterator[Callable[..., MailboxEvent]]:
    servers: list[Server] = []

    def read(store: Store, *accepted: str, within_s: float = 20.0) -> MailboxEvent:
        servers.append(Server(secured(store)))
        address, port = servers[-1].server_address
        mailbox = Mailbox(address=str(address), host="mail.test", port=port, ca_file=str(CERTIFICATE), **WHO)
        with HistoryWriter(tmp_path / "history.jsonl") as history:
            for number, mail in enumerate(accepted):
                outcome = Outcome.RESET if mail == "unknown" else Outcome.OK
                sent = Sample(1.0, 2.0, 0.0, "p", "", "hub:587", None, outcome, number=number, mail=mail)
                history.append(sent)
            guest = Here()
            event = read_mailbox(guest, mailbox, history, within_s=within_s)
            (kept,) = history.read().of(MailboxEvent)
            assert (kept.mails, kept.others) == (event.mails, event.others)
            assert WHO["password"] not in " ".join(guest.argv)
            assert WHO["password"] not in history.path.read_text()
        return event

    yield read
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_is_in_the_mailbox_is_recorded_with_what_is_there_twice(reads) -> None:
    store = Store("p.a.0@probe.invalid", "p.a.1@probe.invalid", "x@mail.test", "p.a.1@probe.invalid")
    event = reads(store, "p.a.0", "p.a.1", "unknown")
    assert (event.user, event.mails, event.others) == ("bob", ("p.a.0", "p.a.1", "p.a.1"), 1)


def test_mail_that_was_accepted_and_is_still_under_way_is_waited_for(reads) -> None:
    store = Store("p.a.0@probe.invalid", "p.a.1@probe.invalid", at_first=0)
    assert reads(store, "p.a.0", "p.a.1").mails == ("p.a.0", "p.a.1")


def test_mail_that_never_comes_is_not_waited_for_without_end(reads) -> None:
    assert reads(Store("p.a.0@probe.invalid"), "p.a.0", "p.a.1", within_s=0.1).mails == ("p.a.0",)


def test_a_mailbox_that_can_not_be_read_is_no_empty_mailbox(reads) -> None:
    with pytest.raises(GuestError, match=r"the mailbox of bob at mail.test can.t be read: .*who\?"):
        reads(Store(refuses=True), "p.a.0", within_s=0.1)
