"""The prober's users: webmail, phones, downloads, mail handed in and mail that arrives, against small servers."""

from __future__ import annotations

import itertools
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_probes_prober import CERTIFICATE, Answer, Run, Server, Started, reset, secured

from labctl.errors import InputError
from labctl.probes.prober.wbxml import FOLDERS, PROVISION, decoded, encoded
from labctl.probes.spec import Kind, Probe

WHO = {"user": "alice", "password": 'a"b'}
WORD = "AGFsaWNlAGEiYg=="  # of PLAIN


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Answer], int]]:
    running: list[Server] = []

    def begin(answer: Answer) -> int:
        running.append(Server(answer))
        return int(running[-1].server_address[1])

    yield begin
    for server in running:
        server.shutdown()
        server.server_close()


def started(folder: Path, kind: Kind, port: int, **more: Any) -> Started:
    """A probe, as people write it; of one request, unless it says otherwise."""
    values: dict[str, Any] = {"rate_hz": 0.5, "limit_s": 0.05, "timeout_s": 2.0, **more}
    probe = Probe("p", kind, "127.0.0.1", port, host="mail.test", ca_file=str(CERTIFICATE), **values)
    folder.mkdir(exist_ok=True)
    return Started(folder, "p", port, **{k: v for k, v in probe.plan().items() if k not in {"name", "port"}})


def ran(folder: Path, kind: Kind, port: int, **more: Any) -> Run:
    """The same, run to its end."""
    return started(folder, kind, port, **more).end()


@pytest.fixture(scope="module")
def lasting(serve, tmp_path_factory) -> Callable[[str], tuple[Run, Any]]:
    """Runs of several requests, the next when the one before is over; all at once, since most of it is waiting."""
    folder = tmp_path_factory.mktemp("lasting")
    runs = {}
    for name, (kind, server, answer, requests) in long_runs().items():
        prober = started(folder / name.replace(" ", "-"), kind, serve(answer), **WHO, limit_s=2 * requests - 1.0)
        runs[name] = (prober, server)
    ended = {name: (run.end(), server) for name, (run, server) in runs.items()}
    return ended.__getitem__


def outcomes(run: Run) -> list[str]:
    return [r["outcome"] for r in run.of("request")]


class Told:
    """What a server was asked, and what it answers over HTTP."""

    def __init__(self, *answers: tuple[str, str, str | bytes]) -> None:
        self.asked: list[str] = []
        self.answers = list(answers)

    def __call__(self, connection: socket.socket) -> None:
        asked = b""
        while True:
            head, found, body = asked.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if found and len(body) >= int(length[1] if length else 0):
                break
            asked += connection.recv(65536)
        self.asked.append(asked.decode("latin-1"))
        status, fields, said = self.answers.pop(0)
        data = said.encode() if isinstance(said, str) else said
        head = f"HTTP/1.1 {status}\r\n{fields}X-Labctl-Member: m1\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection.sendall(head + data)


# -- webmail -----------------------------------------------------------------------------------------------------------

COOKIES = "Set-Cookie: 0xHIGHFLYxSOGo=basic; path=/SOGo/; secure\r\nSet-Cookie: XSRF-TOKEN=xyz; path=/SOGo/\r\n"
IN, INBOX, LOGIN_PAGE = ("200 OK", COOKIES, "{}"), ("200 OK", "", '{"uids": []}'), ("200 OK", "", "<!DOCTYPE html>")


def test_a_user_logs_in_to_webmail_once_and_keeps_the_session(lasting) -> None:
    run, sogo = lasting("webmail")
    assert outcomes(run) == ["ok", "ok"], run.details
    assert [(r["connection"], r["member"]) for r in run.of("request")] == [(1, "m1"), (1, "m1")]
    assert [asked.split(" ")[1] for asked in sogo.asked] == [
        "/SOGo/connect",
        *["/SOGo/so/alice/Mail/0/folderINBOX/view"] * 2,
    ]
    assert json.loads(sogo.asked[0].partition("\r\n\r\n")[2]) == {"userName": "alice", "password": 'a"b'}
    assert "Cookie: 0xHIGHFLYxSOGo=basic; XSRF-TOKEN=xyz\r\nX-XSRF-TOKEN: xyz\r\n" in sogo.asked[2]


