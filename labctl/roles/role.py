"""Roles: folders of templates with one idempotent script and readiness checks, rendered for a node.

A role folder holds `role.yaml`:

    description: one line
    requires: [role, …]      roles that some node of the lab must provide; this one waits until they are ready
    wants: [role, …]         the same, where the lab has them
    files: {path in the guest: {template: file, mode: "0644"}}
    script: file             rendered and run after the files are there; running it twice changes nothing
    exports: {name: path}    files whose text other roles see as `facts[ROLE].name`
    ready: [{what, command}] shell commands that end with 0 when the role serves

Templates see `lab`, `node`, `names` (what clients call this node's service), `provider(role)` and `facts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from labctl.errors import InputError
from labctl.render.scripts import alone
from labctl.render.templates import render_text
from labctl.topology.spec import LabSpec, NodeSpec, digest_of

__all__ = [
    "LIBRARY",
    "Facts",
    "ReadyCheck",
    "RenderedRole",
    "Role",
    "digest_of_roles",
    "in_order",
    "load_role",
    "providers",
    "render_role",
    "role_checks",
]

LIBRARY = Path(__file__).parent / "library"

Facts = Mapping[str, Mapping[str, str]]  # role → name → text


@dataclass(frozen=True, slots=True)
class ReadyCheck:
    """A condition for a role to be ready: `command` ends with 0 in the node's shell."""

    what: str
    command: str


@dataclass(frozen=True)
class Role:
    """A role folder, read."""

    name: str
    folder: Path
    requires: tuple[str, ...]
    wants: tuple[str, ...]
    files: dict[str, dict[str, str]]
    script: str
    exports: dict[str, str]
    ready: tuple[dict[str, str], ...]

    def after(self, lab: LabSpec) -> tuple[str, ...]:
        """The roles that must be ready in `lab` before this one is applied."""
        provided = {role for node in lab.nodes for role in node.roles}
        return (*self.requires, *(w for w in self.wants if w in provided))


@dataclass(frozen=True)
class RenderedRole:
    """A role as it goes to one node: files with (content, permissions), the script, and what tells that it serves."""

    name: str
    files: dict[str, tuple[bytes, int]]
    script: str
    exports: dict[str, str]
    ready: tuple[ReadyCheck, ...]


@cache
def load_role(name: str) -> Role:
    """Read a role of the library; once, since a plan asks for the same few again and again.

    Raises:
        InputError: there is none of that name.
    """
    folder = LIBRARY / name
    if not (folder / "role.yaml").is_file():
        known = sorted(p.parent.name for p in LIBRARY.glob("*/role.yaml"))
        raise InputError(f"role {name} does not exist", hint=f"roles: {', '.join(known)}")
    raw: dict[str, Any] = YAML(typ="safe").load(folder / "role.yaml")
    return Role(
        name,
        folder,
        tuple(raw.get("requires", ())),
        tuple(raw.get("wants", ())),
        raw.get("files", {}),
        raw["script"],
        raw.get("exports", {}),
        tuple(raw.get("ready", ())),
    )


def in_order(names: Sequence[str], lab: LabSpec) -> tuple[str, ...]:
    """`names`, each after those that it waits for; nodes that all keep to this order never wait in a circle."""
    waits_for = {name: load_role(name).after(lab) for node in lab.nodes for name in node.roles}
    everything = list(TopologicalSorter(waits_for).static_order())
    return tuple(sorted(names, key=everything.index))


def providers(lab: LabSpec) -> dict[str, tuple[str, ...]]:
    """By node, the other nodes that its roles wait for."""
    return {node.name: tuple(_providers(lab, node)) for node in lab.nodes}


def _providers(lab: LabSpec, node: NodeSpec) -> Iterator[str]:
    after = {name for role in node.roles for name in load_role(role).after(lab)}
    return (other.name for other in lab.nodes if other is not node and after.intersection(other.roles))


def render_role(role: Role, lab: LabSpec, node: NodeSpec, facts: Facts) -> RenderedRole:
    """Render a role for a node.

    Raises:
        LabError: a template names something that isn't there.
    """
    context = _context(lab, node, facts)

    def template(file: str) -> str:
        return render_text((role.folder / file).read_text(), f"{role.name}/{file}", context)

    files = {p: (template(f["template"]).encode(), int(f.get("mode", "0644"), 8)) for p, f in role.files.items()}
    ready = tuple(
        ReadyCheck(c["what"], render_text(c["command"], f"{role.name}/role.yaml", context)) for c in role.ready
    )
    return RenderedRole(role.name, files, alone(template(role.script)), role.exports, ready)


def digest_of_roles(lab: LabSpec, node: NodeSpec) -> str:
    """Names everything that the node's roles put on it, but for facts, which are known only once they exist."""
    return digest_of(_rendered_without_facts(lab, node))


def role_checks(lab: LabSpec, node: NodeSpec) -> dict[str, tuple[ReadyCheck, ...]]:
    """What tells that the node serves, by role."""
    return {role.name: role.ready for role in _rendered_without_facts(lab, node)}


def _rendered_without_facts(lab: LabSpec, node: NodeSpec) -> list[RenderedRole]:
    roles = [load_role(name) for name in node.roles]
    return [render_role(role, lab, node, _pending_facts(role, lab)) for role in roles]


def _context(lab: LabSpec, node: NodeSpec, facts: Facts) -> dict[str, Any]:
    def provider(role: str) -> NodeSpec:
        return next(n for n in lab.nodes if role in n.roles)

    names = [*(c.fqdn for c in lab.clusters_of(node.name)), node.fqdn]
    return {"lab": lab, "node": node, "names": names, "provider": provider, "facts": facts}


def _pending_facts(role: Role, lab: LabSpec) -> dict[str, dict[str, str]]:
    """Stand-ins for the facts that a role will see, so that its templates can be rendered before they are known."""
    return {name: {fact: f"(fact {name}.{fact})" for fact in load_role(name).exports} for name in role.after(lab)}
