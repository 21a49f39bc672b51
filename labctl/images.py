"""Parent disks: built once from a recipe with host programs, uploaded as volumes, read-only from then on.

A parent is a set of volumes in labctl's pool named by the digest of its recipe: `parent.IMAGE.DIGEST.qcow2`,
`.vmlinuz`, `.initrd`, and `.manifest`, which is written last: a set without a readable manifest was interrupted and is
made anew.
Building is the one thing of labctl that runs on this host and not through libvirt.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from labctl import process, store
from labctl.clock import SystemClock
from labctl.errors import HostError, InputError
from labctl.hypervisor.seam import Hypervisor
from labctl.inventory import DomainInfo, VolumeInfo
from labctl.render.xml import base_xml
from labctl.topology.spec import digest_of

__all__ = [
    "Manifest",
    "Parent",
    "Recipe",
    "build",
    "debian_sources",
    "find",
    "load_recipe",
    "parents",
    "recipe_names",
    "remove",
    "remove_interrupted",
    "users_of",
    "verify",
]

MANIFEST_ROOM_BYTES = 1 << 20
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """A folder of `images/`, read.

    Attributes:
        name: the folder's name, which topologies use.
        disk_name: the image whose disk it boots from; its own, or another's (`disk_of`).
        command_line: of the kernel.
        memory_mib: what a node gets when the topology doesn't say.
        disk: the `disk` section: suite, packages, units, …; that of `disk_name`.
        tree: the folder laid over the root directory.
        digest: names everything that goes into the disk.
    """

    name: str
    description: str
    disk_name: str
    command_line: str
    memory_mib: int
    disk: dict[str, Any]
    tree: Path
    digest: str

    def volume(self, part: str) -> str:
        """The name of one of the parent's volumes: `qcow2`, `vmlinuz`, `initrd` or `manifest`."""
        return f"parent.{self.disk_name}.{self.digest}.{part}"

    @property
    def packages(self) -> list[str]:
        """All packages asked for, sorted, without repetition."""
        return sorted({p for group in self.disk["packages"].values() for p in group} | {self.disk["kernel"]})


@dataclass(frozen=True)
class Manifest:
    """What is kept beside a parent disk.

    Attributes:
        sha256: of the disk as it was uploaded; `verify` compares.
        size_bytes: of the disk as a file.
        packages: (name, version) of everything installed.
        kernel: the kernel's release.
        build_s: seconds that the build took.
    """

    image: str
    digest: str
    sha256: str
    size_bytes: int
    capacity_bytes: int
    kernel: str
    build_s: float
    packages: tuple[tuple[str, str], ...]

    def encode(self) -> bytes:
        """JSON, padded with spaces to the volume's size so that no stale tail can follow it."""
        return json.dumps(asdict(self)).encode().ljust(MANIFEST_ROOM_BYTES)

    @classmethod
    def decode(cls, data: bytes) -> Manifest | None:
        """What `encode` wrote, or None when it was not written to its end."""
        try:
            fields = json.loads(data.rstrip())  # stripped, as json is slow with a MiB of spaces
            return cls(**{**fields, "packages": tuple((n, v) for n, v in fields["packages"])})
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class Parent:
    """A complete parent disk in the pool."""

    manifest: Manifest
    disk: VolumeInfo
    kernel: VolumeInfo
    initrd: VolumeInfo


def recipe_names() -> tuple[str, ...]:
    """The images that labctl ships, sorted."""
    return tuple(sorted(p.parent.name for p in store.shipped("images").glob("*/recipe.yaml")))


def load_recipe(name: str, library: Path | None = None) -> Recipe:
    """Read `images/NAME/recipe.yaml`.

    Args:
        library: the folder of image folders; labctl's own by default, which is read once.

    Raises:
        InputError: there is no such image.
    """
    return _read_recipe(name, library) if library else _shipped_recipe(name)


@cache
def _shipped_recipe(name: str) -> Recipe:
    return _read_recipe(name, store.shipped("images"))


