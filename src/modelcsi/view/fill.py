"""How far each file of a lazy view is: a few bytes a file in a mapped file, written by the driver, read by servers.

A map and not messages: a server that starts while the driver is away knows all of it, and a change is seen at the next read.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from modelcsi.store.durable import make_solid, write_all

_MAGIC = b"mcsifil1"
_HEADER = struct.Struct("<8sQ")  # magic, number of files
_FILE = struct.Struct("<BBH")  # state, 0, epoch


class FileState(enum.IntEnum):
    """What a server may do with a file of the plan."""

    WAITING = 0
    """Nothing may be read: the layer has not begun, its rights are not proven, or it must be unpacked first."""
    ARRIVING = 1
    """The ingest may be read where its chunk map has a mark: unverified bytes."""
    COMPLETE = 2
    """The content is committed: verified, and read at its final place."""
    FAILED = 3
    """It cannot be had at present (gone from the registry, damaged): EIO. May become any other state again."""


class FillMap:
    """The states of one view's files. One writer; `state` and `epoch` may be asked by any process."""

    def __init__(self, path: Path, files: int, *, is_writer: bool = False) -> None:
        """The writer makes the file, all WAITING, unless it is there.

        Raises ValueError for one of another plan, OSError; of the writer also StoreFull.
        """
        self.files = files
        header = _HEADER.pack(_MAGIC, files)
        length = len(header) + files * _FILE.size
        flags = os.O_RDWR | os.O_CREAT if is_writer else os.O_RDONLY
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if is_writer and os.fstat(fd).st_size == 0:
                os.ftruncate(fd, length)
                write_all(fd, header, 0)
            if is_writer:
                make_solid(fd, length)
            if os.fstat(fd).st_size != length or os.pread(fd, len(header), 0) != header:
                raise ValueError(f"{path} is not the fill map of {files} files")
            self._map = mmap.mmap(fd, length, access=mmap.ACCESS_WRITE if is_writer else mmap.ACCESS_READ)
        finally:
            os.close(fd)

    def state(self, file: int) -> FileState:
        """What the driver last said of a file."""
        return FileState(self._map[_HEADER.size + file * _FILE.size])

    def epoch(self, file: int) -> int:
        """How often bytes that could be read before turned out wrong: what an older handle read is worth nothing."""
        _, _, epoch = _FILE.unpack_from(self._map, _HEADER.size + file * _FILE.size)
        return int(epoch)

    def epochs(self) -> Iterator[tuple[int, int]]:
        """The files that ever began again, and their epochs."""
        body = self._map[_HEADER.size :]
        if any(body[2::4]) or any(body[3::4]):
            yield from ((file, epoch) for file, (_, _, epoch) in enumerate(_FILE.iter_unpack(body)) if epoch)

    def put(self, file: int, state: FileState) -> None:
        """The driver's word on a file."""
        self._map[_HEADER.size + file * _FILE.size] = state

    def begin_again(self, file: int, state: FileState) -> None:
        """What was read of the file was wrong; the new epoch comes first, so that nobody reads on in between."""
        at = _HEADER.size + file * _FILE.size
        _FILE.pack_into(self._map, at, FileState.FAILED, 0, (self.epoch(file) + 1) & 0xFFFF)
        self.put(file, state)

    def close(self) -> None:
        """Unmap."""
        self._map.close()
