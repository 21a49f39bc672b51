"""WBXML as ActiveSync uses it ([MS-ASWBXML]): elements of a page and a token, with text or elements in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["FOLDERS", "PROVISION", "Element", "Text", "decoded", "encoded", "texts"]

FOLDERS, PROVISION = 7, 14  # pages
Element = tuple[int, int, Any]
"""Page, token, and text or a list of elements."""
Text = tuple[int, int, str]
"""Page and token of the element that a text is in, and the text."""

_HEAD = b"\x03\x01\x6a\x00"  # version 1.3, no public identifier, UTF-8, no string table
_SWITCH, _END, _STRING, _OPAQUE = 0x00, 0x01, 0x03, 0xC3
_CONTENT, _TOKEN = 0x40, 0x3F


def encoded(tree: Element) -> bytes:
    """The bytes of a document."""
    out, page = bytearray(_HEAD), 0

    def put(element: Element) -> None:
        nonlocal page
        if element[0] != page:
            page = element[0]
            out.extend((_SWITCH, page))
        out.append(element[1] | _CONTENT)
        if isinstance(element[2], str):
            out.extend(bytes([_STRING]) + element[2].encode() + b"\0")
        else:
            for child in element[2]:
                put(child)
        out.append(_END)

    put(tree)
    return bytes(out)


def decoded(data: bytes) -> list[Text]:
    """All texts of a document; raises ValueError or IndexError for what is none."""
    if not data.startswith(_HEAD[:1]):
        raise ValueError("it does not begin with the version")
    found: list[Text] = []
    path: list[tuple[int, int]] = []
    page, at = 0, len(_HEAD)
    while at < len(data):
        byte, at = data[at], at + 1
        if byte == _SWITCH:
            page, at = data[at], at + 1
        elif byte == _END:
            path.pop()
        elif byte == _STRING:
            end = data.index(b"\0", at)
            found.append((*path[-1], data[at:end].decode("utf-8", "replace")))
            at = end + 1
        elif byte == _OPAQUE:
            length, at = _length(data, at)
            found.append((*path[-1], data[at : at + length].decode("utf-8", "replace")))
            at += length
        else:
            path.append((page, byte & _TOKEN))
            if not byte & _CONTENT:
                path.pop()
    return found


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the last without the eighth; and where it ends."""
    length = 0
    while True:
        length, byte, at = length << 7 | data[at] & 0x7F, data[at], at + 1
        if not byte & 0x80:
            return length, at


def texts(said: Sequence[Text], page: int, token: int) -> list[str]:
    """The texts in the elements of a kind."""
    return [text for p, t, text in said if (p, t) == (page, token)]
