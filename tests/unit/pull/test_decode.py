from __future__ import annotations

import gzip
import io
import itertools
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.layer import Compression
from modelcsi.errors import UnsupportedArtifact
from modelcsi.pull.decode import decode

TEXT = b"some text that is not so short, " * 1000


def zstd(content: bytes, *, with_size: bool = True) -> bytes:
    """One frame."""
    return zstandard.ZstdCompressor(write_content_size=with_size).compress(content)


def cut(content: bytes, size: int) -> Iterator[bytes]:
    """The stream as it arrives."""
    return (content[start : start + size] for start in range(0, len(content), size))


def decoded(compression: Compression, content: bytes, size: int = 1000) -> bytes:
    """All of it."""
    return b"".join(decode(compression, cut(content, size), "layer sha256:x"))


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize(
    ("compression", "content", "expected"),
    [
        pytest.param(Compression.NONE, TEXT, TEXT, id="none"),
        pytest.param(Compression.GZIP, gzip.compress(TEXT), TEXT, id="gzip"),
        pytest.param(Compression.GZIP, gzip.compress(b""), b"", id="gzip of nothing"),
        pytest.param(Compression.GZIP, gzip.compress(TEXT) * 3, TEXT * 3, id="gzip members"),
        pytest.param(Compression.GZIP, gzip.compress(TEXT) + bytes(5000), TEXT, id="gzip padded"),
        pytest.param(Compression.GZIP, gzip.compress(b"") + gzip.compress(TEXT), TEXT, id="gzip after nothing"),
        pytest.param(Compression.GZIP, b"", b"", id="no gzip at all"),
        pytest.param(Compression.ZSTD, zstd(TEXT), TEXT, id="zstd"),
        pytest.param(Compression.ZSTD, b"", b"", id="no zstd at all"),
        pytest.param(Compression.ZSTD, zstd(TEXT, with_size=False) + zstd(TEXT), TEXT * 2, id="zstd frames"),
        pytest.param(Compression.ZSTD, zstd(b"") + zstd(TEXT) + zstd(b""), TEXT, id="zstd empty frames"),
        pytest.param(Compression.ZSTD, b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd(TEXT), TEXT, id="zstd skippable frame"),
    ],
)
def test_streams(compression: Compression, content: bytes, expected: bytes, size: int) -> None:
    """Whatever the cut of the stream."""
    assert expected == decoded(compression, content, size)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.binary(max_size=5000), min_size=1, max_size=4), size=st.integers(1, 3000))
def test_several_streams_in_one(compression: Compression, parts: list[bytes], size: int) -> None:
    """They are one stream."""
    compress = gzip.compress if compression is Compression.GZIP else zstd

    assert b"".join(parts) == decoded(compression, b"".join(map(compress, parts)), size)


GZIP, ZSTD = gzip.compress(TEXT), zstd(TEXT)


@pytest.mark.parametrize(
    ("compression", "content", "message"),
    [
        pytest.param(Compression.GZIP, b"no gzip at all", "not valid gzip", id="gzip garbage"),
        pytest.param(Compression.GZIP, GZIP[:10], "cut off", id="gzip header only"),
        pytest.param(Compression.GZIP, GZIP[: len(GZIP) // 2], "cut off", id="gzip half"),
        pytest.param(Compression.GZIP, GZIP[:-1], "cut off", id="gzip short trailer"),
        pytest.param(Compression.GZIP, GZIP + GZIP[:20], "cut off", id="gzip half member"),
        pytest.param(Compression.GZIP, GZIP + b"garbage, and more of it", "not valid gzip", id="gzip garbage after"),
        pytest.param(Compression.GZIP, GZIP[:-8] + bytes(8), "not valid gzip", id="gzip checksum"),
        pytest.param(Compression.ZSTD, b"no zstd at all", "not valid zstd", id="zstd garbage"),
        pytest.param(Compression.ZSTD, ZSTD[:3], "cut off", id="zstd magic"),
        pytest.param(Compression.ZSTD, ZSTD[: len(ZSTD) // 2], "cut off", id="zstd half"),
        pytest.param(Compression.ZSTD, ZSTD[:-1], "cut off", id="zstd short"),
        pytest.param(Compression.ZSTD, ZSTD + ZSTD[:-1], "cut off", id="zstd half frame"),
        pytest.param(Compression.ZSTD, ZSTD + b"garbage", "not valid zstd", id="zstd garbage after"),
    ],
)
@pytest.mark.parametrize("size", [5, 1 << 20])
def test_bad_streams(compression: Compression, content: bytes, message: str, size: int) -> None:
    """What is not that compression, or ends too early, is named."""
    with pytest.raises(UnsupportedArtifact, match=f"layer sha256:x is {message}"):
        decoded(compression, content, size)


def gzip_bomb(size: int) -> bytes:
    """Zeros, a thousand times smaller."""
    buffer, compressor = io.BytesIO(), zlib.compressobj(wbits=31)
    for _ in range(size >> 20):
        buffer.write(compressor.compress(bytes(1 << 20)))
    return buffer.getvalue() + compressor.flush()


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_a_bomb_needs_no_memory(compression: Compression) -> None:
    """Pieces of at most 1 MiB, however much a byte of input becomes."""
    size = 24 << 20
    content = gzip_bomb(size) if compression is Compression.GZIP else zstd(bytes(size))
    tracemalloc.start()
    pieces = decode(compression, iter([content]), "layer")
    lengths = [len(piece) for piece in pieces]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (size, True, True) == (sum(lengths), max(lengths) <= 1 << 20, peak < 8 << 20)


def test_a_window_that_is_too_large_is_refused() -> None:
    """It would be allocated by the sender's word alone."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    content = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = b"".join((content.compress(TEXT), content.flush()))
    with pytest.raises(UnsupportedArtifact, match="not valid zstd"):
        decoded(Compression.ZSTD, stream)


def test_pieces_are_read_to_their_end() -> None:
    """Also those that only pad."""
    pieces = itertools.chain([GZIP], [bytes(10)] * 5)
    list(decode(Compression.GZIP, pieces, "layer"))

    assert [] == list(pieces)
