"""Roles: folders of templates with one idempotent script and readiness checks, rendered for a node.

A role folder holds `role.yaml`:

    description: one line
    requires: [role, …]      roles that some node of the lab must provide; this one waits until they are ready
    wants: [role, …]         the same, where the lab has them
    with: [role, …]          roles that come with it on the same node, applied before it
    names: [label, …]        names under the lab's domain at which clients reach it, besides its nodes' and clusters'
    secrets: {name: kind}    what it needs that nobody must know (`labctl.secrets.SecretKind`)
    files: {path in the guest: {template: file, mode: "0644"}}
    hands_over: {path: path} files for the next machine, by their path on the last one; the script takes them in
    script: file             rendered and run after the files are there; running it twice changes nothing
    ready: [{what, command}] shell commands that end with 0 when the role serves

What templates see is in `labctl/roles/context.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from labctl.errors import InputError
from labctl.render.scripts import alone
from labctl.render.templates import render_text
from labctl.roles.context import context_of
from labctl.secrets import SecretKind, Secrets
from labctl.topology.spec import LabSpec, NodeSpec, digest_of

__all__ = [
    "LIBRARY",
    "ReadyCheck",
    "RenderedRole",
    "Role",
    "digest_of_roles",
    "in_order",
    "load_role",
    "providers",
    "render_role",
    "role_checks",
    "wanted_secrets",
]

LIBRARY = Path(__file__).parent / "library"


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
    ready: tuple[dict[str, str], ...]
    companions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    secrets: Mapping[str, SecretKind] = field(default_factory=dict)
    hands_over: Mapping[str, str] = field(default_factory=dict)

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
        tuple(raw.get("ready", ())),
        companions=tuple(raw.get("with", ())),
        names=tuple(raw.get("names", ())),
        secrets={key: SecretKind(kind) for key, kind in raw.get("secrets", {}).items()},
        hands_over=raw.get("hands_over", {}),
    )


def in_order(names: Sequence[str], lab: LabSpec) -> tuple[str, ...]:
    """`names`, each after those that it waits for; nodes that all keep to this order never wait in a circle."""
    roles = {name: load_role(name) for node in lab.nodes for name in node.roles}
    waits_for = {name: {*role.after(lab), *role.companions} for name, role in roles.items()}
    everything = list(TopologicalSorter(waits_for).static_order())
    return tuple(sorted(names, key=everything.index))


def providers(lab: LabSpec) -> dict[str, tuple[str, ...]]:
    """By node, the other nodes that its roles wait for."""
    return {node.name: tuple(_providers(lab, node)) for node in lab.nodes}


def _providers(lab: LabSpec, node: NodeSpec) -> Iterator[str]:
    after = {name for role in node.roles for name in load_role(role).after(lab)}
    return (other.name for other in lab.nodes if other is not node and after.intersection(other.roles))


def render_role(role: Role, lab: LabSpec, node: NodeSpec, secrets: Secrets) -> RenderedRole:
    """Render a role for a node.

    Raises:
        LabError: a template names something that isn't there.
    """
    context = context_of(lab, node, _library(lab), secrets)

    def template(file: str) -> str:
        return render_text((role.folder / file).read_text(), f"{role.name}/{file}", context)

    files = {p: (template(f["template"]).encode(), int(f.get("mode", "0644"), 8)) for p, f in role.files.items()}
    ready = tuple(
        ReadyCheck(c["what"], render_text(c["command"], f"{role.name}/role.yaml", context)) for c in role.ready
    )
    return RenderedRole(role.name, files, alone(template(role.script)), ready)


def digest_of_roles(lab: LabSpec, node: NodeSpec) -> str:
    """Names everything that the node's roles put on it, but for secrets, which are each lab's own."""
    return digest_of(_rendered_without_secrets(lab, node))


def role_checks(lab: LabSpec, node: NodeSpec) -> dict[str, tuple[ReadyCheck, ...]]:
    """What tells that the node serves, by role."""
    return {role.name: role.ready for role in _rendered_without_secrets(lab, node)}


def wanted_secrets(lab: LabSpec) -> dict[str, Mapping[str, SecretKind]]:
    """What the lab's roles need that nobody must know, by role."""
    return {name: role.secrets for name, role in _library(lab).items() if role.secrets}


def _rendered_without_secrets(lab: LabSpec, node: NodeSpec) -> list[RenderedRole]:
    stand_ins = Secrets.stand_ins(wanted_secrets(lab), tuple(u.name for u in lab.users))
    return [render_role(load_role(name), lab, node, stand_ins) for name in node.roles]


def _library(lab: LabSpec) -> dict[str, Role]:
    """The lab's roles, by name, in the order of its nodes."""
    return {name: load_role(name) for node in lab.nodes for name in node.roles}
