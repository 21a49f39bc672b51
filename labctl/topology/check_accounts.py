"""Checks of users, groups and the directory that holds them: what Active Directory, Kerberos and NetBIOS take."""

from __future__ import annotations

import re
from collections.abc import Iterator

from labctl.topology.finding import Finding, KeyPath
from labctl.topology.model import Topology
from labctl.topology.spec import DIRECTORY_ROLE
from labctl.topology.values import ACCOUNT

__all__ = ["check_accounts", "check_directory", "check_group_members", "check_user_names"]

LONGEST_ACCOUNT = 20  # sAMAccountName of a user, [MS-ADA3] 2.222 and its upper range for users

BUILT_IN = frozenset(
    {
        # Of every new domain, compared without regard to case.
        "administrator", "administrators", "guest", "guests", "krbtgt", "users", "replicator",
        "dnsadmins", "dnsupdateproxy",
        # Of every Debian machine, where mail is delivered to accounts of those names.
        "root", "postmaster", "mailer-daemon", "abuse", "hostmaster", "nobody",
    }
)  # fmt: skip

SERVICE_PREFIX = "svc-"


def check_accounts(topology: Topology) -> Iterator[Finding]:
    """Names of users and groups: taken by the directory, and nobody else's."""
    for kind, names in (("users", topology.users), ("groups", topology.groups)):
        for name in names:
            yield from _account((kind, name), name)
    for name in topology.groups:
        if name in topology.users:
            says = "is the name of a user already; the directory has one name space for both"
            yield Finding(("groups", name), says, at_key=True)


def _account(path: KeyPath, name: str) -> Iterator[Finding]:
    if not re.fullmatch(ACCOUNT, name):
        says = (
            "can't be an account; expected lower-case letters, digits, dots, hyphens and underscores, at least one "
            "letter, a letter or digit at either end"
        )
        yield Finding(path, says, at_key=True)
    elif ".." in name:
        yield Finding(path, "has two dots side by side, which no mail address may have", at_key=True)
    elif len(name) > LONGEST_ACCOUNT:
        says = f"has {len(name)} characters; expected {LONGEST_ACCOUNT} at most: the directory takes no more"
        yield Finding(path, says, at_key=True)
    elif name in BUILT_IN:
        yield Finding(path, "is an account of every directory or machine already; expected another name", at_key=True)
    elif name.startswith(SERVICE_PREFIX):
        yield Finding(path, f"begins with {SERVICE_PREFIX}, which labctl keeps for accounts of services", at_key=True)


def check_user_names(topology: Topology) -> Iterator[Finding]:
    """What users are called: a given name and a surname, in one line that configuration files take."""
    for user, settings in topology.users.items():
        name, path = settings.name, ("users", user, "name")
        if len(name.split()) < 2:
            yield Finding(path, f"{name} is one word; expected a given name and a surname")
        elif len(name) > 64:
            yield Finding(path, f"has {len(name)} characters; expected 64 at most: the directory takes no more")
        elif not all(c.isprintable() and c not in '"\\<>' for c in name):
            yield Finding(path, "holds a character that no display name may have: quotes, \\, <, > or a control")


def check_group_members(topology: Topology) -> Iterator[Finding]:
    """Members of groups are users of the lab, each once."""
    for group, settings in topology.groups.items():
        for index, member in enumerate(settings.members):
            path = ("groups", group, "members", index)
            if member not in topology.users:
                says = f"{member} is not a user of this lab; there is {', '.join(topology.users) or 'none'}"
                yield Finding(path, says, needs=(("users", member),))
            elif member in settings.members[:index]:
                yield Finding(path, f"{member} is there twice; expected each user once")


def check_directory(topology: Topology) -> Iterator[Finding]:
    """Users need a directory; a directory is one node's, and its domain has a name that NetBIOS takes."""
    homes = [node for node, settings in topology.nodes.items() if DIRECTORY_ROLE in settings.roles]
    if not homes:
        for key in (key for key, accounts in (("users", topology.users), ("groups", topology.groups)) if accounts):
            says = f"need a directory; expected the role {DIRECTORY_ROLE} on some node of the lab"
            yield Finding((key,), says, needs=(("nodes",),), at_key=True)
        return
    yield from _netbios(topology)
    for node in homes[1:]:
        path = ("nodes", node, "roles", topology.nodes[node].roles.index(DIRECTORY_ROLE))
        yield Finding(path, f"{DIRECTORY_ROLE} is the role of {homes[0]} already; expected it on one node")


def _netbios(topology: Topology) -> Iterator[Finding]:
    """The domain's NetBIOS name is the first label of its DNS name."""
    label = topology.domain.partition(".")[0]
    if len(label) > 15:
        says = f"{topology.domain} begins with {len(label)} characters before the dot; expected 15 at most: NetBIOS"
        yield Finding(("domain",), f"{says} takes no more")
    elif label in topology.nodes:
        says = f"{topology.domain} has {label} for its NetBIOS name, which is the node {label}'s already"
        yield Finding(("domain",), says, needs=(("nodes", label),))
