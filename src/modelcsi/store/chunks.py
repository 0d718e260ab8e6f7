"""Which chunks of a blob being written have arrived: one byte per MiB in a mapped file.

A kill -9 loses no mark, since the page cache outlives the process; a power cut may leave a mark without its bytes. So a mark
is never trusted for correctness: the whole blob is hashed before it is committed, and a mismatch starts it anew.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from modelcsi.store.durable import make_solid, write_all

CHUNK_BYTES = 1 << 20
_MAGIC = b"mcsichk1"
_HEADER = struct.Struct("<8sQQ")  # magic, chunk size, blob size


class ChunkMap:
    """The marks of one blob; a file of another blob or format is begun anew. `mark` and the queries are thread-safe."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        self.count = -(-size // CHUNK_BYTES)
        header = _HEADER.pack(_MAGIC, CHUNK_BYTES, size)
        length = len(header) + self.count
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size != length or os.pread(fd, len(header), 0) != header:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, length)
                write_all(fd, header, 0)
            make_solid(fd, length)
            self._map = mmap.mmap(fd, length)
        finally:
            os.close(fd)

    @staticmethod
    def may_be(path: Path, size: int) -> bool:
        """Whether what is there is a map of a blob of this size, or nothing is."""
        try:
            with path.open("rb") as file:
                return file.read(_HEADER.size) in (b"", _HEADER.pack(_MAGIC, CHUNK_BYTES, size))
        except FileNotFoundError:
            return True

    def mark(self, chunk: int) -> None:
        """The chunk's bytes are in the file."""
        self._map[_HEADER.size + chunk] = 1

    def present_bytes(self) -> int:
        """How many bytes the marked chunks hold."""
        marked = self._map[_HEADER.size :].count(b"\x01")
        if marked and self._map[_HEADER.size + self.count - 1]:
            return (marked - 1) * CHUNK_BYTES + self._size - (self.count - 1) * CHUNK_BYTES
        return marked * CHUNK_BYTES

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """(start, end, present) in bytes, in order, covering the blob; neighbouring runs differ in `present`."""
        marks = self._map[_HEADER.size :]
        chunk = 0
        while chunk < self.count:
            present = marks[chunk] == 1
            following = marks.find(b"\x00" if present else b"\x01", chunk)
            end = self.count if following < 0 else following
            yield chunk * CHUNK_BYTES, min(end * CHUNK_BYTES, self._size), present
            chunk = end

    def close(self) -> None:
        """Unmap; the marks stay in the file."""
        self._map.close()


class ChunkView:
    """The marks of a blob that another process is writing, for who may only read.

    Asked by pread(2) and not mapped: the writer cuts a file of another blob to nothing, and a mapping of it would be SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError; ValueError while the file is not one yet."""
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        header = os.pread(self.fd, _HEADER.size, 0)
        if len(header) < _HEADER.size or not header.startswith(_HEADER.pack(_MAGIC, CHUNK_BYTES, 0)[:-8]):
            self.close()
            raise ValueError(f"{path} is not a chunk map")

    def missing(self, first: int, last: int) -> list[int]:
        """Which of the chunks first..last (both included) have no mark."""
        marks = os.pread(self.fd, last - first + 1, _HEADER.size + first)
        if marks.count(b"\x01") == last - first + 1:
            return []
        marks = marks.ljust(last - first + 1, b"\x00")
        return [first + index for index, mark in enumerate(marks) if mark != 1]

    def marked(self) -> int:
        """How many chunks have a mark."""
        return os.pread(self.fd, os.fstat(self.fd).st_size, _HEADER.size).count(b"\x01")

    def has_gone(self) -> bool:
        """Whether nobody will set a mark here any more."""
        return os.fstat(self.fd).st_nlink == 0

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