def test_a_session_that_the_server_forgot_is_told_as_such_and_another_is_begun(lasting) -> None:
    run, _ = lasting("forgotten session")
    assert outcomes(run) == ["lost", "ok"], run.details
    assert "session 1 is not known any more" in run.details
    assert [r["connection"] for r in run.of("request")] == [1, 2]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([("403 Forbidden", "", "no")], "403 Forbidden', expected status 200"),
        ([("200 OK", "", "{}")], "no cookie came"),
        ([IN, ("502 Bad Gateway", "", "<html>")], "502 Bad Gateway"),
        ([IN, ("200 OK", "", '{"error": "no mailbox"}')], "without '\"uids\"'"),
    ],
)
def test_webmail_that_does_not_show_the_inbox_is_wrong(serve, tmp_path, answers, says) -> None:
    run = ran(tmp_path, Kind.WEBMAIL, serve(secured(Told(*answers))), **WHO)
    assert outcomes(run) == ["wrong"]
    assert says in run.details
    assert WHO["password"] not in run.details


def test_a_session_outlives_a_request_that_failed(lasting) -> None:
    run, _ = lasting("webmail with a failure")
    assert outcomes(run) == ["ok", "reset", "ok"], run.details
    assert [r["connection"] for r in run.of("request")] == [1, 1, 1]


# -- phones ------------------------------------------------------------------------------------------------------------


def provision(key: str) -> bytes:
    policy = (PROVISION, 0x07, [(PROVISION, 0x09, key), (PROVISION, 0x0B, "1")])
    return encoded((PROVISION, 0x05, [(PROVISION, 0x06, [policy])]))


def folders(*kinds: str, status: str = "1") -> bytes:
    add = [(FOLDERS, 0x0F, [(FOLDERS, 0x07, "a folder"), (FOLDERS, 0x0A, kind)]) for kind in kinds]
    return encoded((FOLDERS, 0x16, [(FOLDERS, 0x0C, status), (FOLDERS, 0x0E, add)]))


def said(*documents: bytes) -> Told:
    return Told(*(("200 OK", "", document) for document in documents))


def test_a_phone_provisions_itself_once_and_gets_its_folders(lasting) -> None:
    run, phone = lasting("phone")
    assert outcomes(run) == ["ok", "ok"], run.details
    assert run.details == "2 folders"
    assert re.findall(r"Cmd=(\w+)", "".join(phone.asked)) == ["Provision", "Provision", "FolderSync", "FolderSync"]
    assert re.findall(r"PolicyKey: (\d+)", "".join(phone.asked)) == ["0", "0", "22", "22"]
    assert f"Authorization: Basic {'YWxpY2U6YSJi'}" in phone.asked[0]
    assert decoded(phone.asked[1].partition("\r\n\r\n")[2].encode("latin-1"))[1] == (PROVISION, 0x09, "11")


@pytest.mark.parametrize(
    ("answer", "outcome", "says"),
    [
        (("200 OK", "", folders("2", status="142")), "lost", "provision itself again"),
        (("449 Retry", "", b""), "lost", "provision itself again"),
        (("200 OK", "", folders("2", status="6")), "wrong", "status 6, expected 1"),
        (("200 OK", "", folders("5", "12")), "wrong", "none of them is the inbox"),
        (("200 OK", "", b"<html>"), "wrong", "is no WBXML"),
        (("401 Unauthorized", "", b""), "wrong", "401 Unauthorized"),
        (("503 Away", "", b""), "wrong", "503 Away"),
    ],
)
def test_a_phone_that_gets_no_folders_says_why(serve, tmp_path, answer, outcome, says) -> None:
    phone = said(encoded((PROVISION, 0x05, [])))  # the server has no policy
    phone.answers.append(answer)
    run = ran(tmp_path, Kind.ACTIVESYNC, serve(secured(phone)), **WHO)
    assert outcomes(run) == [outcome]
    assert says in run.details


