"""Learns what is in a tar from parts of it, by requests for ranges: the index of an uncompressed one, the first members of
a compressed one.

The headers of large members are asked for one by one; where members are small, whole chunks are read, and kept, so that they
are not fetched again. What is learned is what the registry says of parts: it is checked when the whole arrives.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.artifact.layer import TAR, Compression, Layer, sniff_codec
from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.tar import Start, TarParser
from modelcsi.artifact.tarindex import TarIndex, TarIndexer
from modelcsi.errors import CorruptContent, RegistryUnavailable, UnsupportedArtifact
from modelcsi.pull.decode import decode
from modelcsi.pull.progress import Progress
from modelcsi.pull.sources import Sources
from modelcsi.pull.streams import Stopped, pause_seconds
from modelcsi.store.chunks import CHUNK_BYTES
from modelcsi.store.durable import space_errors, write_all

_SNIFF_BYTES = 512
_LEAP_BYTES = 16 << 10
"""Asked for behind a leap: a header with its extended ones, and small members that follow."""
_NEAR_BYTES = 256 << 10
"""A header so near is not worth a request of its own: what lies between is read too."""
_MOST_BYTES = 4 << 20
_MAX_REQUESTS = 4000
"""A hundred thousand members of middling size: reading all of them is not much slower than a request for each."""
_HEAD_BYTES = 512 << 10
"""Of a compressed tar: a few of zstd's blocks, whatever is in them."""
_MAX_PAUSE_SECONDS = 2.0


class NotIndexed(Exception):
    """The tar cannot be indexed; the text says why, to follow "since"."""


@dataclass(slots=True)
class Indexed:
    """An index, and those bytes of the blob that were read for it in whole chunks."""

    index: TarIndex
    chunks: tuple[int, ...] = ()
    _fd: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_chunks(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each chunk that was read, once."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            for chunk in self.chunks:
                yield chunk, os.pread(fd, CHUNK_BYTES, chunk * CHUNK_BYTES)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Forget the bytes; repeatable."""
        for _ in self.take_chunks():
            return


class Ranges:
    """Reads parts of one blob, however often the registry fails."""

    def __init__(self, layer: Layer, sources: Sources, progress: Progress, stop: threading.Event) -> None:
        self.size = layer.size
        self._descriptor = layer.descriptor
        self._sources = sources
        self._progress = progress
        self._stop = stop

    def read(self, start: int, end: int) -> bytes:
        """These bytes. Raises NotIndexed where the registry serves only whole blobs; Stopped; a refusal."""
        data, failures = bytearray(), 0
        while start + len(data) < end:
            before = len(data)
            try:
                self._read(start, end, data)
            except RegistryUnavailable as error:
                failures = 1 if len(data) > before else failures + 1
                self._progress.failed(error)
                if self._stop.wait(pause_seconds(error, failures, _MAX_PAUSE_SECONDS)):
                    raise Stopped from error
        return bytes(data)

    def _read(self, start: int, end: int, data: bytearray) -> None:
        position = start + len(data)
        with self._sources.open_blob(self._descriptor, position, end) as stream:
            if not stream.honours_ranges:
                raise NotIndexed("the registry does not serve parts of blobs")
            while start + len(data) < end:
                if self._stop.is_set():
                    raise Stopped
                piece = stream.read(end - start - len(data))
                if not piece:
                    raise RegistryUnavailable(f"the registry ended {self._descriptor.digest} early")
                data += piece
                self._progress.looked_at(len(piece))


def index_tar(layer: Layer, ranges: Ranges, directory: Path) -> Indexed:
    """The index of an uncompressed tar; what is read of it is kept in an unnamed file in `directory`.

    Raises NotIndexed for what is no such tar, or not worth it; Stopped; a refusal of the registry.
    """
    with space_errors(layer.where), tempfile.TemporaryFile(dir=directory) as kept:
        fd = kept.fileno()
        try:
            index, runs = _read_headers(layer, ranges, fd)
        except (UnsupportedArtifact, CorruptContent) as error:
            # Until the digest matches, these may not be the artifact's bytes: the pull will say it of all of them.
            raise NotIndexed(f"its headers cannot be used: {error.message}") from error
        chunks = tuple(chunk for start, end in _joined(runs) for chunk in _whole_chunks(start, end, layer.size))
        return Indexed(index, chunks, os.dup(fd) if chunks else -1)


def _read_headers(layer: Layer, ranges: Ranges, fd: int) -> tuple[TarIndex, list[tuple[int, int]]]:
    indexer, runs = TarIndexer(layer.where, layer.size), list[tuple[int, int]]()
    read_to, step = 0, _LEAP_BYTES
    for _ in range(_MAX_REQUESTS):
        if indexer.is_done:
            return indexer.index(), runs
        position = indexer.position
        is_leap = position - read_to > _NEAR_BYTES
        start = position if is_leap else read_to
        step = _LEAP_BYTES if is_leap else min(4 * step, _MOST_BYTES)
        end = start + step if step < CHUNK_BYTES else (start + step) // CHUNK_BYTES * CHUNK_BYTES
        if not is_leap and end // CHUNK_BYTES > start // CHUNK_BYTES:
            end = end // CHUNK_BYTES * CHUNK_BYTES  # whole chunks are kept
        end = min(max(end, position + _SNIFF_BYTES), layer.size)
        data = ranges.read(start, end)
        if not start and sniff_codec(layer.codec, data[:_SNIFF_BYTES]) != TAR:
            raise NotIndexed("it is compressed, although its type says otherwise")
        write_all(fd, data, start)
        runs.append((start, end))
        read_to = end
        indexer.feed(data[position - start :])
    raise NotIndexed(f"it has too many members: reading their headers takes over {_MAX_REQUESTS} requests")


def _joined(runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs in order, those that touch as one."""
    at, reached = 0, 0
    for start, end in runs:
        if start != reached:
            yield at, reached
            at = start
        reached = end
    yield at, reached


def _whole_chunks(start: int, end: int, size: int) -> range:
    first = -(-start // CHUNK_BYTES)
    return range(first, -(-end // CHUNK_BYTES) if end == size else end // CHUNK_BYTES)


def first_members(layer: Layer, ranges: Ranges) -> tuple[Member, ...]:
    """The members of a compressed tar up to its first file, which is its only one by the annotations.

    Raises as `index_tar` does.
    """
    head = ranges.read(0, min(_HEAD_BYTES, layer.size))
    codec = sniff_codec(layer.codec, head[:_SNIFF_BYTES])
    if codec.compression is Compression.NONE:
        raise NotIndexed("it is not compressed, although its type says so")
    parser, members = TarParser(layer.where), list[Member]()
    try:
        for data in decode(codec.compression, iter([head]), layer.where):
            for event in parser.feed(memoryview(data)):
                if isinstance(event, Start):
                    members.append(event.member)
                    if event.member.type is MemberType.FILE:
                        return tuple(members)
    except UnsupportedArtifact as error:  # it is cut off, of course
        raise NotIndexed("its beginning does not tell its file") from error
    raise NotIndexed("its beginning does not tell its file")
