from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modelcsi.store.blobfile import ALIGNMENT, BlobFile

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BlobFile]:
    """An empty file."""
    with closing(BlobFile(tmp_path / "data", os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT))) as opened:
        yield opened


def pieces(size: int, seed: int) -> list[tuple[int, bytes]]:
    """Random bytes in pieces of odd sizes, in order."""
    numbers, cut, offset = random.Random(seed), list[tuple[int, bytes]](), 0  # noqa: S311 - noise
    while offset < size:
        length = min(size - offset, numbers.choice([1, 4095, 65536, 700_001, MIB, 3 * MIB]))
        cut.append((offset, numbers.randbytes(length)))
        offset += length
    return cut


@pytest.mark.parametrize("direct_from", [0, 5, 12345, ALIGNMENT, 2 * ALIGNMENT + 1])
def test_all_bytes_arrive_and_are_told_once(file: BlobFile, tmp_path: Path, direct_from: int) -> None:
    """Past the cache or not: what is told is in the file already, and in the end all of it."""
    told: list[tuple[int, int]] = []
    content = bytearray()
    for offset, piece in pieces(20 * MIB, direct_from):
        if offset >= direct_from and not file._staging:
            file._go_direct(offset)
        content += piece
        told += file.write(offset, piece)
        start, end = told[-1] if told else (0, 0)
        assert bytes(content[start:end]) == os.pread(file.fd, end - start, start)
    told += file.flush()

    assert bytes(content) == (tmp_path / "data").read_bytes()
    assert 20 * MIB == sum(end - start for start, end in told)
    assert all(first[1] <= second[0] for first, second in zip(sorted(told), sorted(told)[1:], strict=False))


def test_runs_in_any_order(file: BlobFile, tmp_path: Path) -> None:
    """A jump writes what was held back; gaps stay gaps."""
    file._go_direct(0)
    cut = pieces(12 * MIB, 3)
    half = len(cut) // 2
    told = [span for offset, piece in cut[half:] + cut[:half] for span in file.write(offset, piece)] + file.flush()

    assert b"".join(piece for _, piece in cut) == (tmp_path / "data").read_bytes()
    assert 12 * MIB == sum(end - start for start, end in told)


def test_what_is_held_back_is_dropped_when_closed(tmp_path: Path) -> None:
    """It was not told, so it comes again."""
    file = BlobFile(tmp_path / "data", os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT))
    file._go_direct(0)
    told = file.write(0, b"x" * 1000)
    file.close()
    file.close()

    assert ([], 0) == (told, (tmp_path / "data").stat().st_size)


def test_flushing_nothing(file: BlobFile) -> None:
    """Is fine, in either way of writing."""
    first = file.flush()
    file._go_direct(0)

    assert ([], []) == (first, file.flush())
