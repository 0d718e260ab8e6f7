from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.store.chunks import CHUNK_BYTES, ChunkMap, ChunkView

SIZE = 3 * CHUNK_BYTES + 10


def test_a_new_map_has_nothing(tmp_path: Path) -> None:
    """One missing run covers the blob."""
    chunks = ChunkMap(tmp_path / "chunks", SIZE)

    assert ([(0, SIZE, False)], 0) == (list(chunks.runs()), chunks.present_bytes())


def test_marks_become_runs(tmp_path: Path) -> None:
    """Neighbouring chunks of one state are one run."""
    chunks = ChunkMap(tmp_path / "chunks", SIZE)
    chunks.mark(0)
    chunks.mark(1)

    assert [(0, 2 * CHUNK_BYTES, True), (2 * CHUNK_BYTES, SIZE, False)] == list(chunks.runs())


def test_the_last_chunk_is_short(tmp_path: Path) -> None:
    """The last chunk counts with the bytes that it has."""
    chunks = ChunkMap(tmp_path / "chunks", SIZE)
    chunks.mark(3)

    assert (10, (3 * CHUNK_BYTES, SIZE, True)) == (chunks.present_bytes(), list(chunks.runs())[-1])


@pytest.mark.parametrize("size", [CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_a_last_chunk_may_be_whole(tmp_path: Path, size: int) -> None:
    """A blob of whole chunks has no short one."""
    chunks = ChunkMap(tmp_path / "chunks", size)
    for chunk in range(chunks.count):
        chunks.mark(chunk)

    assert ([(0, size, True)], size) == (list(chunks.runs()), chunks.present_bytes())


def test_the_empty_blob_has_no_runs(tmp_path: Path) -> None:
    """No chunk, no run, no byte."""
    chunks = ChunkMap(tmp_path / "chunks", 0)

    assert ([], 0) == (list(chunks.runs()), chunks.present_bytes())


def test_marks_outlive_the_object(tmp_path: Path) -> None:
    """A process that was killed without closing has lost no mark."""
    ChunkMap(tmp_path / "chunks", SIZE).mark(2)

    assert CHUNK_BYTES == ChunkMap(tmp_path / "chunks", SIZE).present_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"mcsichk1", b"another format" + bytes(100), b"\x01" * (24 + 4), b"\x01" * 1000]
)
def test_a_foreign_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    """What is not the map of this blob marks nothing."""
    (tmp_path / "chunks").write_bytes(content)

    assert 0 == ChunkMap(tmp_path / "chunks", SIZE).present_bytes()


def test_the_map_of_another_size_is_begun_anew(tmp_path: Path) -> None:
    """Also when both have the same number of chunks."""
    ChunkMap(tmp_path / "chunks", SIZE).mark(1)

    assert 0 == ChunkMap(tmp_path / "chunks", SIZE - 1).present_bytes()


@given(size=st.integers(1, 6 * CHUNK_BYTES), data=st.data())
def test_runs_cover_the_blob(size: int, data: st.DataObject) -> None:
    """Whatever is marked: runs follow each other from 0 to the size, alternate, and hold what is present."""
    with tempfile.TemporaryDirectory() as directory:
        chunks = ChunkMap(Path(directory, "chunks"), size)
        for chunk in data.draw(st.sets(st.integers(0, chunks.count - 1))):
            chunks.mark(chunk)
        runs = list(chunks.runs())

        assert (0, size) == (runs[0][0], runs[-1][1])
        assert all(before[1] == after[0] and before[2] is not after[2] for before, after in pairwise(runs))
        assert chunks.present_bytes() == sum(end - start for start, end, is_present in runs if is_present)
        chunks.close()


def test_view_of_a_map_that_is_being_written(tmp_path: Path) -> None:
    """Another process sees each mark as it is made, and which are missing."""
    path = tmp_path / "chunks"
    chunks = ChunkMap(path, 5 * CHUNK_BYTES)
    view = ChunkView(path)
    before = view.missing(1, 3)
    chunks.mark(2)
    after = (view.missing(1, 3), view.missing(2, 2), view.missing(4, 9))
    view.close()
    chunks.close()

    assert [1, 2, 3] == before
    assert ([1, 3], [], [4, 5, 6, 7, 8, 9]) == after


def test_view_outlives_the_map(tmp_path: Path) -> None:
    """A map that is begun anew for a blob of another size has no marks for who looked at the old one; nobody dies of it."""
    path = tmp_path / "chunks"
    ChunkMap(path, CHUNK_BYTES).mark(0)
    view = ChunkView(path)
    os.truncate(path, 0)
    missing = view.missing(0, 0)
    view.close()

    assert [0] == missing


@pytest.mark.parametrize("content", [b"", b"mcsichk1", b"something else entirely"])
def test_view_of_no_map(tmp_path: Path, content: bytes) -> None:
    """A file that is not a map yet is an error."""
    path = tmp_path / "chunks"
    path.write_bytes(content)

    with pytest.raises(ValueError, match="is not a chunk map"):
        ChunkView(path)


def test_no_part_of_a_map_is_a_hole(tmp_path: Path) -> None:
    """A store into a hole of a mapped file kills the process where the disk is full."""
    ChunkMap(tmp_path / "chunks", 100_000 * CHUNK_BYTES).close()
    status = (tmp_path / "chunks").stat()

    assert 512 * status.st_blocks >= status.st_size > 100_000
