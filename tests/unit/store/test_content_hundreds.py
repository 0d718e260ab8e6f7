"""Layers of more than a hundred members, whose files are in directories of a hundred."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from modelcsi.artifact.tar import Data, Other, TarParser
from modelcsi.oci.digest import Digest
from modelcsi.store.content import ContentStore
from modelcsi.store.ingest import LayerIngest
from modelcsi.store.layout import StoreLayout, member_files, member_name
from tests.unit.artifact.builders import files_tar
from tests.unit.store.conftest import commit_layer

LAYER = Digest.of(b"a tar of many members")
FILES = {f"dir/file-{number}": b"%d" % number for number in range(250)}


def test_where_files_are(layout: StoreLayout) -> None:
    """The first hundred are in the layer's directory, so that a small layer has no other."""
    content = ContentStore(layout)
    commit_layer(content, LAYER, FILES)
    directory = layout.layer(LAYER)
    contents = {number: Path(path).read_bytes() for number, path in member_files(directory)}

    assert dict(enumerate(FILES.values())) == contents
    assert [b"99", b"100", b"249"] == [(directory / name).read_bytes() for name in ("99", "100/100", "200/249")]
    assert {"100", "200"} == {path.name for path in directory.iterdir() if path.is_dir()}


def test_a_wider_selection(layout: StoreLayout) -> None:
    """Files come into directories that are there, and into those that are not; none is replaced."""
    content = ContentStore(layout)
    commit_layer(content, LAYER, FILES, wanted=frozenset({"dir/file-105"}))
    before = (layout.layer(LAYER) / member_name(105)).stat().st_ino
    commit_layer(content, LAYER, FILES)

    assert [] == content.verify(LAYER)
    assert before == (layout.layer(LAYER) / member_name(105)).stat().st_ino


def test_few_files_far_behind(layout: StoreLayout) -> None:
    """They are synced one by one, their directories as well."""
    content = ContentStore(layout)
    commit_layer(content, LAYER, FILES, wanted=frozenset({"dir/file-105", "dir/file-249"}))

    assert [] == content.verify(LAYER)
    assert {105: b"105", 249: b"249"} == {n: Path(path).read_bytes() for n, path in member_files(layout.layer(LAYER))}


def test_damage_is_found(layout: StoreLayout) -> None:
    """Wherever the file is."""
    content = ContentStore(layout)
    commit_layer(content, LAYER, FILES)
    (layout.layer(LAYER) / member_name(249)).unlink()

    assert ["'dir/file-249' of layer"] == [damage[:23] for damage in content.verify(LAYER)]


def test_going_on_behind_the_first_hundred(layout: StoreLayout) -> None:
    """What an earlier attempt left in those directories is read again; what it did not note is removed."""
    tar = files_tar(FILES)
    parser = TarParser("layer")
    with closing(LayerIngest(layout, Digest.of(tar), "plan", is_resumable=True)) as first:
        for number, (data, position) in enumerate(_members(parser, tar)):
            first.write_stray(tar[position[0] : position[1]])
            first.begin_member(number, len(data))
            first.write_member(data)
            first.end_member(0o444, 5)
            if number == 180:
                first.flush()
    with closing(LayerIngest(layout, Digest.of(tar), "plan", is_resumable=True)) as second:
        again = b"".join(second.read_again())

        assert (tar[: len(again)], len(again)) == (again, second.stored_bytes())
        assert set(range(181)) == {number for number, _ in member_files(second.members)}


def _members(parser: TarParser, tar: bytes) -> list[tuple[bytes, tuple[int, int]]]:
    """The data of each member, and where the bytes before it begin and end."""
    found, position, stray = [], 0, 0
    for event in parser.feed(memoryview(tar)):
        if isinstance(event, Data):
            found.append((bytes(event.view), (stray, position)))
            stray = position + len(event.view)
        if isinstance(event, Data | Other):
            position += len(event.view)
    return found
