"""A lab's passwords and keys: random, made on the host, and the same for as long as the lab is there.

Roles declare what they need (`secrets` in `role.yaml`), the topology names the users; see `Secrets.completed`.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from labctl.authority import Authority, make_authority

__all__ = ["SecretKind", "Secrets", "make_password"]

ROOT_CERTIFICATE = "root_certificate"
PASSWORD_LENGTH = 20
_LETTERS = string.ascii_letters + string.digits  # nothing that a shell, a URL or a configuration file reads otherwise


class SecretKind(StrEnum):
    """What kind of secret a role asks for; each stands for one or more values."""

    PASSWORD = "password"  # noqa: S105 -- a word, not a password
    ACCOUNT = "account"  # the password of the role's own account in the directory
    HEX_KEY = "hex-key"  # 16 bytes in hexadecimal
    AUTHORITY = "authority"  # the keys and certificates of `make_authority`

    def values(self, name: str, domain: str) -> dict[str, str]:
        """Fresh values, by name; `name` is the role's name for a single one."""
        match self:
            case SecretKind.PASSWORD | SecretKind.ACCOUNT:
                return {name: make_password()}
            case SecretKind.HEX_KEY:
                return {name: secrets.token_hex(16)}
            case SecretKind.AUTHORITY:
                return {f"{name}_{part}": value for part, value in asdict(make_authority(domain)).items()}

    def names(self, name: str) -> tuple[str, ...]:
        """The names of its values, which are known before they are."""
        if self is SecretKind.AUTHORITY:
            return tuple(f"{name}_{part.name}" for part in fields(Authority))
        return (name,)


Wanted = Mapping[str, Mapping[str, SecretKind]]  # role → name → kind


@dataclass(frozen=True)
class Secrets:
    """All of a lab's.

    Attributes:
        roles: by role and name.
        users: passwords by user.
    """

    roles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any) -> Secrets:
        """From what `asdict` made and JSON kept.

        Raises:
            ValueError, TypeError, AttributeError, KeyError: it is something else.
        """
        roles = {str(role): _texts(values) for role, values in data["roles"].items()}
        return cls(roles, _texts(data["users"]))

    @classmethod
    def stand_ins(cls, wanted: Wanted, users: tuple[str, ...]) -> Secrets:
        """Words in their place, for what has to be known before they are, or without them: digests, plans, checks."""
        roles = {
            role: {n: f"(secret {role}.{n})" for name, kind in names.items() for n in kind.names(name)}
            for role, names in wanted.items()
        }
        return cls(roles, {user: f"(secret users.{user})" for user in users})

    def completed(self, wanted: Wanted, users: tuple[str, ...], domain: str) -> Secrets:
        """These, and fresh ones for whatever is wanted and not there yet; what nobody wants any more stays."""
        roles = {role: dict(values) for role, values in self.roles.items()}
        for role, names in wanted.items():
            has = roles.setdefault(role, {})
            for name, kind in names.items():
                if not has.keys() >= set(kind.names(name)):
                    has.update(kind.values(name, domain))
        fresh = {user: make_password() for user in users if user not in self.users}
        return Secrets(roles, {**self.users, **fresh})

    def fit(self, others: Secrets) -> bool:
        """Whether both could be the same lab's: what both have is the same."""
        mine, theirs = dict(self.items()), dict(others.items())
        return all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())

    def joined(self, others: Secrets) -> Secrets:
        """These, and what others have besides."""
        names = {**others.roles, **self.roles}
        roles = {role: {**others.roles.get(role, {}), **self.roles.get(role, {})} for role in names}
        return Secrets(roles, {**others.users, **self.users})

    @property
    def root_certificates(self) -> str:
        """The roots of the lab's authorities, in PEM, one after the other."""
        ends = f"_{ROOT_CERTIFICATE}"
        return "".join(text for values in self.roles.values() for name, text in values.items() if name.endswith(ends))

    def items(self) -> Iterator[tuple[str, str]]:
        """Each with its name as people ask for it: `users.alice`, `domain-controller.administrator`."""
        yield from ((f"users.{user}", value) for user, value in self.users.items())
        yield from ((f"{role}.{name}", value) for role, values in self.roles.items() for name, value in values.items())


def make_password() -> str:
    """A password that every directory's rules take: 20 letters and digits, of each kind at least one."""
    while True:
        word = "".join(secrets.choice(_LETTERS) for _ in range(PASSWORD_LENGTH))
        if any(c.islower() for c in word) and any(c.isupper() for c in word) and any(c.isdigit() for c in word):
            return word


def _texts(values: Any) -> dict[str, str]:
    if not all(isinstance(text, str) for pair in values.items() for text in pair):
        raise TypeError("a secret is a text")
    return dict(values)
