"""What the templates of a role see.

lab, node               the whole lab, and the node that the role is rendered for
names                   what clients call the node's service, the most public name first; its certificate's names
names_of(role)          the names under the domain at which clients reach a role, with the addresses behind each
in_turns                names that clients find at several addresses, one after the other
provider(role)          the first node that has a role; StopIteration is an error of the topology
providers(role)         all nodes that have it
secrets                 by role and name
passwords               by user
account(role)           what a role's own account in the directory is called
accounts                all of those, with their passwords
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from labctl.secrets import SecretKind, Secrets
from labctl.topology.spec import LabSpec, NodeSpec
from labctl.topology.values import IPAddress

__all__ = ["account_name", "context_of", "names_of_node", "reached_at"]


class Needs(Protocol):
    """What a role declares, as far as others see it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Labels under the lab's domain."""
        ...

    @property
    def secrets(self) -> Mapping[str, SecretKind]:
        """By name."""
        ...


def context_of(lab: LabSpec, node: NodeSpec, library: Mapping[str, Needs], secrets: Secrets) -> dict[str, Any]:
    """See the module.

    Args:
        library: the lab's roles.
    """
    return {
        "lab": lab,
        "node": node,
        "names": names_of_node(lab, node, library),
        "names_of": lambda role: _names_of(lab, role, library),
        "in_turns": [
            name for role in library for name, found in _names_of(lab, role, library).items() if _several(found)
        ],
        "provider": lambda role: next(n for n in lab.nodes if role in n.roles),
        "providers": lambda role: [n for n in lab.nodes if role in n.roles],
        "roles": library,
        "secrets": secrets.roles,
        "passwords": secrets.users,
        "account": account_name,
        "accounts": lambda: dict(_accounts(library, secrets)),
    }


def _names_of(lab: LabSpec, role: str, library: Mapping[str, Needs]) -> dict[str, list[IPAddress]]:
    """The names under the domain at which clients reach a role; one that is a cluster's has its addresses alone."""
    clusters = {c.fqdn: list(c.addresses) for c in lab.clusters}
    names = [f"{label}.{lab.domain}" for label in library[role].names]
    return {name: clusters.get(name) or reached_at(lab, role) for name in names}


def _several(addresses: Iterable[IPAddress]) -> bool:
    """Whether a client that knows one kind of address has a choice."""
    kinds = [address.version for address in addresses]
    return len(kinds) > len(set(kinds))


def names_of_node(lab: LabSpec, node: NodeSpec, library: Mapping[str, Needs]) -> list[str]:
    """The names by which clients reach the node, the most public first and its own last."""
    clusters = [c.fqdn for c in lab.clusters_of(node.name)]
    of_roles = [f"{label}.{lab.domain}" for role in node.roles for label in library[role].names]
    return list(dict.fromkeys([*clusters, *of_roles, node.fqdn]))


def reached_at(lab: LabSpec, role: str) -> list[IPAddress]:
    """Where clients find a role: at the virtual addresses of its nodes' clusters, else at the nodes' own."""
    found: list[IPAddress] = []
    for node in (n for n in lab.nodes if role in n.roles):
        found += [a for c in lab.clusters_of(node.name) for a in c.addresses] or [node.address]
    return list(dict.fromkeys(found))


def account_name(role: str) -> str:
    """What the account of a role is called in the directory (sAMAccountName, 20 characters at most)."""
    return f"svc-{role}"[:20]


def _accounts(library: Mapping[str, Needs], secrets: Secrets) -> Iterator[tuple[str, str]]:
    for role, needs in library.items():
        for name, kind in needs.secrets.items():
            if kind is SecretKind.ACCOUNT:
                yield account_name(role), secrets.roles[role][name]
