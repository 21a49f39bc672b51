"""Parent disks: what a recipe's digest covers, which sets in the pool count, and who stands on them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lab_bench import Bench, lab_spec, micro, node_spec

from labctl import images
from labctl.errors import HostError, InputError
from labctl.images import MANIFEST_ROOM_BYTES, Manifest, Recipe, debian_sources, load_recipe
from labctl.render.xml import base_xml

RECIPE = """
description: a test image
memory_mib: 256
command_line: quiet
disk:
  suite: trixie
  kernel: linux-image
  packages: {base: [systemd, nginx], more: [nginx, curl]}
"""

# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of images: `big`, and `small`, which boots big's disk."""
    (tmp_path / "big/root/etc").mkdir(parents=True)
    (tmp_path / "big/recipe.yaml").write_text(RECIPE)
    (tmp_path / "big/root/etc/motd").write_text("hello\n")
    (tmp_path / "big/root/etc/run").write_text("#!/bin/sh\n")
    (tmp_path / "big/root/etc/link").symlink_to("motd")
    (tmp_path / "small").mkdir()
    (tmp_path / "small/recipe.yaml").write_text("description: x\nmemory_mib: 64\ncommand_line: init=/x\ndisk_of: big\n")
    return tmp_path


def rewrite(old: str, new: str) -> Callable[[Path], None]:
    """A change to the recipe's text."""

    def change(library: Path) -> None:
        assert old in RECIPE
        (library / "big/recipe.yaml").write_text(RECIPE.replace(old, new))

    return change


def relink(library: Path) -> None:
    (library / "big/root/etc/link").unlink()
    (library / "big/root/etc/link").symlink_to("run")


TO_ANOTHER_DISK: dict[str, Callable[[Path], None]] = {
    "another package": rewrite("curl", "wget"),
    "another suite": rewrite("trixie", "forky"),
    "another kernel": rewrite("linux-image", "linux-image-cloud"),
    "other text in a file": lambda library: (library / "big/root/etc/motd").write_text("bye\n") and None,
    "one more file": lambda library: (library / "big/root/etc/issue").touch(),
    "one more folder": lambda library: (library / "big/root/srv").mkdir(),
    "another name": lambda library: (library / "big/root/etc/motd").rename(library / "big/root/etc/motto") and None,
    "a file that became a program": lambda library: (library / "big/root/etc/run").chmod(0o755),
    "a link that leads elsewhere": relink,
}

TO_THE_SAME_DISK: dict[str, Callable[[Path], None]] = {
    "nothing": lambda library: None,
    "more memory": rewrite("256", "512"),
    "another command line": rewrite("quiet", "debug"),
    "another description": rewrite("a test image", "an image"),
    "another time of a file": lambda library: os.utime(library / "big/root/etc/motd", (0, 0)),
    "permissions that git does not keep": lambda library: (library / "big/root/etc/motd").chmod(0o600),
}


@pytest.mark.parametrize("change", TO_ANOTHER_DISK.values(), ids=TO_ANOTHER_DISK)
def test_what_goes_into_the_disk_changes_its_digest(library: Path, change: Callable[[Path], None]) -> None:
    before = load_recipe("big", library).digest
    change(library)
    assert load_recipe("big", library).digest != before


@pytest.mark.parametrize("change", TO_THE_SAME_DISK.values(), ids=TO_THE_SAME_DISK)
def test_what_does_not_go_into_the_disk_leaves_its_digest_alone(library: Path, change: Callable[[Path], None]) -> None:
    before = load_recipe("big", library).digest
    change(library)
    assert load_recipe("big", library).digest == before


def test_an_image_on_anothers_disk_has_the_same_volumes_and_settings_of_its_own(library: Path) -> None:
    big, small = load_recipe("big", library), load_recipe("small", library)
    assert small.volume("qcow2") == big.volume("qcow2") == f"parent.big.{big.digest}.qcow2"
    assert (small.memory_mib, small.command_line) == (64, "init=/x")


def test_packages_are_all_groups_and_the_kernel_once_each(library: Path) -> None:
    assert load_recipe("big", library).packages == ["curl", "linux-image", "nginx", "systemd"]


