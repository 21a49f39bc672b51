"""What labctl keeps is bounded by age and size, and nothing that a lab stands on ever goes."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pytest

from labctl.cache import drop_broken, entries, prune
from labctl.hypervisor.fake import FakeHypervisor
from labctl.plan import Digests
from labctl.render.xml import base_xml, overlay_xml
from labctl.state.kept import Manifest

DAY_S = 86400.0
NOW_S = 100 * DAY_S
MIB = 1 << 20


def volume(hypervisor, name, data=b"", mib=1):
    hypervisor.create_volume(base_xml(name, mib * MIB, "raw"))
    hypervisor.upload_volume(name, io.BytesIO(data.ljust(mib * MIB)), mib * MIB, lambda _sent: None)


def state(hypervisor, key, *, days_old=0.0, lab="lab", name="", whole=True):
    """A state of one node, 4 MiB large: disk, RAM, manifest."""
    volume(hypervisor, f"state.{key}.n.qcow2")
    volume(hypervisor, f"state.{key}.n.ram", mib=2)
    nodes = {"n": Digests("machine", "identity", "")}
    manifest = Manifest(key, name, lab, "d", "QEMU 10", nodes, NOW_S - days_old * DAY_S, whole)
    volume(hypervisor, f"state.{key}.lab.manifest", json.dumps(asdict(manifest)).encode())


def stand_on(hypervisor, lab, below):
    path = hypervisor.volume(below).path
    hypervisor.create_volume(overlay_xml(f"lab.{lab}.n.qcow2", MIB, path))


@pytest.fixture
def kept():
    hypervisor = FakeHypervisor()
    hypervisor.ensure_pool()
    state(hypervisor, "ready-old", days_old=20)
    state(hypervisor, "ready-mid", days_old=10)
    state(hypervisor, "ready-new", days_old=1)
    state(hypervisor, "snap_lab_mine", days_old=30, name="mine")
    volume(hypervisor, "machine.debian.0123.qcow2")
    volume(hypervisor, "machine.debian.0123.ram", mib=3)
    volume(hypervisor, "parent.debian.0123.qcow2")
    return hypervisor


def names(found):
    return [e.name for e in found]


def test_all_that_is_kept_is_listed_oldest_first(kept):
    found = entries(kept)
    assert names(found) == ["snap_lab_mine", "ready-old", "ready-mid", "ready-new", "machine.debian.0123"]
    assert [e.kind for e in found] == ["snapshot", *["ready state"] * 3, "machine"]
    assert {e.size_bytes for e in found} == {4 * MIB}


def test_only_what_is_too_old_goes_while_there_is_room(kept):
    assert names(prune(kept, now_s=NOW_S)) == ["ready-old"]
    assert names(prune(kept, now_s=NOW_S)) == []


@pytest.mark.parametrize(
    ("most_mib", "gone"),
    [
        (20, []),
        (19, ["ready-old"]),
        (12, ["ready-old", "ready-mid"]),
        (8, ["ready-old", "ready-mid", "ready-new"]),
        (4, ["ready-old", "ready-mid", "ready-new", "machine.debian.0123"]),
        (0, ["ready-old", "ready-mid", "ready-new", "machine.debian.0123"]),
    ],
)
def test_the_oldest_go_until_the_rest_is_small_enough_and_machines_last(kept, most_mib, gone):
    assert names(prune(kept, now_s=NOW_S, most_bytes=most_mib * MIB, most_age_s=1000 * DAY_S)) == gone
    assert kept.volume("parent.debian.0123.qcow2")


def test_snapshots_go_only_when_asked_for(kept):
    removed = prune(kept, now_s=NOW_S, most_age_s=25 * DAY_S, snapshots=True)
    assert names(removed) == ["snap_lab_mine"]
    assert not [v for v in kept.volumes() if "snap_lab_mine" in v.name]


def test_what_a_lab_stands_on_never_goes(kept):
    stand_on(kept, "one", "state.ready-old.n.qcow2")
    stand_on(kept, "two", "machine.debian.0123.qcow2")
    removed = prune(kept, now_s=NOW_S, most_bytes=0, most_age_s=0, snapshots=True)
    assert names(removed) == ["snap_lab_mine", "ready-mid", "ready-new"]
    assert {e.name: e.used_by for e in entries(kept)} == {"ready-old": ("one",), "machine.debian.0123": ("two",)}


# -- what interrupted saves and discarded states leave -----------------------------------------------------------------


def keys(hypervisor):
    return {v.name.split(".")[1] for v in hypervisor.volumes() if v.name.startswith("state.")}


def test_a_save_that_was_cut_short_is_swept_away_once_nobody_can_be_at_it(kept):
    state(kept, "ready-dead", days_old=1, lab="elsewhere", whole=False)
    state(kept, "ready-busy", lab="elsewhere", whole=False)
    state(kept, "ready-mine", lab="lab", whole=False)
    prune(kept, now_s=NOW_S, lab="lab")
    assert keys(kept) & {"ready-dead", "ready-busy", "ready-mine"} == {"ready-busy"}


def test_disks_that_outlived_their_state_stay_as_long_as_something_stands_on_them(kept):
    stand_on(kept, "other", "state.ready-mid.n.qcow2")
    kept.remove_volume("state.ready-mid.lab.manifest")
    prune(kept, now_s=NOW_S)
    assert [v.name for v in kept.volumes() if "ready-mid" in v.name] == ["state.ready-mid.n.qcow2"]
    assert [(e.kind, e.used_by) for e in entries(kept) if e.name == "ready-mid"] == [("layers", ("other",))]
    kept.remove_volume("lab.other.n.qcow2")
    prune(kept, now_s=NOW_S)
    assert "ready-mid" not in keys(kept)


def test_what_stands_on_a_parent_that_is_gone_is_thrown_away_with_a_word(kept):
    said = []
    path = kept.volume("parent.debian.0123.qcow2").path
    kept.create_volume(overlay_xml("machine.debian.4567.qcow2", MIB, path))
    kept.create_volume(overlay_xml("state.ready-on.n.qcow2", MIB, kept.volume("machine.debian.4567.qcow2").path))
    kept.remove_volume("parent.debian.0123.qcow2")
    drop_broken(kept, said.append)
    assert {line.split(" is thrown")[0] for line in said} == {"layers ready-on", "machine machine.debian.4567"}
    assert "ready-on" not in keys(kept)
    assert [e.name for e in entries(kept) if e.kind == "machine"] == ["machine.debian.0123"]
    assert {"ready-old", "ready-mid", "ready-new"} <= keys(kept)
