"""Every definition that labctl gives to libvirt: as its golden file has it, and valid by libvirt's own schemas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from labctl.inventory import Mark, Stage
from labctl.process import run
from labctl.render.xml import (
    DirectBoot,
    DomainPlan,
    NicPlan,
    base_xml,
    domain_xml,
    network_xml,
    overlay_xml,
    pool_xml,
)
from labctl.topology.spec import Accelerator, NetworkSpec

HERE = Path(__file__).parent
POOL = "/var/lib/libvirt/images/labctl"
DIGEST = "0123456789abcdef"

MEMBER = DomainPlan(
    mark=Mark("exchange2007", "cas1", DIGEST, Stage.READY),
    memory_mib=768,
    vcpus=1,
    accelerator=Accelerator.TCG,
    disk_path=f"{POOL}/lab.exchange2007.cas1.qcow2",
    disk_serial="root",
    nics=(NicPlan("52:54:00:4d:00:15", "exchange2007.lan"), NicPlan("52:54:00:4d:00:1f", "exchange2007.lan")),
    boot=DirectBoot(f"{POOL}/debian-13.kernel", f"{POOL}/debian-13.initrd", 'console=ttyS0 quiet label="<&>"'),
    console_log=f"{POOL}/lab.exchange2007.cas1.console.log",
)

DEFINITIONS = {
    "domain-emulated": domain_xml(MEMBER),
    "domain-accelerated": domain_xml(replace(MEMBER, accelerator=Accelerator.KVM, vcpus=2)),
    "domain-without-initrd": domain_xml(replace(MEMBER, boot=DirectBoot("/pool/kernel", "", "console=ttyS0"))),
    "domain-with-boot-loader": domain_xml(replace(MEMBER, boot=None, nics=(), console_log=None)),
    "network": network_xml("exchange2007", NetworkSpec("lan", IPv4Network("10.77.0.0/16")), DIGEST),
    "storagevol-overlay": overlay_xml("lab.exchange2007.cas1.qcow2", 8 << 30, f"{POOL}/debian-13.qcow2"),
    "storagevol-base-qcow2": base_xml("debian-13.qcow2", 8 << 30, "qcow2"),
    "storagevol-base-raw": base_xml("debian-13.kernel", 12345678, "raw"),
    "storagepool": pool_xml("labctl", POOL),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_is_as_its_golden_file(name: str, same_as: Callable[[Path, str], None]) -> None:
    same_as(HERE / f"{name}.xml", DEFINITIONS[name])


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_is_valid_by_libvirts_schema(name: str, tmp_path: Path) -> None:
    path = tmp_path / "definition.xml"
    path.write_text(DEFINITIONS[name])
    assert "validates" in run(["virt-xml-validate", path, name.partition("-")[0]], on_line=print)


def test_each_golden_file_belongs_to_a_definition() -> None:
    assert {p.stem for p in HERE.glob("*.xml")} == set(DEFINITIONS)
