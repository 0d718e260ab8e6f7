"""Decompression with bounded memory: whatever a bomb promises, at most a piece of output exists at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import IO, cast

import zstandard
from isal import isal_zlib

from modelcsi.artifact.layer import Compression
from modelcsi.errors import UnsupportedArtifact
from modelcsi.pull.zstdframes import FrameWalker

_OUTPUT_BYTES = 1 << 20
_GZIP_WINDOW_BITS = 31
_MAX_ZSTD_WINDOW = 1 << 27
"""128 MiB, what `zstd --long` makes by default; zstd itself refuses more unless told otherwise."""
_LARGE_ZSTD_WINDOW = 1 << 23
"""Every level without `--long` stays within 8 MiB."""


def decode(compression: Compression, pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The decompressed stream; reads `pieces` to the end.

    Raises UnsupportedArtifact naming `where` when the bytes are not what the compression says, or end too early.
    """
    if compression is Compression.NONE:
        return pieces
    first = next(pieces, b"")
    if not first:
        return iter(())  # of no bytes, whatever their type
    rest = itertools.chain([first], pieces)
    return _gunzip(rest, where) if compression is Compression.GZIP else _unzstd(rest, where)


def needs_large_window(head: bytes) -> bool:
    """Whether a stream that begins so takes over 8 MiB, up to 128, to decompress: then one is decompressed at a time."""
    if not head.startswith(zstandard.FRAME_HEADER):
        return False
    try:
        return zstandard.get_frame_parameters(head).window_size > _LARGE_ZSTD_WINDOW
    except zstandard.ZstdError:  # the decoder will say what is wrong with it
        return False


def _gunzip(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Several gzip members may follow each other (RFC 1952, 2.2); zeros may pad the end."""
    decoder = isal_zlib.decompressobj(_GZIP_WINDOW_BITS)
    is_open = False
    try:
        for piece in pieces:
            data = piece
            while data:
                if decoder.eof:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    decoder = isal_zlib.decompressobj(_GZIP_WINDOW_BITS)
                is_open = True
                if output := decoder.decompress(data, _OUTPUT_BYTES):
                    yield output
                data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        while is_open and not decoder.eof and (output := decoder.decompress(b"", _OUTPUT_BYTES)):
            yield output
    except isal_zlib.error as error:  # type: ignore[misc]  # the stubs call the class a variable
        raise UnsupportedArtifact(f"{where} is not valid gzip: {error}") from error
    if not decoder.eof:
        raise UnsupportedArtifact(f"{where} is cut off: its gzip stream has no end")


class _Source:
    """Pieces as the file object that zstandard reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.frames = FrameWalker()
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
            self.frames.feed(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _unzstd(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Several frames may follow each other (RFC 8878, 3.1)."""
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    try:
        source = _Source(pieces)
        file = cast("IO[bytes]", source)  # it needs `read` only
        with decoder.stream_reader(file, read_size=_OUTPUT_BYTES, read_across_frames=True) as reader:
            while output := reader.read(_OUTPUT_BYTES):
                yield output
    except zstandard.ZstdError as error:
        raise UnsupportedArtifact(f"{where} is not valid zstd: {error}") from error
    if not source.frames.is_complete:
        raise UnsupportedArtifact(f"{where} is cut off: its zstd stream has no end")
