"""Plans, one golden file per good topology: `good/NAME.plan` holds the way from nothing to the lab, and from the lab
that is up to itself.

    LABCTL_GOLDEN=write pytest tests/golden

makes the files anew. Read the difference before you commit it: that is the test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.inventory import DomainInfo, DomainState, Inventory, Mark, NetworkInfo, NicInfo, Stage, VolumeInfo
from labctl.plan import Digests, plan_up
from labctl.render.names import domain_name, network_name, overlay_name, record_name
from labctl.topology.catalogue import Catalogue
from labctl.topology.load import parse_topology
from labctl.topology.resolve import resolve
from labctl.topology.spec import Accelerator, LabSpec, NodeSpec

GOLDEN = Path(__file__).parent
GOOD = sorted((GOLDEN / "good").glob("*.yaml"))

SameAs = Callable[[Path, str], None]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_plan_of_a_good_topology(path: Path, catalogue: Catalogue, same_as: SameAs) -> None:
    topology = parse_topology(path.read_text("utf-8"), path.name, catalogue)
    lab = resolve(topology, lab=None, accelerator=Accelerator.TCG, catalogue=catalogue)
    images = tuple(sorted({node.image for node in lab.nodes}))
    from_nothing = _plan(lab, Inventory(), images)
    from_all = _plan(lab, _all_up(lab), ())
    same_as(path.with_suffix(".plan"), f"# from nothing\n{from_nothing}# when it is up\n{from_all}")


def test_every_plan_has_its_topology() -> None:
    orphans = [path.name for path in (GOLDEN / "good").glob("*.plan") if not path.with_suffix(".yaml").is_file()]
    assert orphans == []


def _plan(lab: LabSpec, there: Inventory, missing_images: tuple[str, ...]) -> str:
    networks = {n.name: f"digest of {n.name}" for n in lab.networks}
    nodes = {n.name: _digests(lab, n) for n in lab.nodes}
    return str(plan_up(lab, there, nodes=nodes, networks=networks, missing_images=missing_images))


def _digests(lab: LabSpec, node: NodeSpec) -> Digests:
    cluster = "cluster" if lab.clusters_of(node.name) else ""
    return Digests(machine=f"machine of {node.name}", identity="identity", cluster=cluster)


def _all_up(lab: LabSpec) -> Inventory:
    networks = tuple(
        NetworkInfo(network_name(lab.name, n.name), "", True, "", Mark(lab.name, n.name, f"digest of {n.name}"))
        for n in lab.networks
    )
    overlays = tuple(VolumeInfo(overlay_name(lab.name, n.name), "", 1, 1) for n in lab.nodes)
    record = VolumeInfo(record_name(lab.name), "", 1, 1)
    return Inventory(tuple(_domain(lab, n) for n in lab.nodes), networks, (*overlays, record))


def _domain(lab: LabSpec, node: NodeSpec) -> DomainInfo:
    made = _digests(lab, node)
    mark = Mark(lab.name, node.name, made.machine, Stage.READY, made.identity, made.cluster)
    nics = tuple(NicInfo(nic.mac, network_name(lab.name, nic.network), "vnet0", True) for nic in node.nics)
    return DomainInfo(domain_name(lab.name, node.name), "", DomainState.RUNNING, mark, nics)
