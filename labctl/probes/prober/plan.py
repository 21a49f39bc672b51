"""What the prober is told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What to ask, how often, and what counts as right.

    Attributes:
        kind: a name in `kinds.KINDS`, such as `tcp` (connect), `http` (GET or POST), `kept` (GET on a connection that
            each source keeps), `udp` (one datagram, one answer), `dns` (the same, and the answer must resolve),
            `lines` (a dialogue line by line).
        host: name for the Host header, for the TLS server name and for the certificate; else the address.
        interval_s: from one request to the next, over all sources.
        timeout_s: of one request; of `download`, the longest time in which nothing comes.
        limit_s: seconds after which it stops by itself.
        status: the HTTP status expected.
        body: regular expression that must be found in the body, or the datagram; empty for any.
        member: regular expression whose first group in the body names the member; a header X-Labctl-Member comes first.
        ca_file: trusted certificates; empty for the guest's own.
        payload: the datagram to send; hexadecimal of `dns`.
        linger: of `udp`: wait until the timeout for further answers, and count them.
        dialogue: of `lines`: what a line must begin with, and what is then sent; other lines before it are read over.
            What is sent may be `dialogue.TO_TLS`: nothing, but the connection goes on over TLS.
        secure: over TLS from the first byte on.
        starttls: over TLS later; of `submit`: as soon as the server has said what it can.
        post: of `http`: what is sent with POST; empty for a GET.
        kib_s: of `download`: no faster than so much; 0 for no bound.
        user, password, to: of who logs in, and to whom `submit` sends.
    """

    name: str
    kind: str
    address: str
    port: int
    interval_s: float
    timeout_s: float
    limit_s: float
    host: str = ""
    path: str = "/"
    sources: tuple[str, ...] = ()
    late_s: float = 0.1
    clock_s: float = 1.0
    status: int = 200
    body: str = ""
    member: str = ""
    ca_file: str = ""
    payload: str = "labctl\n"
    linger: bool = False
    dialogue: tuple[tuple[str, str], ...] = ()
    secure: bool = False
    starttls: bool = False
    post: str = ""
    content_type: str = ""
    kib_s: float = 0.0
    user: str = ""
    password: str = ""
    to: str = ""