def test_wbxml_reads_opaque_texts_and_empty_elements() -> None:
    document = b"\x03\x01\x6a\x00" + b"\x00\x07\x56" + b"\x4c\xc3\x81\x00" + b"x" * 128 + b"\x01\x0e\x01"
    assert decoded(document) == [(7, 0x0C, "x" * 128)]


# -- downloads ---------------------------------------------------------------------------------------------------------


def sending(size: int, length: int | None = None) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length or size}\r\n\r\n".encode())
        for _ in range(size >> 10):
            connection.sendall(bytes(1024))

    return answer


def test_what_is_downloaded_is_counted_however_much_it_is(serve, tmp_path) -> None:
    run = ran(tmp_path, Kind.DOWNLOAD, serve(sending(3 << 20)), limit_s=1.9)
    assert (outcomes(run), run.details) == (["ok"], f"{3 << 20} bytes")


def test_a_download_is_no_faster_than_it_may_be(serve, tmp_path) -> None:
    run = ran(tmp_path, Kind.DOWNLOAD_TLS, serve(secured(sending(256 << 10))), kib_s=512, limit_s=1.9)
    (request,) = run.of("request")
    assert (request["outcome"], request["detail"]) == ("ok", f"{256 << 10} bytes")
    assert request["ended"] - request["started"] > 0.4


def test_a_download_that_breaks_off_says_where(serve, tmp_path) -> None:
    run = ran(tmp_path, Kind.DOWNLOAD, serve(sending(1 << 16, 1 << 20)), limit_s=1.9)
    assert (outcomes(run), run.details) == (["reset"], f"closed after {1 << 16} of {1 << 20} bytes")


def test_a_download_in_which_nothing_more_comes_times_out(serve, tmp_path) -> None:
    def stalls(connection: socket.socket) -> None:
        sending(1 << 16, 1 << 20)(connection)
        connection.recv(1)

    run = ran(tmp_path, Kind.DOWNLOAD, serve(stalls), timeout_s=0.5)
    assert outcomes(run) == ["timeout"]
    assert f"at {1 << 16} of {1 << 20} bytes, where nothing more came" in run.details


def test_a_download_under_way_ends_with_the_sampling_and_did_not_fail(serve, tmp_path) -> None:
    run = ran(tmp_path, Kind.DOWNLOAD, serve(sending(1 << 20)), rate_hz=0.1, limit_s=0.4, kib_s=64)
    assert outcomes(run) == ["ok"]
    assert re.fullmatch(r"\d+ of 1048576 bytes, when it was ended", run.details)


# -- mail --------------------------------------------------------------------------------------------------------------


