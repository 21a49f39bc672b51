"""What is read out of libvirt's XML beyond what the contract suite sees."""

from __future__ import annotations

import pytest

from labctl.hypervisor import parse


@pytest.mark.parametrize(
    ("features", "has_it"),
    [
        ("<feature policy='require' name='vmx'/>", True),
        ("<feature policy='require' name='aes'/><feature name='svm'/>", True),
        ("<feature policy='disable' name='svm'/>", False),
        ("<feature policy='require' name='aes'/>", False),
        ("", False),
    ],
)
def test_virtualization_is_vmx_or_svm(features: str, has_it: bool) -> None:
    assert parse.has_virtualization(f"<cpu><model>EPYC</model>{features}</cpu>") is has_it


@pytest.mark.parametrize(("kind", "offered"), [("kvm", True), ("qemu", False)])
def test_kvm_is_offered_when_a_guest_may_be_of_that_type(kind: str, offered: bool) -> None:
    guest = f"<guest><arch name='x86_64'><domain type='qemu'/><domain type='{kind}'/></arch></guest>"
    assert parse.offers_kvm(f"<capabilities>{guest}</capabilities>") is offered


@pytest.mark.parametrize(
    ("sizes", "written"),
    [
        ("<allocation>0</allocation><physical>1048576</physical>", 0),
        ("<allocation>4096</allocation><physical>1048576</physical>", 1048576),
        ("<allocation>4096</allocation>", 4096),
    ],
)
def test_a_volume_without_allocation_holds_nothing(sizes: str, written: int) -> None:
    assert parse.written_bytes(f"<volume>{sizes}</volume>") == written
