"""What a lab was made from, kept with the lab."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from labctl.errors import InputError
from labctl.hypervisor.fake import FakeHypervisor
from labctl.inventory import lab_of_volume
from labctl.record import ROOM_BYTES, Record, load_record, save_record
from labctl.render.names import record_name
from labctl.render.xml import base_xml
from labctl.topology.spec import Accelerator

RECORD = Record("labs/mine.yaml", 'lab: mine\n# Grüße, "quoted"\n', Accelerator.KVM)


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    hypervisor = FakeHypervisor()
    hypervisor.ensure_pool()
    return hypervisor


def test_a_record_comes_back_as_it_was(hypervisor: FakeHypervisor) -> None:
    save_record(hypervisor, "mine", RECORD)
    assert load_record(hypervisor, "mine") == RECORD


def test_a_record_belongs_to_its_lab(hypervisor: FakeHypervisor) -> None:
    save_record(hypervisor, "mine", RECORD)
    assert [lab_of_volume(v.name) for v in hypervisor.volumes()] == ["mine"]
    assert load_record(hypervisor, "other") is None


def test_a_record_that_is_there_is_not_written_again(hypervisor: FakeHypervisor) -> None:
    save_record(hypervisor, "mine", RECORD)
    hypervisor.fail_on["create_volume"] = AssertionError("written")
    save_record(hypervisor, "mine", RECORD)


@pytest.mark.parametrize(
    "changes", [{"text": "lab: other\n"}, {"file": "x"}, {"accelerator": Accelerator.TCG}], ids=str
)
def test_another_record_takes_its_place(hypervisor: FakeHypervisor, changes: dict[str, object]) -> None:
    other = replace(RECORD, **changes)
    save_record(hypervisor, "mine", RECORD)
    save_record(hypervisor, "mine", other)
    assert load_record(hypervisor, "mine") == other
    assert len(hypervisor.volumes()) == 1


def cut(data: bytes) -> bytes:
    return data.rstrip()[:40]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _data: b"",
    "cut short": cut,
    "another key": lambda data: data.replace(b'"text"', b'"Text"'),
    "no accelerator that there is": lambda data: data.replace(b'"kvm"', b'"xen"'),
    "a list": lambda _data: b"[]",
    "no text": lambda _data: b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_record_that_was_not_written_to_its_end_is_none(
    hypervisor: FakeHypervisor, spoil: Callable[[bytes], bytes]
) -> None:
    save_record(hypervisor, "mine", RECORD)
    data = spoil(b"".join(hypervisor.download_volume(record_name("mine"))))
    hypervisor.remove_volume(record_name("mine"))
    hypervisor.create_volume(base_xml(record_name("mine"), ROOM_BYTES, "raw"))
    hypervisor.upload_volume(record_name("mine"), io.BytesIO(data), len(data), lambda _sent: None)
    assert load_record(hypervisor, "mine") is None
    save_record(hypervisor, "mine", RECORD)
    assert load_record(hypervisor, "mine") == RECORD


def test_a_topology_that_is_too_large_is_refused_before_anything_is_written(hypervisor: FakeHypervisor) -> None:
    with pytest.raises(InputError, match="more than the 262144 that a lab can keep"):
        save_record(hypervisor, "mine", replace(RECORD, text="#" * ROOM_BYTES))
    assert hypervisor.volumes() == ()
