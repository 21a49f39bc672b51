"""Probes as data: what is asked of a service, from where, how often, and what counts as right."""

from __future__ import annotations

import base64
import dataclasses
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from labctl.errors import InputError
from labctl.probes.prober.dialogue import TO_TLS
from labctl.probes.prober.mail import GREETING, quoted

__all__ = ["Expect", "Kind", "Probe", "question_of"]


class Kind(StrEnum):
    """What a request is."""

    TCP = "tcp"  # a connection, opened and closed
    HTTP = "http"  # GET on a connection of its own
    HTTPS = "https"  # the same over TLS, the certificate checked against the guest's CA store
    KEPT = "kept"  # GET on a connection that each source keeps; made anew when it breaks
    KEPT_TLS = "kept-tls"  # the same over TLS
    UDP = "udp"  # one datagram, one answer
    DNS = "dns"  # the address of a name, as a question of its own
    SMTP = "smtp"  # greeting and EHLO, with STARTTLS only offered
    SMTPS = "smtps"  # the same over TLS from the first byte on
    IMAP = "imap"  # greeting, login if there is a user, logout
    IMAPS = "imaps"
    POP3 = "pop3"  # greeting, login if there is a user, quit
    POP3S = "pop3s"
    SIEVE = "sieve"  # ManageSieve: STARTTLS, login if there is a user, logout
    DOWNLOAD = "download"  # GET of something large, whose bytes are counted as they come
    DOWNLOAD_TLS = "download-tls"  # the same over TLS
    WEBMAIL = "webmail"  # the inbox in SOGo; each source logs in once and keeps its session
    ACTIVESYNC = "activesync"  # a phone's folders; each source provisions itself once
    IDLE = "idle"  # a mail put into a mailbox, and its arrival seen on a connection that each source keeps
    SUBMIT = "submit"  # a mail handed in with STARTTLS and a login; its id is in the history


_ONE_AT_A_TIME = frozenset({Kind.KEPT, Kind.KEPT_TLS, Kind.WEBMAIL, Kind.ACTIVESYNC, Kind.IDLE})
_LOG_IN = frozenset({Kind.WEBMAIL, Kind.ACTIVESYNC, Kind.IDLE, Kind.SUBMIT})


_SPOKEN: dict[Kind, dict[str, Any]] = {
    Kind.HTTPS: {"kind": "http", "secure": True},
    Kind.KEPT_TLS: {"kind": "kept", "secure": True},
    Kind.DOWNLOAD_TLS: {"kind": "download", "secure": True},
    Kind.ACTIVESYNC: {"secure": True},
    Kind.IDLE: {"secure": True},
    Kind.SUBMIT: {"starttls": True},
}


