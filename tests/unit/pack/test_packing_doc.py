from __future__ import annotations

import re
from pathlib import Path

from modelcsi.pack.classify import FileClass, classify
from modelcsi.pack.parts import PART_BYTES

DOC = (Path(__file__).parents[3] / "docs" / "packing.md").read_text()
_ROW = re.compile(r"^\| `([a-z.]+)` \| (.+) \|$", re.MULTILINE)


def test_files_of_the_table_have_the_class_of_their_row() -> None:
    """What docs/packing.md says of names is what `classify` does."""
    rows = {name: re.findall(r"`([^`]+)`", examples) for name, examples in _ROW.findall(DOC)}
    classes = {file_class.value: rows[file_class.value] for file_class in FileClass}

    assert classes == {
        name: [path for path in paths if classify(path, 1).value == name] for name, paths in classes.items()
    }
    assert all(classes.values())


def test_size_of_a_part_is_told() -> None:
    """And is still that one."""
    assert f"parts of\n  {PART_BYTES >> 20} MiB" in DOC