class Lines:
    """A server that speaks line by line: what it hears, and what it answers to what begins so."""

    def __init__(self, greeting: str, answers: dict[str, str | None]) -> None:
        self.greeting, self.answers = greeting, answers
        self.heard: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        self.speak(connection, self.greeting)

    def speak(self, connection: socket.socket, greeting: str) -> None:
        if greeting:
            connection.sendall(f"{greeting}\r\n".encode())
        for raw in connection.makefile("rb"):
            line = raw.decode().rstrip("\r\n")
            self.heard.append(line)
            answer = next((a for start, a in self.answers.items() if line.startswith(start)), "")
            if answer is None:
                connection.shutdown(socket.SHUT_RDWR)
                return
            if answer:
                connection.sendall(answer.replace("\n", "\r\n").encode() + b"\r\n")
            if line == "STARTTLS":
                self.secure(connection)
                return

    def secure(self, connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        with context.wrap_socket(connection, server_side=True) as wrapped:
            self.speak(wrapped, "OK again" if self.greeting.startswith("OK") else "")


SMTP = {
    "EHLO": "250-hub\n250 STARTTLS",
    "STARTTLS": "220 go on",
    "AUTH": "235 in",
    "MAIL": "250 yes",
    "RCPT": "250 yes",
    "DATA": "354 go on",
    ".": "250 queued",
}
SENDS = {"user": "alice@mail.test", "password": "secret", "to": "bob@mail.test"}


def hub(**other: str | None) -> Lines:
    return Lines("220 hub", {**SMTP, **other})


def test_each_mail_handed_in_has_an_id_of_its_own(serve, tmp_path) -> None:
    smtp = hub()
    run = ran(tmp_path, Kind.SUBMIT, serve(smtp), **SENDS, rate_hz=10.0, limit_s=0.25)
    assert outcomes(run) == ["ok"] * 3, run.details
    mails = [r["mail"] for r in run.of("request")]
    assert len(set(mails)) == 3
    assert all(re.fullmatch(r"p\.[0-9a-f]{8}\.[012]", mail) for mail in mails)
    for mail in mails:
        assert {f"Subject: {mail}", f"Message-ID: <{mail}@probe.invalid>"} <= set(smtp.heard)
    assert smtp.heard[:2] == ["EHLO probe.invalid", "STARTTLS"]
    assert "MAIL FROM:<alice@mail.test>" in smtp.heard
    assert "RCPT TO:<bob@mail.test>" in smtp.heard


@pytest.mark.parametrize(
    ("other", "outcome", "handed_over"),
    [
        ({"AUTH": "535 no"}, "wrong", False),
        ({"RCPT": "550 who?"}, "wrong", False),
        ({"DATA": None}, "reset", False),
        ({".": "451 later"}, "wrong", False),
        ({".": None}, "reset", True),
        ({".": ""}, "timeout", True),
    ],
)
def test_only_a_mail_whose_fate_is_not_known_keeps_its_id_without_being_accepted(
    serve, tmp_path, other, outcome, handed_over
) -> None:
    run = ran(tmp_path, Kind.SUBMIT, serve(hub(**other)), **SENDS, timeout_s=1.0)
    (request,) = run.of("request")
    assert (request["outcome"], bool(request["mail"])) == (outcome, handed_over), request
    assert SENDS["password"] not in json.dumps(request)


def imap(*, arrives: bool = True, stays: bool = True) -> Answer:
    """A mailbox that tells whoever waits."""
    waiting: list[Callable[[bytes], object]] = []
    mails: list[str] = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"* OK ready\r\n")
        for raw in connection.makefile("rb"):
            tag, _, words = raw.decode().rstrip("\r\n").partition(" ")
            if words.startswith("IDLE"):
                waiting.append(connection.sendall)
                connection.sendall(b"+ idling\r\n")
            elif words.startswith("APPEND"):
                connection.sendall(b"+ go on\r\n")
                mails.append(words)
            elif tag == "Subject:":
                connection.sendall(b"e OK taken\r\n")
                if not stays:
                    time.sleep(0.05)
                    connection.shutdown(socket.SHUT_RDWR)
                if arrives:
                    waiting[-1](f"* OK Still here\r\n* {len(mails)} EXISTS\r\n".encode())
            elif tag:
                if words.startswith("DELETE"):
                    mails.clear()
                connection.sendall(f"{tag} {'NO none' if words.startswith('DELETE') else 'OK'}\r\n".encode())

    return serve


def test_a_mail_is_seen_to_arrive_on_a_connection_that_stays(lasting) -> None:
    run, _ = lasting("idle")
    assert outcomes(run) == ["ok", "ok"], run.details
    assert [(r["connection"], r["detail"]) for r in run.of("request")] == [
        (1, "mail 1 of its connection"), (1, "mail 2 of its connection")
    ]  # fmt: skip


def test_a_mail_that_is_not_seen_to_arrive_is_waited_for_until_the_timeout(serve, tmp_path) -> None:
    run = ran(tmp_path, Kind.IDLE, serve(secured(imap(arrives=False))), **WHO)
    assert outcomes(run) == ["timeout"]
    assert "EXISTS" in run.details