def _read_recipe(name: str, library: Path) -> Recipe:
    folder = library / name
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"image {name} does not exist", hint=f"shipped images: {', '.join(recipe_names())}")
    raw = YAML(typ="safe").load(folder / "recipe.yaml")
    disk_name = raw.get("disk_of", name)
    base = raw if disk_name == name else YAML(typ="safe").load(folder.parent / disk_name / "recipe.yaml")
    tree = folder.parent / disk_name / "root"
    digest = digest_of(base["disk"], _tree_digest(tree), _INIT, _MKFS_OPTIONS)[:12]
    return Recipe(
        name, raw["description"], disk_name, raw["command_line"], raw["memory_mib"], base["disk"], tree, digest
    )


def _tree_digest(tree: Path) -> list[tuple[str, str, str]]:
    entries = []
    for path in sorted(tree.rglob("*")):
        content = str(path.readlink()) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        executable = "x" if not path.is_symlink() and os.access(path, os.X_OK) else "-"
        entries.append((str(path.relative_to(tree)), executable, content))
    return entries


def find(hypervisor: Hypervisor, recipe: Recipe) -> Parent | None:
    """The parent made from exactly this recipe, or None when it isn't there or isn't complete."""
    return next((p for p in parents(hypervisor) if p.disk.name == recipe.volume("qcow2")), None)


def parents(hypervisor: Hypervisor) -> tuple[Parent, ...]:
    """All complete parents in the pool, by name."""
    volumes = {v.name: v for v in hypervisor.volumes()}
    found = []
    for name in sorted(volumes):
        if not (name.startswith("parent.") and name.endswith(".manifest")):
            continue
        manifest = Manifest.decode(b"".join(hypervisor.download_volume(name)))
        stem = name.removesuffix(".manifest")
        parts = [volumes.get(f"{stem}.{part}") for part in ("qcow2", "vmlinuz", "initrd")]
        if manifest and parts[0] and parts[1] and parts[2]:
            found.append(Parent(manifest, parts[0], parts[1], parts[2]))
    return tuple(found)


def users_of(hypervisor: Hypervisor, parent: Parent) -> tuple[str, ...]:
    """What stands on a parent: volumes backed by it and domains that boot its kernel, by name."""
    paths = {parent.disk.path, parent.kernel.path, parent.initrd.path}
    backed = [v.name for v in hypervisor.volumes() if v.backing_path in paths]

    def uses(domain: DomainInfo) -> bool:
        return bool(paths.intersection(domain.disks))

    return tuple(sorted([*backed, *(d.name for d in hypervisor.domains() if uses(d))]))


def remove(hypervisor: Hypervisor, parent: Parent) -> None:
    """Delete a parent's volumes, the manifest first, so that a crash leaves no half that looks whole.

    Raises:
        InputError: something stands on it.
    """
    users = users_of(hypervisor, parent)
    if users:
        raise InputError(
            f"{parent.disk.name} is in use by {', '.join(users)}", hint="labctl destroy the labs that use it first"
        )
    stem = parent.disk.name.removesuffix(".qcow2")
    for part in ("manifest", "qcow2", "vmlinuz", "initrd"):
        hypervisor.remove_volume(f"{stem}.{part}")


def remove_interrupted(hypervisor: Hypervisor) -> tuple[str, ...]:
    """Remove what builds left that were interrupted; returns the names of the volumes. Waits for a build under way."""
    with store.locked("build", lambda: None):
        whole = {p.disk.name.removesuffix(".qcow2") for p in parents(hypervisor)}
        names = [v.name for v in hypervisor.volumes() if v.name.startswith("parent.")]
        left = tuple(name for name in names if name.rsplit(".", 1)[0] not in whole)
        for name in left:
            hypervisor.remove_volume(name)
    return left


def verify(hypervisor: Hypervisor, parent: Parent) -> bool:
    """Whether the disk's bytes are still those that were uploaded (reads all of it)."""
    digest = hashlib.sha256()
    for chunk in hypervisor.download_volume(parent.disk.name):
        digest.update(chunk)
    return digest.hexdigest() == parent.manifest.sha256


# -- building ----------------------------------------------------------------------------------------------------------


