"""What the prober is told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What to ask, how often, and what counts as right.

    Attributes:
        kind: `tcp` (connect), `http` (GET), `kept` (GET on a connection that each source keeps), `udp` (one
            datagram, one answer), `dns` (the same, and the answer must resolve), or `lines` (a dialogue line by line).
        host: name for the Host header, for the TLS server name and for the certificate; else the address.
        interval_s: from one request to the next, over all sources.
        limit_s: seconds after which it stops by itself.
        status: the HTTP status expected.
        body: regular expression that must be found in the body, or the datagram; empty for any.
        member: regular expression whose first group in the body names the member; a header X-Labctl-Member comes first.
        ca_file: trusted certificates; empty for the guest's own.
        payload: the datagram to send; hexadecimal of `dns`.
        linger: of `udp`: wait until the timeout for further answers, and count them.
        dialogue: of `lines`: what a line must begin with, and what is then sent; other lines before it are read over.
        secure: over TLS from the first byte on.
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