def test_a_broken_connection_is_made_anew_and_shows(lasting) -> None:
    run, _ = lasting("broken idle")
    assert outcomes(run) == ["ok", "reset", "ok"], run.details
    assert [r["connection"] for r in run.of("request")] == [1, 1, 2]


SIEVE = {"STARTTLS": "OK go on", "AUTH": "OK in", "LOGOUT": "OK bye"}


def test_managesieve_is_spoken_over_tls_after_starttls(serve, tmp_path) -> None:
    sieve = Lines("OK ready", SIEVE)
    run = ran(tmp_path, Kind.SIEVE, serve(sieve), **WHO)
    assert outcomes(run) == ["ok"], run.details
    assert sieve.heard == ["STARTTLS", f'AUTHENTICATE "PLAIN" "{WORD}"', "LOGOUT"]


def test_managesieve_that_refuses_is_wrong(serve, tmp_path) -> None:
    run = ran(tmp_path, Kind.SIEVE, serve(Lines("OK ready", {**SIEVE, "AUTH": 'NO "wrong"'})), **WHO)
    assert outcomes(run) == ["wrong"]
    assert "'NO \"wrong\"'" in run.details


def failing_at(number: int, told: Told) -> Answer:
    """The connection of that number, from 1, is reset."""
    count = itertools.count(1)

    def server(connection: socket.socket) -> None:
        (reset if next(count) == number else secured(told))(connection)

    return server


def long_runs() -> dict[str, tuple[Kind, Any, Answer, int]]:
    """By name: what is asked for, what was heard, the server, and how many requests there are."""
    webmail, forgotten, failing = Told(IN, INBOX, INBOX), Told(IN, LOGIN_PAGE, IN, INBOX), Told(IN, INBOX, INBOX)
    phone = said(provision("11"), provision("22"), folders("2", "5"), folders("2", "5"))
    return {
        "webmail": (Kind.WEBMAIL, webmail, secured(webmail), 2),
        "forgotten session": (Kind.WEBMAIL, forgotten, secured(forgotten), 2),
        "webmail with a failure": (Kind.WEBMAIL, failing, failing_at(3, failing), 3),
        "phone": (Kind.ACTIVESYNC, phone, secured(phone), 2),
        "idle": (Kind.IDLE, None, secured(imap()), 2),
        "broken idle": (Kind.IDLE, None, secured(imap(stays=False)), 3),
    }


# -- posts, and what a probe must not be -------------------------------------------------------------------------------


def test_a_text_is_posted_and_the_answer_looked_at(serve, tmp_path) -> None:
    server = Told(("200 OK", "", "<Autodiscover/>"))
    run = ran(tmp_path, Kind.HTTPS, serve(secured(server)), path="/a.xml", post="<asked/>")
    assert outcomes(run) == ["ok"]
    assert server.asked[0].startswith("POST /a.xml HTTP/1.0\r\n")
    assert "Content-Type: text/xml" in server.asked[0]
    assert server.asked[0].endswith("\r\n\r\n<asked/>")


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        (Kind.WEBMAIL, {"rate_hz": 1.0}, "user and password are missing"),
        (Kind.SUBMIT, {"user": "a@b.test", "password": "x"}, "to is missing"),
        (Kind.IDLE, {**WHO, "rate_hz": 10.0, "timeout_s": 5.0}, "each source is asked every 0.1 s"),
    ],
)
def test_a_probe_that_can_not_work_is_refused(kind, more, says) -> None:
    with pytest.raises(InputError, match=says):
        Probe("p", kind, "127.0.0.1", 1, **more)


def test_a_password_does_not_show_where_a_probe_is_printed() -> None:
    assert "s3cr3t" not in repr(Probe("p", Kind.IMAPS, "127.0.0.1", 993, user="alice", password="s3cr3t"))