def build(hypervisor: Hypervisor, recipe: Recipe, say: Progress) -> Parent:
    """Build the parent of a recipe unless it is there, and return it.

    Args:
        say: called with a line for each step.

    Raises:
        HostError: a host program is missing or failed; nothing is left behind.
    """
    hypervisor.ensure_pool()
    with store.locked("build", lambda: say("another labctl builds a parent disk: waiting for it")):
        there = find(hypervisor, recipe)
        if there:
            return there
        if os.geteuid() != 0:
            raise HostError("building a parent disk needs root", hint="sudo ./bootstrap labctl image build")
        started_s = SystemClock().now_s()
        with _workspace() as work:
            sha256, kernel, packages = _make_disk(recipe, work, say)
            say("uploading to the pool")
            _upload(hypervisor, recipe, work)
        disk = hypervisor.volume(recipe.volume("qcow2"))
        assert disk is not None
        build_s = round(SystemClock().now_s() - started_s, 1)
        manifest = Manifest(
            recipe.disk_name,
            recipe.digest,
            sha256,
            disk.allocation_bytes,
            disk.capacity_bytes,
            kernel,
            build_s,
            packages,
        )
        _put(hypervisor, recipe.volume("manifest"), io.BytesIO(manifest.encode()), MANIFEST_ROOM_BYTES)
        say(f"parent disk {disk.name} ready after {build_s:.0f} s")
    parent = find(hypervisor, recipe)
    assert parent is not None
    return parent


def _make_disk(recipe: Recipe, work: Path, say: Progress) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Fill `work` with disk.qcow2, vmlinuz and initrd; returns the disk's SHA-256, kernel release and packages."""
    root = work / "root"
    say(f"installing {len(recipe.packages)} packages and what they need from {recipe.disk['suite']}")
    _mmdebstrap(recipe, root, say)
    _lay_over(recipe, root)
    kernel = next((root / "usr/lib/modules").iterdir()).name
    shutil.copy(root / f"boot/vmlinuz-{kernel}", work / "vmlinuz")
    say("making the initial ramdisk")
    _make_initrd(recipe, root, kernel, work)
    packages = _installed(root)
    _slim(root)
    say("making the disk")
    raw, qcow2 = work / "disk.raw", work / "disk.qcow2"
    with raw.open("wb") as disk:
        disk.truncate(recipe.disk["size_gib"] << 30)
    process.run(["mkfs.ext4", *_MKFS_OPTIONS, "-d", root, raw], within_s=600)
    shutil.rmtree(root)
    process.run(["qemu-img", "convert", "-O", "qcow2", "-o", "lazy_refcounts=on", raw, qcow2], within_s=600)
    raw.unlink()
    return _sha256(qcow2), kernel, packages


def _mmdebstrap(recipe: Recipe, root: Path, say: Progress) -> None:
    disk = recipe.disk
    excludes = [f"--dpkgopt=path-exclude={p}" for p in disk["exclude_paths"]]
    includes = [f"--dpkgopt=path-include={p}" for p in disk["include_paths"]]
    # The packages' own initial ramdisk would take longer to build than all else and is not used: see _make_initrd.
    argv = [
        "mmdebstrap", "--mode=root", f"--variant={disk['variant']}",
        f"--include={','.join(recipe.packages)}",
        "--aptopt=APT::Install-Recommends \"false\"", *excludes, *includes,
        disk["suite"], str(root), *_mirror(disk["suite"]),
    ]  # fmt: skip

    def step(line: str) -> None:
        if line.startswith("I: "):
            say(f"mmdebstrap: {line[3:]}")

    process.run(argv, within_s=1800, on_line=step)


def _mirror(suite: str) -> list[str]:
    """Sources for `suite` from wherever this host gets Debian; empty lets mmdebstrap use its own default."""
    override = os.environ.get("LABCTL_MIRROR")
    if override:
        return [f"deb {override} {suite} main"]
    if not process.found("apt-get"):
        return []
    fields = "$(REPO_URI)|$(LABEL)|$(COMPONENT)"
    return debian_sources(suite, process.run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]))


