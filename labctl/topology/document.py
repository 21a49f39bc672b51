"""A YAML file as plain data that remembers the line and column of every key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from labctl.errors import InputError, Problem
from labctl.topology.finding import Finding, KeyPath, dotted

__all__ = ["Document", "Plain", "Position", "read_document", "within"]

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | bool | None"

_YAML = "tag:yaml.org,2002:"

_ADVICE = {
    "mapping values are not allowed here": "two `: ` in one line, or a line that is indented too far",
    "found character '\\t' that cannot start any token": "indent with spaces, not tabs",
}
"""What YAML's own words for the commonest mistakes mean."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, 1-based."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """A file as plain data, and where everything in it stands.

    Attributes:
        file: its name as the user gave it.
        data: mappings (keys as written), lists and scalars; of a key given twice the first counts.
        keys: where the key of a path stands.
        values: where the value of a path begins.
        problems: what YAML allows and a topology doesn't: duplicate keys, tags, keys that aren't scalars.
        unsure: the paths that `problems` are about.
        unread: those of them whose value is None in `data`, whatever it is in the file.
    """

    file: str
    data: Plain
    keys: Mapping[KeyPath, Position]
    values: Mapping[KeyPath, Position]
    problems: tuple[Problem, ...]
    unsure: frozenset[KeyPath]
    unread: frozenset[KeyPath]

    def locate(self, finding: Finding) -> Problem:
        """The finding with its place: that of the value or key, else of the nearest thing around it."""
        path = finding.path
        where = None if finding.at_key else self.values.get(path)
        while where is None:
            where = self.keys.get(path) or self.values.get(path)
            path = path[:-1]
        return Problem(self.file, where.line, where.column, str(finding))


def read_document(text: str, file: str) -> Document:
    """Read YAML 1.2.

    Raises:
        InputError: the text isn't YAML, or is empty; a YAML reader can't go on after its first error.
    """
    try:
        root = YAML().compose(text)
    except YAMLError as error:
        problem = _syntax_problem(error, text, file)
        raise InputError(f"{file}: not YAML", problems=(problem,)) from error
    if root is None:
        raise InputError(f"{file}: empty", problems=(Problem(file, 0, 0, "the file is empty; expected a topology"),))
    reading = _Reading(file)
    data = reading.value(root, (), frozenset())
    return reading.document(data)


def within(data: Plain, path: KeyPath) -> KeyPath:
    """As much of `path` as there is in `data`: a single port is validated as a list of one."""
    value = data
    for depth, part in enumerate(path):
        if isinstance(value, dict) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return path[:depth] or path
    return path


def _syntax_problem(error: YAMLError, text: str, file: str) -> Problem:
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        said = ": ".join(part for part in (error.context, error.problem) if part)
        opened = error.context_mark
        since = f" (begun in line {opened.line + 1})" if opened and opened.line != error.problem_mark.line else ""
        advice = f"; {_ADVICE[error.problem]}" if error.problem in _ADVICE else ""
        where = Position(error.problem_mark.line + 1, error.problem_mark.column + 1)
        return Problem(file, where.line, where.column, f"not YAML: {said}{since}{advice}")
    # A reader error (a control character) knows only its offset.
    before = text[: getattr(error, "position", 0)]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return Problem(file, line, column, f"not YAML: {getattr(error, 'reason', error)}")


@dataclass(slots=True)
class _Reading:
    """One pass over the nodes that YAML's composer gives."""

    file: str
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    values: dict[KeyPath, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unsure: set[KeyPath] = field(default_factory=set)
    unread: set[KeyPath] = field(default_factory=set)

    def document(self, data: Plain) -> Document:
        """All that was read."""
        unsure, unread = frozenset(self.unsure), frozenset(self.unread)
        return Document(self.file, data, self.keys, self.values, tuple(self.problems), unsure, unread)

    def value(self, node: Node, path: KeyPath, inside: frozenset[int]) -> Plain:
        """The node as plain data; `inside` holds the ids of the nodes around it, one of which an alias may name."""
        if not (path and _is_blank(node)):
            self.values[path] = _position(node)
        if id(node) in inside:
            self._reject(node, path, "is an alias of something that it is inside of")
        elif not str(node.tag).startswith(_YAML):
            self._reject(node, path, f"has the tag {node.tag}, which means nothing here; expected a plain value")
        else:
            return self._known(node, path, inside)
        self.unread.add(path)
        return None

    def _known(self, node: Node, path: KeyPath, inside: frozenset[int]) -> Plain:
        inside = inside | {id(node)}
        if isinstance(node, MappingNode):
            return self._mapping(node, path, inside)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index), inside) for index, item in enumerate(node.value)]
        return _scalar(node.value, str(node.tag).removeprefix(_YAML))

    def _mapping(self, node: MappingNode, path: KeyPath, inside: frozenset[int]) -> dict[str, Plain]:
        data: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._reject(key_node, path, "has a key that is not a plain word")
                continue
            key, at = str(key_node.value), (*path, str(key_node.value))
            if key in data:
                first = self.keys[at]
                self._reject(key_node, at, f"is a duplicate key; it stands in line {first.line} already")
                continue
            self.keys[at] = _position(key_node)
            data[key] = self.value(value_node, at, inside)
        return data

    def _reject(self, node: Node, path: KeyPath, says: str) -> None:
        where = _position(node)
        self.problems.append(Problem(self.file, where.line, where.column, f"{dotted(path)} {says}"))
        self.unsure.add(path)


def _is_blank(node: Node) -> bool:
    """Whether nothing is written there; YAML places that at whatever comes next."""
    return isinstance(node, ScalarNode) and node.value == "" and str(node.tag) == f"{_YAML}null"


def _position(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(text: str, tag: str) -> Plain:
    match tag:
        case "int":
            return _whole_number(text)
        case "bool":
            return text.lower() == "true"
        case "null":
            return None
        case _:
            return text  # floats and timestamps too: nothing in a topology is one, and people see what they wrote


def _whole_number(text: str) -> int | str:
    """YAML 1.2 core schema, where 010 is ten and 0o10 is eight."""
    digits = text.replace("_", "").lower()
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2], 10)
    try:
        return int(digits, base)
    except ValueError:
        return text  # YAML 1.1 by directive: 1:30 is a number in base 60 there
