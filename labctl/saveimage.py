"""libvirt's save image: the domain's XML in a plain header before the guest's RAM, read and rewritten.

libvirt refuses to restore an image under another name or UUID, but the header holds the XML in the clear, and its
length has room to spare. With name, UUID and disk rewritten there, a copy of one booted machine's image is another one.

Layout (`virQEMUSaveHeader`, src/qemu/qemu_saveimage.h, version 2): 16 bytes of magic, then 32-bit words in the host's
byte order: version, length of what follows the header, whether it was running, format of the RAM, offset of the
cookie, 14 unused; then the XML, NUL, the cookie (XML, too), NUL, and zeros up to the length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from labctl.errors import LabError

__all__ = ["HEADER_BYTES", "SaveHeader", "UnknownSaveFormat", "read_length"]

_MAGIC = b"LibvirtQemudSave"
_WORDS = struct.Struct("<5I")
_VERSION = 2
HEADER_BYTES = 16 + 4 * 19
LONGEST_BYTES = 4 << 20  # of XML and cookie; a real one has some 10 KiB


class UnknownSaveFormat(LabError):
    """A save image whose header isn't what we know; it is left alone, and the machine is booted instead."""


@dataclass(frozen=True, slots=True)
class SaveHeader:
    """The header of a save image, with the XML behind it.

    Attributes:
        room_bytes: for XML and cookie together; the RAM begins behind it, so it never changes.
        words: the header's five numbers as they are.
        cookie: libvirt's own notes on the domain; empty if there are none.
    """

    words: tuple[int, ...]
    room_bytes: int
    unused: bytes
    xml: str
    cookie: bytes

    @classmethod
    def parse(cls, data: bytes) -> SaveHeader:
        """Read the start of an image.

        Args:
            data: at least `HEADER_BYTES` + `read_length(data)` bytes.

        Raises:
            UnknownSaveFormat: it is not an image of a version that we know, or it was not written to its end.
        """
        length = read_length(data)
        words = _WORDS.unpack_from(data, 16)
        body = data[HEADER_BYTES : HEADER_BYTES + length]
        cookie_at = words[4]
        if len(body) < length or cookie_at >= length or b"\0" not in body:
            raise UnknownSaveFormat(f"save image: its header promises {length} bytes of XML and holds {len(body)}")
        xml = body[: cookie_at or length].split(b"\0", 1)[0]
        cookie = body[cookie_at:].split(b"\0", 1)[0] if cookie_at else b""
        return cls(words, length, data[16 + _WORDS.size : HEADER_BYTES], xml.decode(), cookie)

    def with_xml(self, xml: str) -> bytes:
        """The bytes that make the image that of another domain; exactly as long as what they replace.

        Raises:
            UnknownSaveFormat: the XML does not fit into the room.
        """
        body = xml.encode() + b"\0"
        cookie_at = len(body) if self.cookie else 0
        body += self.cookie + b"\0" if self.cookie else b""
        if len(body) > self.room_bytes:
            raise UnknownSaveFormat(f"save image: {len(body)} bytes of XML do not fit into its {self.room_bytes}")
        words = (*self.words[:4], cookie_at)
        return _MAGIC + _WORDS.pack(*words) + self.unused + body.ljust(self.room_bytes, b"\0")


def read_length(data: bytes) -> int:
    """How many bytes of XML and cookie follow the header.

    Args:
        data: at least `HEADER_BYTES` bytes.

    Raises:
        UnknownSaveFormat: the magic, the version or the length is none that we know.
    """
    if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
        raise UnknownSaveFormat(f"save image: begins with {data[:16]!r}, expected {_MAGIC!r}")
    version: int
    length: int
    version, length, *_ = _WORDS.unpack_from(data, 16)
    if version != _VERSION:
        raise UnknownSaveFormat(f"save image: version {version}, known is {_VERSION}")
    if not 0 < length <= LONGEST_BYTES:
        raise UnknownSaveFormat(f"save image: {length} bytes of XML, expected up to {LONGEST_BYTES}")
    return length