def debian_sources(suite: str, listed: str) -> list[str]:
    """Sources for `suite` at the mirrors of an apt; empty when it has none of Debian's own.

    Args:
        listed: `URI|label|component` of each of its indexes, one a line.
    """
    rows = (row.split("|") for row in listed.splitlines() if row.count("|") == 2)
    by_label = {label: uri for uri, label, component in rows if component == "main"}
    if "Debian" not in by_label:
        return []
    sources = [f"deb {by_label['Debian']} {suite} main", f"deb {by_label['Debian']} {suite}-updates main"]
    if "Debian-Security" in by_label:
        sources.append(f"deb {by_label['Debian-Security']} {suite}-security main")
    return sources


def _lay_over(recipe: Recipe, root: Path) -> None:
    """Lay the recipe's tree over the root, owned by root, and settle which units start."""
    process.run(["cp", "-R", "--no-dereference", "--preserve=mode,links", f"{recipe.tree}/.", root])
    for path, target in recipe.disk["links"].items():
        link = root / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    for verb, units in (("enable", "enabled_units"), ("disable", "disabled_units"), ("mask", "masked_units")):
        process.run(["systemctl", f"--root={root}", "--quiet", verb, *recipe.disk[units]])
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("parent\n")
    (root / "etc/fstab").write_text("")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")


# With a journal, since power-off is what these disks are for; a small one, as every clone writes its own. Part of the
# disk's digest.
_MKFS_OPTIONS = ["-q", "-F", "-L", "root", "-J", "size=16", "-E", "lazy_itable_init=1"]

# The first program in a guest: loads what the disk needs, mounts it and hands over. Part of the disk's digest.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t proc proc /proc
init=/sbin/init
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in init=*) init=${word#init=} ;; esac
done
/bin/busybox umount /proc
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root "$init"
"""


def _make_initrd(recipe: Recipe, root: Path, kernel: str, work: Path) -> None:
    tree = work / "initrd.d"
    for folder in ("bin", "dev", "modules", "proc", "root"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", tree / "bin/busybox")
    for number, module in enumerate(recipe.disk["initramfs_modules"]):
        packed = next((root / f"usr/lib/modules/{kernel}").rglob(f"{module}.ko.xz"))
        (tree / f"modules/{number:02}-{module}.ko").write_bytes(lzma.decompress(packed.read_bytes()))
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    names = "\0".join(sorted(str(p.relative_to(tree)) for p in tree.rglob("*")))
    argv = ["cpio", "--null", "--create", "--format=newc", "--quiet", "--owner=0:0"]
    (work / "initrd").write_bytes(process.run_bytes(argv, stdin=names.encode(), cwd=tree))


def _installed(root: Path) -> tuple[tuple[str, str], ...]:
    listed = process.run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat=${Package} ${Version}\n"]
    )
    return tuple(sorted((row.split()[0], row.split()[1]) for row in listed.splitlines()))


def _slim(root: Path) -> None:
    """Drop what only an installation needs: the guest boots a kernel and ramdisk of the hypervisor's."""
    for pattern in ("boot/*", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log"):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _upload(hypervisor: Hypervisor, recipe: Recipe, work: Path) -> None:
    for part in ("manifest", "qcow2", "vmlinuz", "initrd"):
        hypervisor.remove_volume(recipe.volume(part))  # of a build that was interrupted
    for part, file in (("vmlinuz", "vmlinuz"), ("initrd", "initrd"), ("qcow2", "disk.qcow2")):
        path = work / file
        with path.open("rb") as source:
            _put(
                hypervisor,
                recipe.volume(part),
                source,
                path.stat().st_size,
                qcow2_gib=recipe.disk["size_gib"] if part == "qcow2" else 0,
            )


def _put(hypervisor: Hypervisor, name: str, source: Any, size_bytes: int, *, qcow2_gib: int = 0) -> None:
    xml = base_xml(name, qcow2_gib << 30, "qcow2") if qcow2_gib else base_xml(name, size_bytes, "raw")
    hypervisor.create_volume(xml)
    hypervisor.upload_volume(name, source, size_bytes, lambda _sent: None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _workspace() -> Iterator[Path]:
    """An empty directory, removed on every way out; what a killed build left is removed first (we hold the lock)."""
    work = store.cache_dir() / "build"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
