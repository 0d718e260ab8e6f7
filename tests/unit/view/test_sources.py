"""Few descriptors, whatever the number of files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modelcsi.oci.digest import Digest
from modelcsi.store.chunks import ChunkMap
from modelcsi.store.layout import StoreLayout
from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.sources import Source, Sources, open_source
from modelcsi.view.tree import Node

ARRIVING = FileState.ARRIVING


def _opener() -> Source:
    return Source(os.open("/dev/null", os.O_RDONLY), 0)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_least_recently_read_is_closed() -> None:
    """Beyond the bound the file that was read longest ago is closed, and opened again when it is read."""
    sources = Sources(capacity=2)
    opened = [
        source for file in (0, 1, 0, 2) if (source := sources.get(("view", file), 0, ARRIVING, _opener)) is not None
    ]
    seen = [_is_open(source.fd) for source in opened]
    sources.forget_view("view")

    assert [True, False, True, True] == seen
    assert 0 == len(sources)
    assert not _is_open(opened[0].fd)


def test_other_epoch_is_opened_anew() -> None:
    """What was opened before the file began again is closed."""
    sources = Sources()
    first = sources.get(("view", 0), 0, ARRIVING, _opener)
    second = sources.get(("view", 0), 1, ARRIVING, lambda: None)

    assert first is not None
    assert not _is_open(first.fd)
    assert second is None
    assert 0 == len(sources)


def test_content_of_another_registry_is_none_of_a_member_that_arrives(tmp_path: Path) -> None:
    """Until this registry has delivered, or committed, what it says it has, nothing that is on the node is shown for it."""
    layout, digest = StoreLayout(tmp_path), Digest.of(b"tar")
    node = Node(b"f", stat.S_IFREG | 0o444, 6, 0, str(digest), 3, 512, None)
    ingest = layout.ingest(digest, "evil.test")
    for directory in (ingest / "tar" / "members", layout.layer(digest)):
        directory.mkdir(parents=True)
    ChunkMap(ingest / "chunks", 1 << 20).close()
    (layout.layer(digest) / "3").write_bytes(b"secret")
    fill = FillMap(tmp_path / "fill", 1, is_writer=True)
    fill.put(0, ARRIVING)
    while_it_arrives = open_source(layout, "evil.test", node, 0, fill)
    layout.drop_ingest(ingest)  # as a commit does
    committed = open_source(layout, "evil.test", node, 0, fill)
    assert committed is not None
    found = os.pread(committed.fd, 9, 0)
    committed.close()

    assert (None, b"secret") == (while_it_arrives, found)


def test_views_are_apart() -> None:
    """Forgetting a file or a view leaves the others open."""
    sources = Sources()
    for view, file in (("one", 0), ("one", 1), ("two", 0)):
        sources.get((view, file), 0, ARRIVING, _opener)
    sources.forget("one", 0)
    sources.forget("one", 0)
    after_file = len(sources)
    sources.forget_view("one")
    after_view = len(sources)
    sources.forget_view("two")

    assert (2, 1, 0) == (after_file, after_view, len(sources))
