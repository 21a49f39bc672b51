"""The values of a topology file: how each is written, what it becomes, and what is said of one that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError
from typing import Annotated, Any, TypeAlias, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = [
    "ACCOUNT",
    "LABEL",
    "Address",
    "Address6",
    "AddressRange",
    "Addresses",
    "AnyAddress",
    "IPAddress",
    "Mac",
    "PortRange",
    "PortsList",
    "Subnet",
    "Subnet6",
    "TimeZone",
    "keys_are_accounts",
    "keys_are_names",
    "one_of",
]

ACCOUNT = r"^(?=.*[a-z])[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"
"""A name of an account: what the directory, Kerberos, a mail address and a folder all take as it is."""

LABEL = r"^(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""A DNS label as in RFC 1123, lower case, and with a letter: a name of digits alone would be taken for an address."""

_BYTE = r"(25[0-5]|2[0-4]\d|1?\d?\d)"
_ADDRESS = rf"{_BYTE}(\.{_BYTE}){{3}}"

_ADDRESS6 = r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*"

E = TypeVar("E", bound=StrEnum)

IPAddress: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Consecutive addresses of one kind, both ends included; first and last are the same for one address."""

    first: IPAddress
    last: IPAddress

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def count(self) -> int:
        """How many addresses it holds; of IPv6 maybe more than `len` could say."""
        return int(self.last) - int(self.first) + 1

    def shared_with(self, other: AddressRange) -> AddressRange | None:
        """The addresses that both hold."""
        if self.first.version != other.first.version:
            return None
        first, last = max(self.first, other.first, key=int), min(self.last, other.last, key=int)
        return AddressRange(first, last) if int(first) <= int(last) else None


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Consecutive ports, both ends included; first and last are the same for one port."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def _wrong(says: str) -> PydanticCustomError:
    return PydanticCustomError("labctl", "{says}", {"says": says})


def _no_address(value: object, says: str) -> PydanticCustomError:
    return _wrong(f"{says}; the prefix length is the network's" if "/" in str(value) else says)


def _address(value: object) -> IPv4Address:
    try:
        return IPv4Address(value if isinstance(value, str) else "")
    except AddressValueError:
        raise _no_address(value, "is not an IPv4 address") from None


def _address6(value: object) -> IPv6Address:
    try:
        return _plain6(value)
    except AddressValueError:
        raise _no_address(value, "is not an IPv6 address") from None


def _any_address(value: object) -> IPAddress:
    try:
        return _ip(value)
    except AddressValueError:
        raise _no_address(value, "is neither an IPv4 nor an IPv6 address") from None


def _ip(value: object) -> IPAddress:
    return _plain6(value) if ":" in str(value) else IPv4Address(value if isinstance(value, str) else "")


def _plain6(value: object) -> IPv6Address:
    """Without a zone, which would name a NIC of the one machine that reads it."""
    return IPv6Address(value if isinstance(value, str) and "%" not in value else "")


def _subnet(value: object) -> IPv4Network:
    text = value if isinstance(value, str) else ""
    try:
        network = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise _wrong("is not an IPv4 network; expected one like 10.77.0.0/16") from None
    if "/" not in text:
        raise _wrong(f"lacks the prefix length; expected one like {text}/24")
    if str(network.network_address) != text.partition("/")[0]:
        raise _wrong(f"is an address inside a network; the network is {network}")
    return network


def _subnet6(value: object) -> IPv6Network:
    text = value if isinstance(value, str) else ""
    try:
        network = IPv6Network(text, strict=False)
    except ValueError:
        raise _wrong("is not an IPv6 network; expected one like fd00:77::/64") from None
    if "/" not in text:
        raise _wrong(f"lacks the prefix length; expected one like {text}/64")
    if network.network_address != IPv6Address(text.partition("/")[0]):
        raise _wrong(f"is an address inside a network; the network is {network}")
    return network


def _address_range(value: object) -> AddressRange:
    first, dash, last = (value if isinstance(value, str) else "").partition("-")
    try:
        found = AddressRange(_ip(first.strip()), _ip(last.strip() if dash else first.strip()))
    except AddressValueError:
        raise _wrong("is neither an address nor a range like 10.77.1.1-10.77.1.254") from None
    if found.first.version != found.last.version:
        raise _wrong("begins with IPv4 and ends with IPv6, or the other way round")
    if int(found.first) > int(found.last):
        raise _wrong(f"runs backwards; expected {found.last}-{found.first}")
    return found


def _port_range(value: object) -> PortRange:
    if not isinstance(value, int | str) or not re.fullmatch(r"\d{1,9}(\s*-\s*\d{1,9})?", str(value), re.ASCII):
        raise _wrong("is neither a port nor a range of ports like 1000-2000")
    first, dash, last = str(value).partition("-")
    found = PortRange(int(first), int(last if dash else first))
    if found.first > found.last:
        raise _wrong(f"runs backwards; expected {found.last}-{found.first}")
    if found.last > 65535:
        raise _wrong(f"goes beyond the last port, {65535}")
    return found


def _mac(value: object) -> str:
    text = value.lower() if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        raise _wrong("is not a MAC address; expected one like 52:54:00:12:34:56")
    first = int(text[:2], 16)
    if first & 1:
        raise _wrong("is a multicast MAC; a NIC's own has an even first octet")
    if first == 0xFE:
        raise _wrong("begins with fe, which libvirt keeps for the host's side of the cable")
    if text == "00:00:00:00:00:00":
        raise _wrong("is nobody's MAC; expected one like 52:54:00:12:34:56")
    return text


def _time_zone(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("is not a time zone; expected one like Europe/Berlin")
    try:
        return value if value == "UTC" else ZoneInfo(value).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # OSError: the name of a directory of zones ("Europe").
        raise _wrong("is not a time zone that this host knows; expected one like Europe/Berlin") from None


def one_of(kind: type[E]) -> Callable[[object], E]:
    """Parses a member of an enumeration by its value."""

    def parse(value: object) -> E:
        if isinstance(value, str) and value in tuple(kind):
            return kind(value)
        raise _wrong(f"is not one of {', '.join(kind)}")

    return parse


def _as_list(value: object) -> object:
    if value in ([], ()):
        raise _wrong("is empty; expected at least one port")
    return value if isinstance(value, list | tuple) else [value]


def keys_are_names(longest: int) -> dict[str, Any]:
    """The JSON Schema of a mapping whose keys are names."""
    return {"propertyNames": {"pattern": LABEL, "maxLength": longest}}


def keys_are_accounts() -> dict[str, Any]:
    """The JSON Schema of a mapping whose keys are names of accounts."""
    return {"propertyNames": {"pattern": ACCOUNT, "maxLength": 20}}


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


Address = Annotated[IPv4Address, BeforeValidator(_address), WithJsonSchema({"type": "string", "format": "ipv4"})]
Address6 = Annotated[IPv6Address, BeforeValidator(_address6), WithJsonSchema({"type": "string", "format": "ipv6"})]
AnyAddress = Annotated[IPAddress, BeforeValidator(_any_address), _text(rf"^({_ADDRESS}|{_ADDRESS6})$")]
Subnet = Annotated[IPv4Network, BeforeValidator(_subnet), _text(rf"^{_ADDRESS}/\d{{1,2}}$")]
Subnet6 = Annotated[IPv6Network, BeforeValidator(_subnet6), _text(rf"^{_ADDRESS6}/\d{{1,3}}$")]
Addresses = Annotated[
    AddressRange,
    BeforeValidator(_address_range),
    _text(rf"^({_ADDRESS}(\s*-\s*{_ADDRESS})?|{_ADDRESS6}(\s*-\s*{_ADDRESS6})?)$"),
]
Mac = Annotated[str, BeforeValidator(_mac), _text(r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
TimeZone = Annotated[str, BeforeValidator(_time_zone)]

_PORTS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 65535},
        {"type": "string", "pattern": r"^\d{1,5}(\s*-\s*\d{1,5})?$"},
    ]
}
Ports = Annotated[PortRange, BeforeValidator(_port_range), WithJsonSchema(_PORTS_SCHEMA)]
PortsList = Annotated[
    tuple[Ports, ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [*_PORTS_SCHEMA["anyOf"], {"type": "array", "items": _PORTS_SCHEMA, "minItems": 1}]}),
]
