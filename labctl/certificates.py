"""The certificates of a lab's authority: what it has issued, asking for others, and taking them back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from labctl.errors import GuestError
from labctl.guest.agent import Guest

__all__ = ["Certificate", "Enrolment", "RevocationReason", "current", "enrol", "issued", "revoke"]

_WITHIN_S = 120.0  # emulated, Python alone takes a second to start


class Enrolment(StrEnum):
    """How a node asks for another certificate: with a new key, or with the one that it has."""

    ISSUE = "issue"
    RENEW = "renew"


class RevocationReason(StrEnum):
    """Why a certificate is taken back (RFC 5280, 5.3.1), in cfssl's words."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keycompromise"
    SUPERSEDED = "superseded"
    CESSATION = "cessationofoperation"
    PRIVILEGE_WITHDRAWN = "privilegewithdrawn"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate that the authority issued.

    Attributes:
        serial: decimal.
        names: DNS names that it is for.
        revoked_at: None while it is good.
    """

    serial: str
    names: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


def issued(authority: Guest) -> tuple[Certificate, ...]:
    """All that the authority has issued, the oldest first.

    Args:
        authority: the node that has the role.

    Raises:
        GuestError: it doesn't say, or not what it should.
    """
    said = authority.succeed(["labctl-ca", "list"], within_s=_WITHIN_S)
    try:
        return tuple(_certificate(row) for row in json.loads(said))
    except (ValueError, TypeError, KeyError) as error:
        raise GuestError(f"{authority.name}: labctl-ca list: its answer can't be read: {error!r}") from error


def current(found: Iterable[Certificate], name: str) -> Certificate | None:
    """The newest certificate for a DNS name that was not revoked."""
    return max((c for c in found if name in c.names and c.revoked_at is None), key=lambda c: c.issued_at, default=None)


def enrol(guest: Guest, how: Enrolment) -> None:
    """Let a node ask for another certificate, and its services take it; the one that it had stays good.

    Raises:
        CommandFailed: the authority refused, or can't be reached; the old one is still in use.
    """
    guest.succeed(["labctl-enrol", how.value], within_s=_WITHIN_S)


def revoke(authority: Guest, serial: str, reason: RevocationReason) -> None:
    """Take a certificate back, and publish the list that says so.

    Raises:
        CommandFailed: there is none of that serial number, or it was revoked before.
    """
    authority.succeed(["labctl-ca", "revoke", serial, reason.value], within_s=_WITHIN_S)


def _certificate(row: dict[str, Any]) -> Certificate:
    revoked = row["status"] == "revoked"
    return Certificate(
        serial=row["serial_number"],
        names=tuple(json.loads(row["sans"])),
        issued_at=_moment(row["issued_at"]),
        expires_at=_moment(row["expiry"]),
        revoked_at=_moment(row["revoked_at"]) if revoked else None,
    )


def _moment(text: str) -> datetime:
    """As SQLite keeps it: `2026-11-22 20:13:09.72+00:00`, always UTC, with as many digits as there are."""
    return datetime.strptime(text[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
