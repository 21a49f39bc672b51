"""What a topology can choose from: the roles and the images that labctl ships."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from labctl.errors import InputError, Problem
from labctl.store import shipped
from labctl.topology.document import Document, read_document
from labctl.topology.finding import Finding

__all__ = ["Catalogue", "ImageDefaults", "load_catalogue"]

ROLE_LIBRARY = Path(__file__).parent.parent / "roles" / "library"


@dataclass(frozen=True, slots=True)
class ImageDefaults:
    """What an image says of the nodes that are cloned from it.

    Attributes:
        memory_mib: of a node that names none.
    """

    memory_mib: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Roles and images that exist.

    Attributes:
        roles: the roles that each role requires somewhere in the lab, by role.
        images: by name.
        companions: the roles that come with each role on its node, by role.
        files: what each role writes on its node, by role.
    """

    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: Mapping[str, ImageDefaults] = field(default_factory=dict)
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_companions(self, roles: Iterable[str]) -> tuple[str, ...]:
        """`roles`, each after those that come with it, and each once."""
        found: list[str] = []
        for role in roles:
            before = self.with_companions(self.companions.get(role, ()))
            found += [r for r in (*before, role) if r not in found]
        return tuple(found)


def load_catalogue(library: Path | None = None, images: Path | None = None) -> Catalogue:
    """Read `role.yaml` (keys `requires`, `with`, `files`) and `recipe.yaml` (`memory_mib`) of every role and image.

    Args:
        library: the folder of role folders; labctl's own by default.
        images: the folder of image folders; labctl's own by default.

    Raises:
        InputError: one of them isn't YAML, or the key holds something else than it should.
    """
    if library is None and images is None:
        return _shipped_catalogue()
    return _read(library or ROLE_LIBRARY, images or shipped("images"))


@cache
def _shipped_catalogue() -> Catalogue:
    """labctl's own, read once: a topology is checked against it and then resolved with it."""
    return _read(ROLE_LIBRARY, shipped("images"))


def _read(library: Path, images: Path) -> Catalogue:
    roles = {
        path.parent.name: read_document(path.read_text("utf-8"), str(path))
        for path in sorted(library.glob("*/role.yaml"))
    }
    companions = {name: _roles(document, "with") for name, document in roles.items()}
    return Catalogue(
        {name: _roles(document, "requires") for name, document in roles.items()},
        {path.parent.name: ImageDefaults(_memory_mib(path)) for path in sorted(images.glob("*/recipe.yaml"))},
        companions,
        {name: _files(document) for name, document in roles.items()},
    )


def _roles(document: Document, key: str) -> tuple[str, ...]:
    found = _key(document, key)
    names = [] if found is None else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _unusable(document, key, "is not a list of roles")
    return tuple(str(name) for name in names)


def _files(document: Document) -> tuple[str, ...]:
    found = _key(document, "files")
    files = {} if found is None else found
    if not isinstance(files, dict):
        raise _unusable(document, "files", "is not a mapping of paths to templates")
    return tuple(str(path) for path in files)


def _memory_mib(path: Path) -> int:
    document = read_document(path.read_text("utf-8"), str(path))
    memory_mib = _key(document, "memory_mib")
    if not isinstance(memory_mib, int):
        raise _unusable(document, "memory_mib", "is missing or not a number of MiB")
    return memory_mib


def _key(document: Document, key: str) -> object:
    return document.data.get(key) if isinstance(document.data, dict) else None


def _unusable(document: Document, key: str, says: str) -> InputError:
    problems: tuple[Problem, ...] = (document.locate(Finding((key,), says)),)
    return InputError(f"{document.file}: 1 problem", problems=problems)
