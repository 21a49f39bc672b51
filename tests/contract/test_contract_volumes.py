"""The pool and its volumes: what holds of every hypervisor."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract_bench import DISK_BYTES, LAB, Bench

from labctl.errors import HypervisorError
from labctl.hypervisor.seam import Hypervisor
from labctl.render.names import console_log_name, overlay_name
from labctl.render.xml import base_xml, overlay_xml

MIB = 1 << 20


def _ignore(_: int) -> None:
    """Take no notice of progress."""


def _bytes(hypervisor: Hypervisor, name: str, *, offset: int = 0, length: int = 0) -> bytes:
    return b"".join(hypervisor.download_volume(name, offset=offset, length=length))


def test_without_a_pool_there_are_no_volumes(bench: Bench, hypervisor: Hypervisor) -> None:
    assert hypervisor.pool() is None
    assert hypervisor.volumes() == ()
    assert hypervisor.volume("a") is None
    hypervisor.remove_volume("a")


def test_without_a_pool_no_volume_is_made(bench: Bench, hypervisor: Hypervisor) -> None:
    with pytest.raises(HypervisorError, match=r"pool .*: not there"):
        hypervisor.create_volume(base_xml("a", MIB, "raw"))


def test_ensuring_the_pool_twice_is_fine(bench: Bench, hypervisor: Hypervisor) -> None:
    assert hypervisor.ensure_pool() == str(bench.directory)
    assert hypervisor.ensure_pool() == str(bench.directory)
    pool = hypervisor.pool()
    assert pool is not None
    assert (pool.path, pool.active, pool.available_bytes > 0) == (str(bench.directory), True, True)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_new_volume_is_seen(bench: Bench, hypervisor: Hypervisor, format_: str) -> None:
    hypervisor.ensure_pool()
    made = hypervisor.create_volume(base_xml("a", MIB, format_))
    assert (made.name, made.path, made.capacity_bytes) == ("a", f"{bench.directory}/a", MIB)
    assert (made.backing_path, made.lab) == ("", None)
    assert hypervisor.volume("a") == made
    assert hypervisor.volumes() == (made,)


def test_an_overlay_knows_its_parent_and_its_lab(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    parent = hypervisor.create_volume(base_xml("parent", MIB, "qcow2"))
    hypervisor.create_volume(overlay_xml(overlay_name(LAB, "n1"), 2 * MIB, parent.path))
    overlay = hypervisor.volume(overlay_name(LAB, "n1"))
    assert overlay is not None
    assert (overlay.backing_path, overlay.lab, overlay.capacity_bytes) == (parent.path, LAB, 2 * MIB)


@pytest.mark.needs("bytes")
def test_an_overlay_takes_little_room(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    parent = hypervisor.create_volume(base_xml("parent", 10 << 30, "qcow2"))
    overlay = hypervisor.create_volume(overlay_xml("overlay", 10 << 30, parent.path))
    assert overlay.allocation_bytes < MIB


def test_create_refuses_a_name_that_is_taken(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    made = hypervisor.create_volume(base_xml("a", MIB, "raw"))
    with pytest.raises(HypervisorError, match="volume a: create: "):
        hypervisor.create_volume(base_xml("a", 2 * MIB, "raw"))
    assert hypervisor.volume("a") == made


@pytest.mark.needs("bytes")
def test_an_overlay_without_its_parent_is_refused(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    with pytest.raises(HypervisorError, match=r"volume a: create: .*nobody\.qcow2"):
        hypervisor.create_volume(overlay_xml("a", MIB, f"{bench.directory}/nobody.qcow2"))


def test_a_volume_with_a_slash_is_refused(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    with pytest.raises(HypervisorError, match=r"'\.\./a'"):
        hypervisor.create_volume(base_xml("a", MIB, "raw").replace(">a<", ">../a<"))


def test_removing_a_volume_twice_is_fine(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    hypervisor.create_volume(base_xml("a", MIB, "raw"))
    hypervisor.remove_volume("a")
    hypervisor.remove_volume("a")
    assert hypervisor.volume("a") is None


def test_volumes_are_made_and_listed_by_many_at_once(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    parent = hypervisor.create_volume(base_xml("parent", DISK_BYTES, "qcow2"))

    def make_and_list(number: int) -> bool:
        made = hypervisor.create_volume(overlay_xml(f"overlay{number}", DISK_BYTES, parent.path))
        return made in hypervisor.volumes()

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(make_and_list, range(8)))
    assert len(hypervisor.volumes()) == 9


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("bytes")
def test_what_is_uploaded_is_downloaded(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    data = os.urandom(MIB + 1000)
    hypervisor.create_volume(base_xml("a", len(data), "raw"))
    progress: list[int] = []
    hypervisor.upload_volume("a", io.BytesIO(data), len(data), progress.append)
    assert sum(progress) == len(data)
    assert _bytes(hypervisor, "a") == data
    assert _bytes(hypervisor, "a", offset=1000, length=50) == data[1000:1050]
    assert _bytes(hypervisor, "a", offset=MIB) == data[MIB:]


def _sparse_file(path: Path, start: bytes, end: bytes, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.seek(size_bytes - len(end))
        file.write(end)


@pytest.mark.needs("bytes")
@pytest.mark.parametrize(("start", "end"), [(b"a" * 5000, b"z" * 5000), (b"", b"z"), (b"a", b"")])
def test_holes_stay_holes(bench: Bench, hypervisor: Hypervisor, tmp_path: Path, start: bytes, end: bytes) -> None:
    hypervisor.ensure_pool()
    size_bytes = 64 * MIB
    path = tmp_path / "sparse"
    _sparse_file(path, start, end, size_bytes)
    os.truncate(path, size_bytes)
    hypervisor.create_volume(base_xml("a", size_bytes, "raw"))
    progress: list[int] = []
    with path.open("rb") as source:
        hypervisor.upload_volume("a", source, size_bytes, progress.append)
    volume = hypervisor.volume("a")
    assert volume is not None
    assert volume.allocation_bytes < MIB
    assert volume.capacity_bytes == size_bytes == sum(progress)
    assert _bytes(hypervisor, "a") == path.read_bytes()


@pytest.mark.needs("bytes")
def test_a_hole_hides_what_was_there_before(bench: Bench, hypervisor: Hypervisor, tmp_path: Path) -> None:
    hypervisor.ensure_pool()
    hypervisor.create_volume(base_xml("a", MIB, "raw"))
    hypervisor.upload_volume("a", io.BytesIO(b"x" * MIB), MIB, _ignore)
    path = tmp_path / "sparse"
    _sparse_file(path, b"a", b"z", MIB)
    with path.open("rb") as source:
        hypervisor.upload_volume("a", source, MIB, _ignore)
    assert _bytes(hypervisor, "a") == path.read_bytes()


@pytest.mark.needs("bytes")
def test_a_source_that_ends_early_is_an_error(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    hypervisor.create_volume(base_xml("a", MIB, "raw"))
    with pytest.raises(HypervisorError, match="volume a: upload: the source ended after 5 of 1048576 bytes"):
        hypervisor.upload_volume("a", io.BytesIO(b"short"), MIB, _ignore)


@pytest.mark.needs("bytes")
def test_an_upload_that_fails_halfway_lets_go_of_the_volume(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    hypervisor.create_volume(base_xml("a", MIB, "raw"))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hypervisor.upload_volume("a", io.BytesIO(bytes(MIB)), MIB, interrupt)
    hypervisor.remove_volume("a")
    assert hypervisor.volumes() == ()


@pytest.mark.needs("bytes")
def test_a_download_may_be_left_early(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    hypervisor.create_volume(base_xml("a", 8 * MIB, "raw"))
    chunks = hypervisor.download_volume("a")
    assert set(next(chunks)) == {0}
    del chunks
    hypervisor.remove_volume("a")
    assert hypervisor.volume("a") is None


@pytest.mark.needs("bytes")
def test_a_file_that_appeared_by_itself_is_a_volume_of_its_lab(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    name = console_log_name(LAB, "n1")
    bench.add_file(name, b"login: ")
    bench.add_file(f"{name}.0", b"Linux version ")
    volume = hypervisor.volume(name)
    assert volume is not None
    assert volume.lab == LAB
    assert _bytes(hypervisor, name) == b"login: "
    assert {v.name for v in hypervisor.volumes() if v.lab == LAB} == {name, f"{name}.0"}
    hypervisor.remove_volume(f"{name}.0")
    assert hypervisor.volumes() == (volume,)


@pytest.mark.needs("bytes")
def test_an_error_names_the_volume_that_is_missing(bench: Bench, hypervisor: Hypervisor) -> None:
    hypervisor.ensure_pool()
    with pytest.raises(HypervisorError, match="volume nobody"):
        hypervisor.upload_volume("nobody", io.BytesIO(), 0, _ignore)
    with pytest.raises(HypervisorError, match="volume nobody"):
        _bytes(hypervisor, "nobody")
