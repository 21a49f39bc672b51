"""The kernel's hash, so that labctl knows a client's bucket as well as the packet filter does."""

from __future__ import annotations

import struct

__all__ = ["jhash", "scaled"]

_MASK = 0xFFFFFFFF
_BEGIN = 0xDEADBEEF
_MIX = (("a", "c", 4), ("b", "a", 6), ("c", "b", 8), ("a", "c", 16), ("b", "a", 19), ("c", "b", 4))
_FINAL = (("c", "b", 14), ("a", "c", 11), ("b", "a", 25), ("c", "b", 16), ("a", "c", 4), ("b", "a", 14), ("c", "b", 24))


def jhash(key: bytes, seed: int) -> int:
    """Bob Jenkins' lookup3 as in Linux's include/linux/jhash.h, on a little-endian machine; 32 bits."""
    start = (_BEGIN + len(key) + seed) & _MASK
    words = {"a": start, "b": start, "c": start}
    while len(key) > 12:
        _add(words, key[:12])
        for one, other, bits in _MIX:
            _mix(words, one, other, bits)
        key = key[12:]
    if key:
        _add(words, key.ljust(12, b"\0"))
        for one, other, bits in _FINAL:
            words[one] = ((words[one] ^ words[other]) - _rotated(words[other], bits)) & _MASK
    return words["c"]


def _add(words: dict[str, int], block: bytes) -> None:
    for name, value in zip("abc", struct.unpack("<3I", block), strict=True):
        words[name] = (words[name] + value) & _MASK


def _mix(words: dict[str, int], one: str, other: str, bits: int) -> None:
    third = ({"a", "b", "c"} - {one, other}).pop()
    words[one] = ((words[one] - words[other]) & _MASK) ^ _rotated(words[other], bits)
    words[other] = (words[other] + words[third]) & _MASK


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def scaled(value: int, below: int) -> int:
    """The kernel's reciprocal_scale(): a 32-bit hash to 0 … `below` - 1."""
    return value * below >> 32