def test_an_image_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match="image no-such does not exist") as refused:
        load_recipe("no-such")
    assert "debian-13" in refused.value.hint
    assert "micro" in refused.value.hint


@pytest.mark.parametrize("name", images.recipe_names())
def test_every_shipped_recipe_can_be_read(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.packages
    assert recipe.memory_mib > 0
    assert recipe.tree.is_dir()


# -- manifests ---------------------------------------------------------------------------------------------------------

MANIFEST = Manifest("debian-13", "0123456789ab", "0" * 64, 10, 20, "6.12", 92.5, (("nginx", "1.26"), ("curl", "8")))


def test_a_manifest_fills_its_volume_and_is_read_back() -> None:
    data = MANIFEST.encode()
    assert len(data) == MANIFEST_ROOM_BYTES
    assert Manifest.decode(data) == MANIFEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"{}",
        b"[]",
        b"null",
        MANIFEST.encode()[:80],
        MANIFEST.encode()[:80].ljust(1000, b"\0"),
        MANIFEST.encode().replace(b'"sha256"', b'"sha512"'),
        b"\xff\xfe",
    ],
    ids=["empty", "zeros", "no keys", "a list", "null", "cut", "cut and padded", "another key", "no text"],
)
def test_a_manifest_that_was_not_written_to_its_end_is_none(data: bytes) -> None:
    assert Manifest.decode(data) is None


# -- parents in the pool -----------------------------------------------------------------------------------------------


@pytest.fixture
def bench() -> Bench:
    """A hypervisor with the parent disk of `micro`."""
    bench = Bench()
    bench.parent()
    return bench


def test_a_complete_set_is_found_by_its_recipe(bench: Bench) -> None:
    parent = images.find(bench.hypervisor, micro())
    assert parent is not None
    assert parent.disk.name == micro().volume("qcow2")
    assert images.parents(bench.hypervisor) == (parent,)


def test_a_set_of_another_recipe_is_not_taken_for_it(bench: Bench) -> None:
    other = replace(micro(), digest="0123456789ab")
    assert images.find(bench.hypervisor, other) is None


@pytest.mark.parametrize("part", ["qcow2", "vmlinuz", "initrd", "manifest"])
def test_an_interrupted_set_is_not_listed(bench: Bench, part: str) -> None:
    bench.hypervisor.remove_volume(micro().volume(part))
    assert images.parents(bench.hypervisor) == ()
    assert images.find(bench.hypervisor, micro()) is None


def test_a_set_whose_manifest_was_cut_short_is_not_listed(bench: Bench) -> None:
    bench.hypervisor.upload_volume(micro().volume("manifest"), io.BytesIO(b'{"image": "de'), 13, lambda _sent: None)
    assert images.parents(bench.hypervisor) == ()


def test_what_is_there_is_not_built_again(bench: Bench) -> None:
    said: list[str] = []
    assert images.build(bench.hypervisor, micro(), said.append) == images.find(bench.hypervisor, micro())
    assert said == []


def test_building_without_root_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="needs root") as refused:
        images.build(Bench().hypervisor, micro(), lambda _line: None)
    assert refused.value.hint.startswith("sudo ")


def parent_of(bench: Bench) -> images.Parent:
    parent = images.find(bench.hypervisor, micro())
    assert parent is not None
    return parent


def test_who_stands_on_a_parent_is_known_by_disk_and_by_kernel(bench: Bench) -> None:
    assert images.users_of(bench.hypervisor, parent_of(bench)) == ()
    bench.lab(lab_spec(node_spec("m1", 1), node_spec("m2", 2))).up(boot=True, keep=False)
    users = {"lab.lab.m1.qcow2", "lab.lab.m2.qcow2", "lab.m1", "lab.m2"}
    assert users <= set(images.users_of(bench.hypervisor, parent_of(bench)))


def test_a_parent_in_use_is_not_removed(bench: Bench) -> None:
    bench.lab(lab_spec(node_spec("m1", 1))).up(boot=True, keep=False)
    with pytest.raises(InputError, match=r"parent\.debian-13\.\w+\.qcow2 is in use by lab\.lab\.m1\.qcow2, lab\.m1"):
        images.remove(bench.hypervisor, parent_of(bench))
    assert images.parents(bench.hypervisor) == (parent_of(bench),)


