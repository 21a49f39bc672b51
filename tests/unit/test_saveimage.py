"""The save image's header: read, rewritten in place, and refused when it isn't what we know."""

from __future__ import annotations

import struct

import pytest

from labctl.saveimage import HEADER_BYTES, SaveHeader, UnknownSaveFormat

ROOM = 512


def image(
    xml: bytes = b"<domain/>", cookie: bytes = b"<cookie/>", *, magic: bytes = b"LibvirtQemudSave", version: int = 2
):
    """The start of an image, as libvirt writes it, with the first bytes of RAM behind."""
    cookie_at = len(xml) + 1 if cookie else 0
    body = (xml + b"\0" + (cookie + b"\0" if cookie else b"")).ljust(ROOM, b"\0")
    return magic + struct.pack("<5I", version, ROOM, 1, 6, cookie_at) + bytes(range(56)) + body + b"RAM"


def test_xml_and_cookie_are_read():
    header = SaveHeader.parse(image())
    assert (header.xml, header.cookie, header.room_bytes) == ("<domain/>", b"<cookie/>", ROOM)


def test_an_image_without_a_cookie_is_read():
    assert SaveHeader.parse(image(cookie=b"")).cookie == b""


@pytest.mark.parametrize("cookie", [b"", b"<cookie/>"])
@pytest.mark.parametrize("xml", ["<d/>", "<domain><name>another, longer name</name></domain>"])
def test_rewriting_changes_the_xml_and_nothing_else(xml, cookie):
    before = image(cookie=cookie)
    rewritten = SaveHeader.parse(before).with_xml(xml)
    assert len(rewritten) == HEADER_BYTES + ROOM
    after = SaveHeader.parse(rewritten + b"RAM")
    assert (after.xml, after.cookie, after.unused) == (xml, cookie, bytes(range(56)))
    assert after.words[:4] == SaveHeader.parse(before).words[:4]


def test_the_same_xml_gives_the_same_bytes():
    before = image()
    assert SaveHeader.parse(before).with_xml("<domain/>") == before[: HEADER_BYTES + ROOM]


def test_xml_that_does_not_fit_is_refused():
    with pytest.raises(UnknownSaveFormat, match="do not fit into its 512"):
        SaveHeader.parse(image()).with_xml("<d>" + "x" * ROOM + "</d>")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "begins with b''"),
        (b"QFI\xfb" + bytes(200), "begins with b'QFI"),
        (image(magic=b"LibvirtQemudPart"), "begins with b'LibvirtQemudPart'"),  # the save was cut short
        (image(version=3), "version 3, known is 2"),
        (image()[: HEADER_BYTES - 1], "begins with"),
        (image()[: HEADER_BYTES + ROOM // 2], "promises 512 bytes"),
        (b"LibvirtQemudSave" + struct.pack("<5I", 2, 0, 1, 6, 0) + bytes(600), "0 bytes of XML"),
        (b"LibvirtQemudSave" + struct.pack("<5I", 2, 1 << 30, 1, 6, 0) + bytes(600), "1073741824 bytes of XML"),
        (b"LibvirtQemudSave" + struct.pack("<5I", 2, ROOM, 1, 6, ROOM) + bytes(56 + ROOM), "promises 512 bytes"),
    ],
)
def test_what_is_not_an_image_that_we_know_is_refused(data, says):
    with pytest.raises(UnknownSaveFormat, match=says):
        SaveHeader.parse(data)
