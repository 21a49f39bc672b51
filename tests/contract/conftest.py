"""One suite, three hypervisors: the fake, libvirt's test driver, and the real one.

A test says with `@pytest.mark.needs(...)` what it needs of a hypervisor; for one that can't,
the case is not made.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import libvirt
import pytest
from contract_bench import Bench

from labctl.hypervisor.fake import FakeHypervisor
from labctl.hypervisor.libvirt_api import connect
from labctl.hypervisor.seam import Hypervisor

POOL = f"labctl-contract-{os.getpid()}"

ALL = frozenset({"agent", "bytes", "links", "networks", "paused start", "streams"})
# Real guests of this suite are without an operating system, which has a say in unplugging; tests/micro tries that.
ABILITIES = {"fake": ALL | {"unplugging"}, "test": frozenset(), "qemu": ALL}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability, ...): what a hypervisor must be able to do for the test")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    needed = {ability for mark in metafunc.definition.iter_markers("needs") for ability in mark.args}
    able = [name for name, abilities in ABILITIES.items() if needed <= abilities]
    metafunc.parametrize("bench", able, indirect=True)


def _fake(directory: Path) -> Iterator[Bench]:
    hypervisor = FakeHypervisor(directory=str(directory))
    yield Bench(hypervisor, directory, "qemu", hypervisor.add_file)


def _libvirt(uri: str, domain_type: str, directory: Path) -> Iterator[Bench]:
    hypervisor = connect(uri, POOL, str(directory))

    def add_file(name: str, data: bytes) -> None:
        (directory / name).write_bytes(data)

    yield Bench(hypervisor, directory, domain_type, add_file)
    _drop_pool(uri)
    hypervisor.close()


def _drop_pool(uri: str) -> None:
    connection = libvirt.open(uri)
    for pool in connection.listAllStoragePools():
        if pool.name() == POOL:
            if pool.isActive():
                pool.destroy()
            pool.undefine()
    connection.close()


_BENCHES: dict[str, Callable[[Path], Iterator[Bench]]] = {
    "fake": _fake,
    "test": partial(_libvirt, "test:///default", "test"),
    "qemu": partial(_libvirt, "qemu:///system", "qemu"),
}


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the pool goes; QEMU's own user must get at it, which pytest's directories don't let it."""
    path = Path(tempfile.mkdtemp(prefix="labctl-contract-"))
    path.chmod(0o711)
    yield path / "pool"
    shutil.rmtree(path)


@pytest.fixture
def bench(request: pytest.FixtureRequest, directory: Path) -> Iterator[Bench]:
    """A hypervisor without anything of ours; what a test made is removed, and that it has gone is checked."""
    making = _BENCHES[request.param](directory)
    bench = next(making)
    assert bench.left_over() == set()
    try:
        yield bench
    finally:
        bench.tidy()
        left = bench.left_over() | ({p.name for p in directory.iterdir()} if directory.exists() else set())
        next(making, None)
    assert left == set()


@pytest.fixture
def hypervisor(bench: Bench) -> Hypervisor:
    """The hypervisor itself."""
    return bench.hypervisor
