"""Checks of names: what libvirt, Linux, NetBIOS and DNS take."""

from __future__ import annotations

import re
from collections.abc import Iterator

from labctl.topology.finding import Finding, KeyPath
from labctl.topology.model import Topology
from labctl.topology.values import LABEL

__all__ = ["check_domain", "check_fqdns", "check_lab_name", "check_names"]

RESERVED = ("test", "example", "example.com", "example.net", "example.org", "home.arpa", "internal")
"""Domains that no one can own: RFC 6761 and 2606, RFC 8375, and ICANN's of 2024.

`localhost` and `invalid` are reserved too, but resolvers answer them on their own; `local` belongs to mDNS.
"""

_NOT_DNS = "is not a DNS name; expected lower-case letters, digits and hyphens between dots"

LONGEST_FQDN = 64  # Linux's HOST_NAME_MAX, and a certificate's common name (RFC 5280, ub-common-name)


def check_names(topology: Topology) -> Iterator[Finding]:
    """Names of the lab, its networks, nodes, NICs and clusters."""
    yield from check_lab_name(topology.lab)
    for network in topology.networks:
        yield from _label(("networks", network), network, 32, "libvirt's network is named after it")
    for node, settings in topology.nodes.items():
        yield from _label(("nodes", node), node, 15, "NetBIOS takes no more")
        for nic in settings.nics:
            yield from _label(("nodes", node, "nics", nic), nic, 15, "Linux takes no more")
    for cluster in topology.clusters:
        yield from _label(("clusters", cluster), cluster, 32, "what belongs to the cluster is named after it")


def check_lab_name(lab: str) -> Iterator[Finding]:
    """The lab's own name, be it from the topology or from the command line."""
    yield from _label(("lab",), lab, 32, "what the lab owns is named after it", value=lab)


def _label(path: KeyPath, name: str, longest: int, why: str, *, value: str = "") -> Iterator[Finding]:
    subject = f"{value} " if value else ""
    if not re.fullmatch(LABEL, name):
        yield Finding(
            path,
            f"{subject}can't be a name; expected lower-case letters, digits and hyphens, at least one letter, "
            "no hyphen at either end",
            at_key=not value,
        )
    elif len(name) > longest:
        yield Finding(path, f"{subject}has {len(name)} characters; expected {longest} at most: {why}", at_key=not value)
    elif name in {"localhost", "lo"}:
        yield Finding(path, f"{subject}means the machine itself everywhere; expected another name", at_key=not value)


def check_domain(topology: Topology) -> Iterator[Finding]:
    """The lab's domain: DNS takes it, and nobody in the world can own it."""
    domain, path = topology.domain, ("domain",)
    longest = LONGEST_FQDN - len("123456789012345.")
    if not _is_dns_name(domain):
        yield Finding(path, f"{domain} {_NOT_DNS}")
    elif len(domain) > longest:
        yield Finding(path, f"{domain} has {len(domain)} characters; expected {longest} at most")
    elif domain in RESERVED and "." not in domain:
        yield Finding(path, f"{domain} is a top-level domain; expected one under it, like {topology.lab}.{domain}")
    elif not any(domain.endswith(f".{name}") or (domain == name and "." in name) for name in RESERVED):
        like = domain.split(".")[0]
        reserved = f"{', '.join(RESERVED[:-1])} or {RESERVED[-1]}"
        says = f"{domain} could be someone's real domain; expected one like {like}.test, under {reserved}"
        yield Finding(path, says)


def check_fqdns(topology: Topology) -> Iterator[Finding]:
    """The clusters' FQDNs: inside the lab's domain, and each one's own."""
    taken = {f"{node}.{topology.domain}": f"the node {node}" for node in topology.nodes}
    for name, cluster in topology.clusters.items():
        fqdn, path = cluster.fqdn, ("clusters", name, "fqdn")
        if not _is_dns_name(fqdn):
            yield Finding(path, f"{fqdn} {_NOT_DNS}")
        elif len(fqdn) > LONGEST_FQDN:
            yield Finding(path, f"{fqdn} has {len(fqdn)} characters; expected {LONGEST_FQDN} at most")
        elif not fqdn.endswith(f".{topology.domain}"):
            says = f"{fqdn} is outside the lab's domain; expected a name under {topology.domain}"
            yield Finding(path, says, needs=(("domain",),))
        elif fqdn in taken:
            yield Finding(path, f"{fqdn} is the name of {taken[fqdn]} already")
        taken.setdefault(fqdn, f"the cluster {name}")


def _is_dns_name(name: str) -> bool:
    labels = name.split(".")
    return len(name) <= 253 and all(len(label) <= 63 and re.fullmatch(LABEL, label) for label in labels)
