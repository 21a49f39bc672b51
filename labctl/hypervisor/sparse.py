"""A source of bytes as data and holes, so that what is empty need not be sent."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["CHUNK_BYTES", "pieces"]

# libvirt's stream messages take at most 262120 bytes (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX).
CHUNK_BYTES = 240 * 1024


def pieces(source: BinaryIO, size_bytes: int, *, dense_below: int = 0) -> Iterator[bytes | int]:
    """What `source` holds from its position on, in order: data as bytes, a hole as the number of its bytes.

    Only regular files have holes, and only where their file system says so. A source that ends early yields less than
    `size_bytes`. Where the source stands afterwards is not defined.

    Args:
        size_bytes: how much to read.
        dense_below: holes before this place come as zeros; for a receiver that may hold other data there.
    """
    descriptor = _regular_file(source)
    if descriptor is None:
        yield from _read(source, size_bytes)
        return
    start = source.tell()
    end = min(start + size_bytes, os.fstat(descriptor).st_size)
    dense_end = min(start + dense_below, end)
    yield from _data(descriptor, start, dense_end)
    yield from _extents(descriptor, max(start, dense_end), end)


def _regular_file(source: BinaryIO) -> int | None:
    try:
        descriptor = source.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
    return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _read(source: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    while size_bytes > 0 and (chunk := source.read(min(CHUNK_BYTES, size_bytes))):
        yield chunk
        size_bytes -= len(chunk)


def _data(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    # pread, since lseek below moves the file's own position under the buffered reader.
    while start < end and (chunk := os.pread(descriptor, min(CHUNK_BYTES, end - start), start)):
        yield chunk
        start += len(chunk)


def _extents(descriptor: int, start: int, end: int) -> Iterator[bytes | int]:
    while start < end:
        data_start = min(_next_data(descriptor, start, end), end)
        if data_start > start:
            yield data_start - start
        data_end = min(os.lseek(descriptor, data_start, os.SEEK_HOLE), end) if data_start < end else end
        yield from _data(descriptor, data_start, data_end)
        start = data_end


def _next_data(descriptor: int, start: int, end: int) -> int:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # lseek(2): nothing but a hole up to the end of the file
            return end
        raise
