"""The storage half of the seam: labctl's pool, its volumes, and their bytes as streams. See `libvirt_api`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import libvirt

from labctl.clock import Deadline, wait_until
from labctl.errors import DeadlineExceeded, HypervisorError
from labctl.hypervisor import parse
from labctl.hypervisor.libvirt_calls import Connection, found, saying, settle, unsupported
from labctl.hypervisor.sparse import CHUNK_BYTES, pieces
from labctl.inventory import PoolInfo, VolumeInfo
from labctl.render.xml import pool_xml

__all__ = ["LibvirtStorage"]

# A refresh is refused while another volume is being made, and fails when a file goes away under it.
_REFRESH_WITHIN_S = 10.0
_REMOVE_WITHIN_S = 60.0  # a volume that is being allocated can't be removed before it is


class LibvirtStorage:
    """labctl's storage pool on one connection."""

    def __init__(self, connection: Connection, pool: str, directory: str) -> None:
        self._link = connection
        self._pool_name = pool
        self._directory = directory

    @property
    def _connection(self) -> Any:
        return self._link.live()

    # -- the pool --------------------------------------------------------------------------------------------------

    def ensure_pool(self) -> str:
        with saying(f"pool {self._pool_name}"):
            pool = self._find_pool() or self._define_pool()
            if not pool.isActive():
                pool.build()  # mkdir -p
                settle(pool.create, lambda: bool(pool.isActive()))
            pool.setAutostart(1)
            return parse.pool_path(pool.XMLDesc())

    def pool(self) -> PoolInfo | None:
        with saying(f"pool {self._pool_name}"):
            pool = self._find_pool()
            if pool is None:
                return None
            state, _capacity, _allocation, available_bytes = pool.info()
            active = state == libvirt.VIR_STORAGE_POOL_RUNNING
            path = parse.pool_path(pool.XMLDesc())
            return PoolInfo(self._pool_name, path, active, available_bytes if active else 0)

    def _find_pool(self) -> Any | None:
        lookup = self._connection.storagePoolLookupByName
        return found(lookup, self._pool_name, libvirt.VIR_ERR_NO_STORAGE_POOL)

    def _define_pool(self) -> Any:
        xml = pool_xml(self._pool_name, self._directory)
        settle(lambda: self._connection.storagePoolDefineXML(xml), lambda: self._find_pool() is not None)
        return self._connection.storagePoolLookupByName(self._pool_name)

    def _live_pool(self) -> Any:
        """The pool, started if it was not; one that is missing is an error."""
        pool = self._find_pool()
        if pool is None:
            raise HypervisorError(f"pool {self._pool_name}: not there", hint="labctl up makes it")
        if not pool.isActive():
            settle(pool.create, lambda: bool(pool.isActive()))
        return pool

    def _refresh(self) -> Any:
        """The pool, once it has looked at its directory again."""

        def probe() -> tuple[Any | None, str]:
            try:
                pool = self._live_pool()  # a refresh that fails leaves the pool stopped
                pool.refresh()
            except libvirt.libvirtError as error:
                return None, error.get_error_message()
            return pool, ""

        try:
            return wait_until(f"pool {self._pool_name}: refresh", probe, Deadline.within(_REFRESH_WITHIN_S))
        except DeadlineExceeded as late:
            raise HypervisorError(str(late), hint="labctl doctor says what is wrong with the pool") from late

    # -- volumes ---------------------------------------------------------------------------------------------------

    def volumes(self) -> tuple[VolumeInfo, ...]:
        with saying(f"volumes of pool {self._pool_name}"):
            if self._find_pool() is None:
                return ()
            infos = [self._volume_info(v) for v in self._refresh().listAllVolumes()]
        return tuple(sorted((i for i in infos if i), key=lambda i: i.name))

    def volume(self, name: str) -> VolumeInfo | None:
        with saying(f"volume {name}"):
            volume = self._find_volume(name)
            return self._volume_info(volume) if volume else None

    def _find_volume(self, name: str) -> Any | None:
        """The volume, also if its file came or went behind libvirt's back, as a console's log does."""
        if self._find_pool() is None:
            return None
        lookup, missing = self._live_pool().storageVolLookupByName, libvirt.VIR_ERR_NO_STORAGE_VOL
        return found(lookup, name, missing) or found(self._refresh().storageVolLookupByName, name, missing)

    def _volume_info(self, volume: Any) -> VolumeInfo | None:
        try:
            return parse.volume_info(volume.XMLDesc())
        except libvirt.libvirtError:
            # Its file has gone, or is being replaced: ask the directory. What is there must be readable.
            name = volume.name()
            again = found(self._refresh().storageVolLookupByName, name, libvirt.VIR_ERR_NO_STORAGE_VOL)
            return parse.volume_info(again.XMLDesc()) if again else None

    def _need_volume(self, name: str) -> Any:
        volume = self._find_volume(name)
        if volume is None:
            raise HypervisorError(f"volume {name}: not in pool {self._pool_name}")
        return volume

    def create_volume(self, xml: str) -> VolumeInfo:
        with saying(f"volume {parse.name_of(xml)}: create"):
            return parse.volume_info(self._live_pool().createXML(xml).XMLDesc())

    def remove_volume(self, name: str) -> None:
        def probe() -> tuple[bool | None, str]:
            try:
                volume = self._find_volume(name)
                if volume is not None:
                    settle(volume.delete, lambda: self._find_volume(name) is None)
            except libvirt.libvirtError as error:
                # Somebody who died meanwhile asked for it to be made or filled, and libvirt is still at it.
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise
                return None, error.get_error_message()
            return True, ""

        with saying(f"volume {name}: remove"):
            try:
                wait_until(f"volume {name}: can be removed", probe, Deadline.within(_REMOVE_WITHIN_S), every_s=0.2)
            except DeadlineExceeded as late:
                raise HypervisorError(str(late)) from late

    # -- bytes -----------------------------------------------------------------------------------------------------

    def upload_volume(self, name: str, source: BinaryIO, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
        with saying(f"volume {name}: upload"):
            volume = self._need_volume(name)
            dense_below = parse.written_bytes(volume.XMLDesc())
            with self._stream() as stream:
                sparse = _start_upload(volume, stream, size_bytes)
                sent = 0
                for piece in pieces(source, size_bytes, dense_below=dense_below):
                    _send(stream, piece, sparse=sparse)
                    length = piece if isinstance(piece, int) else len(piece)
                    on_bytes(length)
                    sent += length
                if sent != size_bytes:
                    raise HypervisorError(f"volume {name}: upload: the source ended after {sent} of {size_bytes} bytes")

    def write_volume(self, name: str, offset: int, data: bytes) -> None:
        with saying(f"volume {name}: write"):
            volume = self._need_volume(name)
            with self._stream() as stream:
                volume.upload(stream, offset, len(data))
                _send(stream, data, sparse=False)

    def copy_volume(self, source: str, xml: str) -> VolumeInfo:
        with saying(f"volume {parse.name_of(xml)}: copy of {source}"):
            pool, original = self._live_pool(), self._need_volume(source)
            return parse.volume_info(pool.createXMLFrom(xml, original).XMLDesc())

    def download_volume(self, name: str, *, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        with saying(f"volume {name}: download"):
            volume = self._need_volume(name)
            with self._stream() as stream:
                volume.download(stream, offset, length)
                while chunk := stream.recv(CHUNK_BYTES):
                    yield chunk

    @contextmanager
    def _stream(self) -> Iterator[Any]:
        """A stream that is finished at the end, or aborted when the end isn't reached."""
        stream = self._connection.newStream()
        try:
            yield stream
        except BaseException:
            # A stream that libvirt has ended itself can't be aborted; the error on its way out says why it ended.
            with suppress(libvirt.libvirtError):
                stream.abort()
            raise
        stream.finish()


def _start_upload(volume: Any, stream: Any, size_bytes: int) -> bool:
    """Begin, sparse if the host can (libvirt 3.4); says whether it is."""
    try:
        volume.upload(stream, 0, size_bytes, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
    except libvirt.libvirtError as error:
        if not unsupported(error):
            raise
        volume.upload(stream, 0, size_bytes)
        return False
    return True


def _send(stream: Any, piece: bytes | int, *, sparse: bool) -> None:
    if isinstance(piece, bytes):
        while piece:
            piece = piece[stream.send(piece) :]
    elif sparse:
        stream.sendHole(piece)
    else:
        for start in range(0, piece, CHUNK_BYTES):
            _send(stream, bytes(min(CHUNK_BYTES, piece - start)), sparse=False)
