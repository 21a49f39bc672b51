"""Probes as data: what is asked of a service, from where, how often, and what counts as right."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from labctl.errors import InputError

__all__ = ["Expect", "Kind", "Probe", "question_of"]

_GREETING = r"\* (OK|PREAUTH)"  # of IMAP


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
        timeout_s: of one request. Below 1 s a connection is tried with a single SYN (RFC 6298, 2.1), so that a sample
            speaks of one moment.
        limit_s: after so long the sampling ends by itself, for the case that nobody is left to stop it.
        late_s: a request that starts so much after it was due is late.
        clock_s: from one sign of life of the sampling to the next.
        ca_file: in the guest; its own CA store when empty.
        user, password: of IMAP and POP3.
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
    password: str = ""
    question: str = ""
    linger: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise InputError(f"probe {self.name!r}: a name is made of letters, digits, '-', '_' and '.'")
        for what in ("rate_hz", "timeout_s", "limit_s"):
            if getattr(self, what) <= 0:
                raise InputError(f"probe {self.name}: {what} is {getattr(self, what)}, expected more than 0")
        round_s = max(1, len(self.sources)) * self.interval_s
        if self.kind in {Kind.KEPT, Kind.KEPT_TLS} and round_s < self.timeout_s:
            raise InputError(
                f"probe {self.name}: each source is asked every {round_s:g} s, and may take {self.timeout_s:g} s",
                hint="on a connection that is kept one request waits for the other: take more sources or a lower rate",
            )
        other = [source for source in self.sources if (":" in source) != (":" in self.address)]
        if other:
            raise InputError(
                f"probe {self.name}: {other[0]} can't ask {self.address}: one is IPv4, the other IPv6",
                hint="give sources of the address's own kind: a NIC's extra_addresses, or its extra_addresses6",
            )
        if self.kind is Kind.DNS and not (self.question or self.host):
            raise InputError(f"probe {self.name}: a question is missing, the name to be resolved")

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
        for ours in ("rate_hz", "user", "password", "question"):
            del values[ours]
        return {**values, **expect, "interval_s": self.interval_s, **self._spoken()}

    def _spoken(self) -> dict[str, Any]:
        """What the prober, which knows datagrams and lines, has to say for this kind."""
        match self.kind:
            case Kind.DNS:
                return {"payload": question_of(self.question or self.host).hex()}
            case Kind.HTTPS:
                return {"kind": "http", "secure": True}
            case Kind.KEPT_TLS:
                return {"kind": "kept", "secure": True}
            case Kind.SMTP | Kind.SMTPS:
                dialogue = [("220 ", "EHLO probe.invalid"), ("250 ", "QUIT"), ("221 ", "")]
            case Kind.IMAP | Kind.IMAPS:
                login = [
                    (_GREETING, f"a LOGIN {_quoted(self.user)} {_quoted(self.password)}"),
                    ("a OK", "b LOGOUT"),
                ]
                dialogue = [*(login if self.user else [(_GREETING, "b LOGOUT")]), ("b OK", "")]
            case Kind.POP3 | Kind.POP3S:
                login = [(r"\+OK", f"USER {self.user}"), (r"\+OK", f"PASS {self.password}")]
                dialogue = [*(login if self.user else []), (r"\+OK", "QUIT"), (r"\+OK", "")]
            case _:
                return {}
        secure = self.kind in {Kind.SMTPS, Kind.IMAPS, Kind.POP3S}
        return {"kind": "lines", "secure": secure, "dialogue": dialogue}


def question_of(name: str) -> bytes:
    """A DNS question for the address of a name, but for the two bytes that tell questions apart (RFC 1035, 4.1)."""
    labels = name.rstrip(".").encode("idna").split(b".")
    asked = b"".join(bytes([len(label)]) + label for label in labels if label) + b"\0"
    return bytes.fromhex("0100 0001 0000 0000 0000") + asked + bytes.fromhex("0001 0001")


def _quoted(text: str) -> str:
    """As an IMAP quoted string (RFC 9051, 4.3)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