@dataclass(frozen=True, slots=True)
class Expect:
    """What counts as the right answer.

    Attributes:
        status: of HTTP.
        body: regular expression to be found in the body or datagram; empty for any.
        member: regular expression whose first group in the body is the member's name; an HTTP header X-Labctl-Member
            comes first.
    """

    status: int = 200
    body: str = ""
    member: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What is asked, from where and how often.

    Attributes:
        name: unique in a history; letters, digits, `-`, `_` and `.`.
        host: name for the Host header, TLS server name and certificate; the address when empty.
        address: IPv4 or IPv6.
        sources: client addresses of the same kind, one request each in turn; empty for the guest's own choice.
        rate_hz: requests a second over all sources.
        timeout_s: of one request; of DOWNLOAD, the longest time without a byte. Below 1 s a connection is tried with a
            single SYN (RFC 6298, 2.1), so that a sample speaks of one moment.
        limit_s: after so long the sampling ends by itself, for the case that nobody is left to stop it.
        late_s: a request that starts so much after it was due is late.
        clock_s: from one sign of life of the sampling to the next.
        ca_file: in the guest; its own CA store when empty.
        user, password: of who logs in; of SUBMIT, his mail address.
        to: of SUBMIT: the mail address that it sends to.
        post, content_type: of HTTP: what is sent with POST; a GET when empty.
        kib_s: of DOWNLOAD: no faster than so much, so that it lasts; 0 for no bound.
        question: of DNS: the name to be resolved.
        linger: of UDP: wait for further answers until the timeout, and count them.
    """

    name: str
    kind: Kind
    address: str
    port: int
    host: str = ""
    path: str = "/"
    sources: tuple[str, ...] = ()
    rate_hz: float = 20.0
    timeout_s: float = 0.9
    limit_s: float = 1800.0
    late_s: float = 0.1
    clock_s: float = 1.0
    expect: Expect = field(default_factory=Expect)
    ca_file: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    to: str = ""
    post: str = ""
    content_type: str = "text/xml; charset=utf-8"
    kib_s: float = 0.0
    question: str = ""
    linger: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise InputError(f"probe {self.name!r}: a name is made of letters, digits, '-', '_' and '.'")
        for what in ("rate_hz", "timeout_s", "limit_s"):
            if getattr(self, what) <= 0:
                raise InputError(f"probe {self.name}: {what} is {getattr(self, what)}, expected more than 0")
        round_s = max(1, len(self.sources)) * self.interval_s
        if self.kind in _ONE_AT_A_TIME and round_s < self.timeout_s:
            raise InputError(
                f"probe {self.name}: each source is asked every {round_s:g} s, and may take {self.timeout_s:g} s",
                hint="where a client keeps something one request waits for the other: more sources or a lower rate",
            )
        other = [source for source in self.sources if (":" in source) != (":" in self.address)]
        if other:
            raise InputError(
                f"probe {self.name}: {other[0]} can't ask {self.address}: one is IPv4, the other IPv6",
                hint="give sources of the address's own kind: a NIC's extra_addresses, or its extra_addresses6",
            )
        if self.kind is Kind.DNS and not (self.question or self.host):
            raise InputError(f"probe {self.name}: a question is missing, the name to be resolved")
        if self.kind in _LOG_IN and not (self.user and self.password):
            raise InputError(f"probe {self.name}: {self.kind} logs in: user and password are missing")
        if self.kind is Kind.SUBMIT and not self.to:
            raise InputError(f"probe {self.name}: to is missing, the address that mail is sent to")

    @property
    def interval_s(self) -> float:
        """From one request to the next, over all sources."""
        return 1.0 / self.rate_hz

    @property
    def target(self) -> str:
        """address:port, an IPv6 address in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def plan(self) -> dict[str, Any]:
        """The prober's plan."""
        values = dataclasses.asdict(self)
        expect = values.pop("expect")
        for ours in ("rate_hz", "question", *(() if self.kind in _LOG_IN else ("user", "password"))):
            del values[ours]
        return {**values, **expect, "interval_s": self.interval_s, **self._spoken()}

    def _spoken(self) -> dict[str, Any]:
        """What the prober, which knows datagrams and lines, has to say for this kind."""
        match self.kind:
            case Kind.DNS:
                return {"payload": question_of(self.question or self.host).hex()}
            case Kind.WEBMAIL:
                return {"secure": True, "body": self.expect.body or '"uids"'}
            case kind if kind in _SPOKEN:
                return _SPOKEN[kind]
        if not (dialogue := self._dialogue()):
            return {}
        secure = self.kind in {Kind.SMTPS, Kind.IMAPS, Kind.POP3S}
        return {"kind": "lines", "secure": secure, "starttls": self.kind is Kind.SIEVE, "dialogue": dialogue}

    def _dialogue(self) -> list[tuple[str, str]]:
        """What is awaited, and what is then said; nothing for kinds without lines."""
        match self.kind:
            case Kind.SMTP | Kind.SMTPS:
                return [("220 ", "EHLO probe.invalid"), ("250 ", "QUIT"), ("221 ", "")]
            case Kind.IMAP | Kind.IMAPS:
                login = [(GREETING, f"a LOGIN {quoted(self.user)} {quoted(self.password)}"), ("a OK", "b LOGOUT")]
                return [*(login if self.user else [(GREETING, "b LOGOUT")]), ("b OK", "")]
            case Kind.POP3 | Kind.POP3S:
                login = [(r"\+OK", f"USER {self.user}"), (r"\+OK", f"PASS {self.password}")]
                return [*(login if self.user else []), (r"\+OK", "QUIT"), (r"\+OK", "")]
            case Kind.SIEVE:
                word = base64.b64encode(f"\0{self.user}\0{self.password}".encode()).decode()
                login = [("OK", f'AUTHENTICATE "PLAIN" "{word}"')] if self.user else []
                return [("OK", "STARTTLS"), ("OK", TO_TLS), *login, ("OK", "LOGOUT"), ("OK", "")]
            case _:
                return []


def question_of(name: str) -> bytes:
    """A DNS question for the address of a name, but for the two bytes that tell questions apart (RFC 1035, 4.1)."""
    labels = name.rstrip(".").encode("idna").split(b".")
    asked = b"".join(bytes([len(label)]) + label for label in labels if label) + b"\0"
    return bytes.fromhex("0100 0001 0000 0000 0000") + asked + bytes.fromhex("0001 0001")
