"""From a topology file to a checked `Topology`, or to all the problems that it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from labctl.errors import InputError, Problem
from labctl.store import shipped
from labctl.topology.catalogue import Catalogue, load_catalogue
from labctl.topology.check import check
from labctl.topology.document import Document, Plain, read_document, within
from labctl.topology.finding import Finding, overlaps
from labctl.topology.model import Topology
from labctl.topology.structure import Structure, read_structure

__all__ = ["find_topology", "load_topology", "parse_topology", "read_text", "shipped_topologies"]


def load_topology(path: Path, catalogue: Catalogue | None = None) -> Topology:
    """Read and check a topology file; see `parse_topology`."""
    return parse_topology(read_text(path), str(path), catalogue)


def read_text(path: Path) -> str:
    """The text of a topology file.

    Raises:
        InputError: it can't be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8, from byte {error.start} on") from error


def parse_topology(text: str, file: str, catalogue: Catalogue | None = None) -> Topology:
    """Read and check a topology.

    Args:
        file: the file's name, for the problems.
        catalogue: the roles and images that there are; labctl's own by default.

    Raises:
        InputError: with all the problems, in the order of the file.
    """
    catalogue = load_catalogue() if catalogue is None else catalogue
    document = read_document(text, file)
    structure = read_structure(document.data)
    problems = sorted({*document.problems, *_problems(document, structure, catalogue)})
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError(f"{file}: {count}", problems=tuple(problems))
    return structure.topology


def _problems(document: Document, structure: Structure, catalogue: Catalogue) -> Iterator[Problem]:
    yield from (document.locate(finding) for finding in structure.findings if finding.path not in document.unread)
    unsure = document.unsure | structure.left_out
    for finding in check(structure.topology, catalogue):
        if not any(overlaps(need, path) for need in finding.needs for path in unsure):
            yield document.locate(_in_file(finding, structure, document.data))


def _in_file(finding: Finding, structure: Structure, data: Plain) -> Finding:
    path, other = structure.original(finding.path), structure.original(finding.other)
    return replace(finding, path=within(data, path), other=within(data, other))


def shipped_topologies() -> dict[str, Path]:
    """The topologies that labctl ships, by name."""
    return {path.stem: path for path in sorted(shipped("topologies").glob("*.yaml"))}


def find_topology(name: str) -> Path:
    """The file that `name` means: a path, or the name of a topology that labctl ships.

    Raises:
        InputError: there is no such file and no such topology.
    """
    known = shipped_topologies()
    if name in known and not Path(name).is_file():
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise InputError(
        f"{name}: neither a file nor a topology that labctl ships; those are {', '.join(known)}",
        hint="labctl validate PATH checks a file of your own",
    )