def test_a_parent_that_nobody_uses_is_removed_whole(bench: Bench) -> None:
    images.remove(bench.hypervisor, parent_of(bench))
    assert bench.hypervisor.volumes() == ()


def test_a_removal_that_is_interrupted_leaves_nothing_that_looks_whole(bench: Bench) -> None:
    removed: list[str] = []
    remove = bench.hypervisor.remove_volume

    def once(name: str) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(name)
        remove(name)

    bench.hypervisor.remove_volume = once  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        images.remove(bench.hypervisor, parent_of(bench))
    assert images.parents(bench.hypervisor) == ()


@pytest.mark.parametrize("written", [False, True])
def test_verify_tells_whether_the_disk_was_written_to(written: bool) -> None:
    bench, data = Bench(), b"the disk as it was uploaded"
    bench.parent(contents=data)
    if written:
        bench.hypervisor.upload_volume(micro().volume("qcow2"), io.BytesIO(b"x" + data[1:]), len(data), lambda _n: None)
    assert images.verify(bench.hypervisor, parent_of(bench)) is not written


def test_what_is_no_parent_is_left_out(bench: Bench) -> None:
    for name in ("other.manifest", "parent.x.manifest", "lab.lab.m1.manifest"):
        bench.hypervisor.create_volume(base_xml(name, 1, "raw"))
    assert len(images.parents(bench.hypervisor)) == 1


# -- mirrors -----------------------------------------------------------------------------------------------------------

BOOKWORM = """\
http://mirror.test/debian/|Debian|main
http://mirror.test/debian/|Debian|main
http://mirror.test/debian/|Debian Backports|main
http://mirror.test/debian-security/|Debian-Security|main
http://mirror.test/debian/|Debian|non-free-firmware
https://download.docker.com/linux/debian/|Docker CE|stable
"""


def test_sources_come_from_where_the_host_gets_debian() -> None:
    assert debian_sources("trixie", BOOKWORM) == [
        "deb http://mirror.test/debian/ trixie main",
        "deb http://mirror.test/debian/ trixie-updates main",
        "deb http://mirror.test/debian-security/ trixie-security main",
    ]


def test_a_host_without_security_updates_gives_none() -> None:
    assert debian_sources("trixie", "http://mirror.lan/debian/|Debian|main\n") == [
        "deb http://mirror.lan/debian/ trixie main",
        "deb http://mirror.lan/debian/ trixie-updates main",
    ]


@pytest.mark.parametrize(
    "listed",
    ["", "\n\n", "http://archive.ubuntu.com/ubuntu/|Ubuntu|main\n", "http://a/|Debian|contrib\n", "|\n||\n|||\n"],
)
def test_a_host_that_is_no_debian_leaves_the_choice_to_mmdebstrap(listed: str) -> None:
    assert debian_sources("trixie", listed) == []


def test_another_proxys_address_is_taken_as_it_is() -> None:
    listed = "http://proxy.lan:3142/mirror.test/debian/|Debian|main\n"
    assert debian_sources("trixie", listed)[0] == "deb http://proxy.lan:3142/mirror.test/debian/ trixie main"


def test_the_recipe_names_its_own_volumes_apart() -> None:
    recipe: Recipe = micro()
    assert len({recipe.volume(part) for part in ("qcow2", "vmlinuz", "initrd", "manifest")}) == 4


def test_what_an_interrupted_build_left_is_removed_and_nothing_else(bench: Bench) -> None:
    whole = {v.name for v in bench.hypervisor.volumes()}
    for part in ("vmlinuz", "qcow2"):
        bench.hypervisor.create_volume(base_xml(f"parent.debian-13.0123456789ab.{part}", 1 << 20, "raw"))
    bench.hypervisor.create_volume(base_xml("parental.advice", 1 << 20, "raw"))
    assert set(images.remove_interrupted(bench.hypervisor)) == {
        "parent.debian-13.0123456789ab.qcow2",
        "parent.debian-13.0123456789ab.vmlinuz",
    }
    assert {v.name for v in bench.hypervisor.volumes()} == {*whole, "parental.advice"}
