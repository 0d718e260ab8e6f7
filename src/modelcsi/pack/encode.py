"""From a file to the bytes of its layer, in pieces: nothing here holds more than a piece of a model.

The same file, mode and time give the same bytes everywhere; compressed ones with the same release of zlib or zstd.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

from modelcsi.artifact.layer import Codec, Compression
from modelcsi.artifact.paths import shown
from modelcsi.errors import InvalidRequest
from modelcsi.oci.digest import Digest
from modelcsi.pack.tarfiles import tar_head, tar_tail
from modelcsi.pack.walk import SourceFile

_PIECE_BYTES = 1 << 20
_GZIP_LEVEL = 6
"""zlib and not the much faster isal: its output depends on the processor it runs on."""
_GZIP_WINDOW_BITS = 31
"""With a gzip header; zlib writes no time and no name into it."""
_ZSTD_LEVEL = 3
"""One thread: with several, the output would depend on whether there are several."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Identity:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class LayerStream:
    """The bytes of one layer: iterate once, then ask for `diff_id`."""

    def __init__(
        self, file: SourceFile, codec: Codec, on_read: Callable[[int], None], *, mtime_seconds: int | None = None
    ) -> None:
        """`on_read` is told the size of each piece that was read; `mtime_seconds` replaces the file's own time in a tar."""
        self._file = file
        self._mtime_seconds = file.mtime_seconds if mtime_seconds is None else mtime_seconds
        self._codec = codec
        self._on_read = on_read
        self._hasher = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        """Raises InvalidRequest when the file cannot be read, or is not what it was when the directory was walked."""
        head = tail = b""
        if self._codec.is_tar:
            head, tail = tar_head(self._file, self._mtime_seconds), tar_tail(self._file)
        compressor = _compressor(self._codec.compression, len(head) + self._file.size + len(tail))
        for piece in itertools.chain((head,), self._read(), (tail,)):
            self._hasher.update(piece)
            if output := compressor.compress(piece):
                yield output
        if output := compressor.flush():
            yield output

    @property
    def diff_id(self) -> Digest:
        """The digest of the layer before compression (model-spec, config.md)."""
        return Digest("sha256", self._hasher.hexdigest())

    def _read(self) -> Iterator[bytes]:
        file = self._file
        try:
            # unbuffered: a BufferedReader would copy each piece once more
            with file.source.open("rb", buffering=0) as source:
                size = 0
                while size < file.size and (piece := source.read(min(_PIECE_BYTES, file.size - size))):
                    size += len(piece)
                    self._on_read(len(piece))
                    yield piece
                status = os.fstat(source.fileno())
        except OSError as error:
            raise InvalidRequest(f"{file.source} cannot be read: {error.strerror}") from error
        if (size, status.st_size, status.st_mtime_ns) != (file.size, file.size, file.mtime_ns):
            raise InvalidRequest(
                f"{shown(file.path)} changed while it was packed",
                hint="pack again when nothing writes to the directory",
            )


def _compressor(compression: Compression, size: int) -> _Compressor:
    if compression is Compression.GZIP:
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
    if compression is Compression.ZSTD:
        # The size in the frame's header lets readers allocate exactly; a wrong one is an error of the library.
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj(size=size)
    return _Identity()
