"""Ports of a node, or of what it reaches, as ports of this host."""

from __future__ import annotations

import errno
import re
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from labctl.errors import GuestError, HostError, InputError
from labctl.guest.agent import Guest
from labctl.topology.spec import NodeSpec

__all__ = ["LOOPBACK", "Forward", "parse_forwards", "refuse_taken_ports", "ssh_arguments", "who_listens"]

LOOPBACK = "127.0.0.1"
CONNECT_WITHIN_S = 10
_MOST_PORT = 65535
_WRITTEN = re.compile(r"(?:(?P<local>\d+):)?(?:(?P<host>(?!\d+:)[A-Za-z0-9.-]+):)?(?P<port>\d+)")
# bash opens a connection for whoever names it so; what is wrong with it comes last on a line of its error output.
_TRY = 'timeout "$1" bash -c \'exec 3<>"/dev/tcp/$0/$1"\' "$2" "$3"'
_TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class Forward:
    """One port.

    Attributes:
        local: on this host's loopback address.
        host: what the node connects to, as it knows it; empty for the node itself.
        port: there.
    """

    local: int
    host: str
    port: int


def parse_forwards(written: Sequence[str], local: int | None = None) -> tuple[Forward, ...]:
    """Read `[LOCAL:][HOST:]PORT`, as `ssh -L` has it; LOCAL is the same number as PORT when it is left out.

    Args:
        local: the local port of a single one.

    Raises:
        InputError: what is written means nothing, or two mean the same local port.
    """
    forwards = [_parse(text) for text in written]
    if local is not None:
        if len(forwards) != 1:
            raise InputError("--local is for one port alone", hint="write LOCAL:PORT for each of several")
        forwards = [replace(forwards[0], local=_port(str(local), f"--local {local}"))]
    for again in (f for n, f in enumerate(forwards) if f.local in {g.local for g in forwards[:n]}):
        raise InputError(f"local port {again.local} is given twice", hint=f"give it another one: {_elsewhere(again)}")
    return tuple(forwards)


def _parse(text: str) -> Forward:
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise InputError(f"{text} is no port to forward; expected [LOCAL:][HOST:]PORT", hint="for example 8443:443")
    port = _port(found["port"], text)
    return Forward(_port(found["local"], text) if found["local"] else port, found["host"] or "", port)


def _port(digits: str, text: str) -> int:
    port = int(digits)
    if not 1 <= port <= _MOST_PORT:
        raise InputError(f"{text}: {digits} is no port; expected 1 to {_MOST_PORT}")
    return port


def refuse_taken_ports(forwards: Sequence[Forward]) -> None:
    """See that the local ports can be had.

    Raises:
        HostError: one can't be.
    """
    for forward in forwards:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((LOOPBACK, forward.local))
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                why = "something else listens there" if taken else str(error.strerror)
                hint = f"take another one: {_elsewhere(forward)}"
                raise HostError(f"local port {forward.local}: {why}", hint=hint) from error


def _elsewhere(forward: Forward) -> str:
    """The same at another local port, as people write it."""
    local = 8000 + (forward.local + 1) % 1000 if forward.local >= 8000 else 8000 + forward.local % 1000
    return f"{local}:{forward.host}:{forward.port}" if forward.host else f"{local}:{forward.port}"


def who_listens(guest: Guest, node: NodeSpec, forward: Forward) -> Forward:
    """The same with the host that answers, seen from the node: of the node itself, the first of its own addresses.

    Raises:
        GuestError: nobody answers there.
    """
    hosts = (forward.host,) if forward.host else ("localhost", *(str(nic.address.ip) for nic in node.nics))
    why = ""
    for host in hosts:
        why = _refusal(guest, host, forward.port)
        if not why:
            return replace(forward, host=host)
    if forward.host:
        hint = f"labctl exec {node.name} -- ping -c1 {forward.host}"
        raise GuestError(f"{node.name}: {forward.host} does not answer on port {forward.port}: {why}", hint=hint)
    hint = f"labctl exec {node.name} -- ss -ltn"
    raise GuestError(f"{node.name}: nobody listens on port {forward.port}: {why}", hint=hint)


def _refusal(guest: Guest, host: str, port: int) -> str:
    """Empty when a connection could be opened, else why not."""
    tried = guest.run(["/bin/sh", "-c", _TRY, "sh", str(CONNECT_WITHIN_S), host, str(port)])
    if tried.exit_code == _TIMED_OUT:
        return f"no answer within {CONNECT_WITHIN_S} s"
    said = tried.stderr.decode(errors="replace").strip()
    return said.rpartition(": ")[2] or f"exit code {tried.exit_code}" if tried.exit_code else ""


def ssh_arguments(node: str, forwards: Sequence[Forward]) -> list[str]:
    """What tells ssh to forward them until it is interrupted, and to say so once it does."""
    arguments = ["-N", "-o", "ExitOnForwardFailure=yes"]
    said = [f"{LOOPBACK}:{f.local} is {f.host}:{f.port} of {node}; Ctrl-C ends it" for f in forwards]
    # With `%` doubled, ssh(1) runs it as it is, once all ports are there.
    tell = f"printf '%%s\\n' {shlex.join(said)}"
    arguments += ["-o", "PermitLocalCommand=yes", "-o", f"LocalCommand={tell}"]
    for forward in forwards:
        arguments += ["-L", f"{LOOPBACK}:{forward.local}:{forward.host}:{forward.port}"]
    return arguments
