"""Checks of nodes: their NICs, images and roles."""

from __future__ import annotations

from collections.abc import Iterator

from labctl.topology.catalogue import Catalogue
from labctl.topology.finding import Finding, KeyPath
from labctl.topology.model import Topology
from labctl.topology.spec import WEBMAIL_ROLE, Session

__all__ = ["check_images", "check_nics", "check_required_roles", "check_roles", "check_roles_together", "check_session"]


def check_nics(topology: Topology) -> Iterator[Finding]:
    """There are nodes, and each has a NIC."""
    if not topology.nodes:
        yield Finding(("nodes",), "is empty; expected at least one node", needs=(("nodes",),))
    for node, settings in topology.nodes.items():
        path = ("nodes", node, "nics")
        if not settings.nics:
            yield Finding(path, "is empty; expected at least one NIC", needs=(path,))


def check_images(topology: Topology, catalogue: Catalogue) -> Iterator[Finding]:
    """The images that the lab and its nodes name are there."""
    named: list[tuple[KeyPath, str]] = [(("image",), topology.image)]
    named += [(("nodes", name, "image"), node.image) for name, node in topology.nodes.items() if node.image]
    for path, image in named:
        if image not in catalogue.images:
            yield Finding(path, f"{image} is not an image; there is {', '.join(sorted(catalogue.images)) or 'none'}")


def check_roles(topology: Topology, catalogue: Catalogue) -> Iterator[Finding]:
    """The roles that nodes have are there, once each, and require nothing that leads back to them."""
    for name, node in topology.nodes.items():
        for index, role in enumerate(node.roles):
            path = ("nodes", name, "roles", index)
            if role not in catalogue.roles:
                yield Finding(path, f"{role} is not a role; there is {', '.join(sorted(catalogue.roles)) or 'none'}")
            elif role in node.roles[:index]:
                yield Finding(path, f"{role} is there twice; expected each role once")
            elif loop := _loop(role, catalogue):
                yield Finding(path, f"{role} requires itself: {' -> '.join(loop)}")


def _loop(role: str, catalogue: Catalogue) -> tuple[str, ...]:
    """A chain of requirements from `role` back to itself, or nothing; the shortest one."""
    chains: list[tuple[str, ...]] = [(role,)]
    seen: set[str] = set()
    for chain in chains:
        for required in catalogue.roles.get(chain[-1], ()):
            if required == role:
                return (*chain, required)
            if required not in seen:
                seen.add(required)
                chains.append((*chain, required))
    return ()


def check_roles_together(topology: Topology, catalogue: Catalogue) -> Iterator[Finding]:
    """No two roles of a node, nor what comes with them, write the same file: the later would undo the earlier."""
    for name, node in topology.nodes.items():
        writers: dict[str, str] = {}
        for index, role in enumerate(node.roles):
            for part in catalogue.with_companions((role,)):
                taken = {f: writers.setdefault(f, part) for f in catalogue.files.get(part, ())}
                # Of two roles, the first file will do.
                for other, file in {other: file for file, other in reversed(taken.items()) if other != part}.items():
                    says = f"{part} and {other} both write {file}; expected them on different nodes"
                    yield Finding(("nodes", name, "roles", index), says)


def check_required_roles(topology: Topology, catalogue: Catalogue) -> Iterator[Finding]:
    """What a role requires is provided by some node of the lab."""
    provided = {role for node in topology.nodes.values() for role in catalogue.with_companions(node.roles)}
    for name, node in topology.nodes.items():
        for index, role in enumerate(node.roles):
            needs = [r for companion in catalogue.with_companions((role,)) for r in catalogue.roles.get(companion, ())]
            for required in dict.fromkeys(needs):
                if required not in provided:
                    says = f"{role} requires the role {required}; expected it on some node of the lab"
                    yield Finding(("nodes", name, "roles", index), says, needs=(("nodes",),))


def check_session(topology: Topology) -> Iterator[Finding]:
    """Sessions are shared only where somebody has any."""
    webmail = any(WEBMAIL_ROLE in node.roles for node in topology.nodes.values())
    if topology.session is Session.SHARED and not webmail:
        says = f"is shared, and no node has the role {WEBMAIL_ROLE}, whose sessions it is about"
        yield Finding(("session",), says, needs=(("nodes",),))
