"""The map that says how far each file is."""

from __future__ import annotations

from pathlib import Path

from modelcsi.view.fill import FileState, FillMap


def test_no_part_of_a_map_is_a_hole(tmp_path: Path) -> None:
    """A store into a hole of a mapped file kills the process where the disk is full."""
    fill = FillMap(tmp_path / "fill", 100_000, is_writer=True)
    fill.put(99_999, FileState.COMPLETE)
    status = (tmp_path / "fill").stat()
    fill.close()

    assert 512 * status.st_blocks >= status.st_size > 400_000
