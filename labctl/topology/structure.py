"""From plain data to a `Topology`: says what doesn't fit the model, and goes on with what does.

The rest of a file with a typing error is still checked. So what doesn't fit is left out, together with what can't be
without it, and the model is tried again on what remains.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from labctl.topology.document import Plain, within
from labctl.topology.finding import Finding, KeyPath
from labctl.topology.model import Topology

__all__ = ["Structure", "read_structure"]

_ROOT_STAND_IN: dict[str, Plain] = {"lab": "lab", "domain": "lab.test", "networks": {}, "nodes": {}}

_EXPECTED = {
    "int_type": "a whole number",
    "string_type": "a string",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
}


@dataclass(frozen=True, slots=True)
class Structure:
    """What could be made of a file.

    Attributes:
        topology: of all that fits the model.
        findings: what doesn't.
        left_out: the paths that `topology` lacks.
    """

    topology: Topology
    findings: tuple[Finding, ...]
    left_out: frozenset[KeyPath]

    def original(self, path: KeyPath) -> KeyPath:
        """A path in `topology` as it is in the file, where lists may hold items that were left out."""
        return _original(path, self.left_out)


def read_structure(data: Plain) -> Structure:
    """Fit `data` to the model, as far as it goes."""
    findings: tuple[Finding, ...] = ()
    left_out: frozenset[KeyPath] = frozenset()
    kept = data
    while True:
        try:
            return Structure(Topology.model_validate(kept), findings, left_out)
        except ValidationError as error:
            details = error.errors(include_url=False)
            more = {_to_leave_out(detail, data, left_out) for detail in details}
            if more <= left_out:
                raise  # a default that doesn't fit the model: a defect of labctl, and no round would end it
        # What later rounds find is but a consequence of what the first has left out.
        findings = findings or tuple(_findings(details, data))
        left_out |= more
        rest = _without(data, left_out, ())
        kept = {**_ROOT_STAND_IN, **rest} if isinstance(rest, dict) else dict(_ROOT_STAND_IN)


def _to_leave_out(detail: ErrorDetails, data: Plain, left_out: frozenset[KeyPath]) -> KeyPath:
    path = _original(detail["loc"], left_out)
    if detail["type"] == "missing" and len(path) > 1:
        return path[:-1]
    return within(data, path)


def _without(value: Plain, left_out: frozenset[KeyPath], path: KeyPath) -> Plain:
    if isinstance(value, dict):
        return {k: _without(v, left_out, (*path, k)) for k, v in value.items() if (*path, k) not in left_out}
    if isinstance(value, list):
        return [_without(v, left_out, (*path, i)) for i, v in enumerate(value) if (*path, i) not in left_out]
    return value


def _original(path: Iterable[str | int], left_out: frozenset[KeyPath]) -> KeyPath:
    found: KeyPath = ()
    for part in path:
        if isinstance(part, int):
            present = (index for index in count() if (*found, index) not in left_out)
            found = (*found, next(islice(present, part, None)))
        else:
            found = (*found, part)
    return found


# -- findings ------------------------------------------------------------------------------------------------------


def _findings(details: list[ErrorDetails], data: Plain) -> Iterator[Finding]:
    meant = {_meant(d["loc"], data) for d in details if d["type"] == "extra_forbidden"}
    for detail in details:
        # A key that was misspelt isn't missing as well.
        if detail["type"] != "missing" or detail["loc"] not in meant:
            yield _finding(detail, data)


def _finding(detail: ErrorDetails, data: Plain) -> Finding:
    path = detail["loc"]
    match detail["type"]:
        case "missing":
            return Finding(path, f"is missing: {_description(path)}")
        case "extra_forbidden":
            return Finding(path, f"is an unknown key; {_known_keys(path, data)}", at_key=True)
    return Finding(within(data, path), _says(detail))


def _says(detail: ErrorDetails) -> str:
    shown, bounds = _shown(detail["input"]), detail.get("ctx", {})
    match detail["type"]:
        case "labctl":
            return f"{shown} {bounds['says']}".lstrip()
        case "greater_than_equal":
            return f"{shown} is too small; expected {bounds['ge']} or more"
        case "less_than_equal":
            return f"{shown} is too large; expected {bounds['le']} or less"
        case "int_type" if shown.isdecimal():
            return f'"{shown}" is a string; expected a number: {shown}'
        case "string_type" if isinstance(detail["input"], int) and not isinstance(detail["input"], bool):
            return f'{shown} is a number; expected a string: "{shown}"'
        case kind if kind in _EXPECTED:
            return f"{shown} is not {_EXPECTED[kind]}" if shown else f"is empty; expected {_EXPECTED[kind]}"
    return f"{shown}: {detail['msg']}"


def _shown(value: object) -> str:
    """A value in a message; an empty one shows as nothing."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dict():
            return "(a mapping)"
        case []:
            return ""
        case list():
            return "(a list)"
    return str(value)


def _known_keys(path: KeyPath, data: Plain) -> str:
    meant = _meant(path, data)
    if path[-1] == "<<":
        return "YAML 1.2 has no merge keys; expected the keys themselves"
    if meant:
        return f"did you mean {meant[-1]}?"
    return f"expected one of {', '.join(_model_at(path[:-1]).model_fields)}"


def _meant(path: KeyPath, data: Plain) -> KeyPath:
    """The path with its misspelt last key corrected, or empty when it resembles none that is free."""
    siblings = _at(data, path[:-1])
    free = [key for key in _model_at(path[:-1]).model_fields if not isinstance(siblings, dict) or key not in siblings]
    close = difflib.get_close_matches(str(path[-1]), free, n=1)
    return (*path[:-1], close[0]) if close else ()


def _at(data: Plain, path: KeyPath) -> Any:
    value: Any = data
    for part in path:
        value = value[part]
    return value


def _description(path: KeyPath) -> str:
    return _model_at(path[:-1]).model_fields[str(path[-1])].description or ""


def _model_at(path: KeyPath) -> type[BaseModel]:
    """The model that describes the mapping at `path`."""
    model: type[BaseModel] = Topology
    parts = iter(path)
    for part in parts:
        annotation = model.model_fields[str(part)].annotation
        model = _model_in(annotation) or model
        if get_origin(annotation) in {Mapping, tuple}:
            next(parts, None)  # the name or the index of one of them
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)
