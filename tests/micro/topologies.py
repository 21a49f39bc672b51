"""Topologies for tests that change them: the same addresses as the lab of the other tests has."""

from __future__ import annotations

from pathlib import Path

_HEAD = """
lab: {name}
domain: life.test
image: micro
time_zone: Europe/Berlin
networks: {{lan: {{subnet: 10.78.0.0/16}}}}
nodes:
"""

# The node that changes: its memory.
_OTHER = """
  other: {{memory_mib: {memory_mib}, nics: {{host: {{network: lan, address: 10.78.0.22}}}}}}
"""

_MEMBER = """
  m1: {nics: {host: {network: lan, address: 10.78.0.21}, cluster: {network: lan, address: 10.78.0.31}}}
"""

_CLUSTER = """
clusters:
  web:
    network: lan
    address: 10.78.0.20
    fqdn: web.life.test
    members: [{{node: m1, nic: cluster, priority: 1}}]
    port_rules: [{{ports: {port}}}]
"""


def two_nodes(file: Path, name: str, *, port: int = 80, memory_mib: int | None = 256) -> Path:
    """A member, alone in its cluster with a rule for `port`, and another node, unless `memory_mib` is None."""
    other = _OTHER.format(memory_mib=memory_mib) if memory_mib else ""
    return _write(file, _HEAD.format(name=name), _MEMBER, other, _CLUSTER.format(port=port))


def one_node(file: Path, name: str) -> Path:
    """A node without roles: the quickest lab there is."""
    return _write(file, _HEAD.format(name=name), _OTHER.format(memory_mib=256))


def _write(file: Path, *parts: str) -> Path:
    file.write_text("".join(part.lstrip("\n") for part in parts))
    return file
