"""What the name server of the role `resolver` is told; whether it takes turns is seen in a guest."""

from __future__ import annotations

import re

from lab_bench import cluster_spec, lab_spec, node_spec

from labctl.roles.role import load_role, render_role
from labctl.secrets import Secrets
from labctl.topology.spec import LabSpec

NODES = (
    node_spec("m1", 1, roles=("web-server",)),
    node_spec("m2", 2, roles=("web-server",)),
    node_spec("client", 3, roles=("client", "resolver")),
)


def told(lab: LabSpec) -> list[str]:
    """The records that it has."""
    files = render_role(load_role("resolver"), lab, lab.node("client"), Secrets()).files
    return re.findall(r'local-data: "(.*)"', files["/etc/unbound/unbound.conf"][0].decode())


def test_a_name_has_the_addresses_of_all_its_servers() -> None:
    assert told(lab_spec(*NODES)) == ["web.lab.test. 60 IN A 10.9.0.1", "web.lab.test. 60 IN A 10.9.0.2"]


def test_behind_a_cluster_the_name_is_the_clusters() -> None:
    assert told(lab_spec(*NODES, clusters=(cluster_spec("m1", "m2"),))) == ["web.lab.test. 60 IN A 10.9.0.200"]
