"""Faults as text: all of them by name, what was typed, and what is kept in a mark."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labctl.errors import InputError
from labctl.faults.model import Fault, Partition

__all__ = ["KINDS", "dump", "load", "parse", "slug"]

KINDS: Mapping[str, type[Fault]] = {kind.NAME: kind for kind in Fault.__args__}


def parse(name: str, target: str, parameters: Mapping[str, str]) -> Fault:
    """The fault that was typed.

    Args:
        target: a node; of a partition its groups, `m1/m2,client`.
        parameters: by name, as text.

    Raises:
        InputError: there is no such kind, or its parameters can't be used; names all of them.
    """
    if name not in KINDS:
        raise InputError(f"there is no fault {name}", hint=f"faults: {', '.join(KINDS)}")
    groups = tuple(tuple(group.split(",")) for group in target.split("/"))
    first: dict[str, Any] = {"groups": groups} if name == Partition.NAME else {"node": target}
    return _made(KINDS[name], {**first, **parameters}, lenient=True)


def dump(fault: Fault) -> str:
    """The fault as text, JSON."""
    return json.dumps({"name": fault.NAME, **dataclasses.asdict(fault)})


def load(text: str) -> Fault:
    """The fault that `dump` wrote.

    Raises:
        InputError: it is none, or of a newer labctl.
    """
    values = json.loads(text)
    name = values.pop("name", "")
    if name not in KINDS:
        raise InputError(f"a fault {name!r} is marked, which this labctl does not know", hint="use the one that did it")
    return _made(KINDS[name], values, lenient=False)


def _made(kind: type[Fault], values: dict[str, Any], *, lenient: bool) -> Fault:
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = sorted(values.keys() - set(known))
    takes = ", ".join(n for n in known if n not in {"node", "groups"}) or "none"
    if unknown:
        raise InputError(f"{kind.NAME} has no parameter {', '.join(unknown)}", hint=f"its parameters: {takes}")
    try:
        made: Fault = TypeAdapter(kind).validate_python(values, strict=None if lenient else False)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{kind.NAME}: {wrong}", hint=f"its parameters: {takes}") from error
    return made


def slug(fault: Fault) -> str:
    """Letters, digits and underscores that tell it from the other faults of its nodes, for names inside a guest."""
    return re.sub(r"[^a-z0-9]+", "_", f"{fault.kind} {fault.target if isinstance(fault, Partition) else ''}".lower())
