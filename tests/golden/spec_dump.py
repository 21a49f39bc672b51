"""A value as text that people read in a diff: one line for what is flat, indented lines for what holds more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby

from labctl.topology.spec import told_fields

__all__ = ["dump"]


def dump(value: object) -> str:
    """Every field of `value`, a dataclass, by name, but for what nobody made use of."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: object, indent: str) -> Iterator[str]:
    for field in told_fields(value):
        content = getattr(value, field.name)
        if _holds_dataclasses(content):
            yield f"{indent}{field.name}:"
            for item in content:
                yield from _item(item, f"{indent}  ")
        else:
            yield f"{indent}{field.name}: {_flat(content)}"


def _item(item: object, indent: str) -> Iterator[str]:
    if any(_holds_dataclasses(getattr(item, field.name)) for field in told_fields(item)):
        first, *rest = _lines(item, f"{indent}  ")
        yield f"{indent}- {first.lstrip()}"
        yield from rest
    else:
        yield f"{indent}- {_flat(item)}"


def _holds_dataclasses(value: object) -> bool:
    return isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value)


def _flat(value: object) -> str:
    if dataclasses.is_dataclass(value):
        return ", ".join(f"{f.name} {_flat(getattr(value, f.name))}" for f in told_fields(value))
    if isinstance(value, tuple):
        items = (
            _runs(value)
            if value and isinstance(value[0], IPv4Address | IPv6Address)
            else [_flat(item) for item in value]
        )
        return f"({' '.join(items)})"
    return str(value)


def _runs(addresses: tuple[IPv4Address | IPv6Address, ...]) -> list[str]:
    """Addresses with consecutive ones drawn together, so that 254 of them take one line."""
    numbered = groupby(enumerate(addresses), key=lambda pair: int(pair[1]) - pair[0])
    runs = [[address for _, address in run] for _, run in numbered]
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
