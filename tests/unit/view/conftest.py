"""A view over files that arrive when a test says so; no kernel, no sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.store.chunks import CHUNK_BYTES
from modelcsi.view.plan import PlannedEntry
from modelcsi.view.readahead import ReadAhead
from modelcsi.view.sources import Sources
from modelcsi.view.view import Surroundings, View, read_at
from tests.fakes.demand import FakeDemand, FakeLoop
from tests.fakes.lazy import LazyFile, LazyStore, content_of

READ_TIMEOUT = 300.0
SIZE = 3 * CHUNK_BYTES + 100

OTHERS = (
    PlannedEntry(FileEntry("dir", EntryType.DIRECTORY, 0, 0o555)),
    PlannedEntry(FileEntry("dir/link", EntryType.SYMLINK, 0, 0o777, target="../weights")),
    PlannedEntry(FileEntry("dir/said.txt", EntryType.FILE, 4, 0o444, data=b"said")),
)


@dataclass
class Scene:
    """A view and everything around it."""

    store: LazyStore
    demand: FakeDemand
    loop: FakeLoop
    around: Surroundings
    view: View

    def number(self, path: str) -> int:
        return self.store.numbers[path]

    def read(self, path: str, start: int, size: int, epoch: int = 0) -> bytes | None:
        """The bytes that may be read now; None while they are missing. Raises OSError."""
        located = self.view.locate(self.number(path), start, start + size, epoch)
        if located.errno:
            raise OSError(located.errno, "refused")
        return None if located.missing else read_at(located, start, size)


@pytest.fixture
def store(tmp_path: Path) -> LazyStore:
    """Two files that nobody has fetched."""
    root = tmp_path / "root"
    root.mkdir()
    files = (LazyFile("weights", content_of("weights", SIZE)), LazyFile("empty", b""))
    return LazyStore(root, files, OTHERS)


@pytest.fixture
def scene(store: LazyStore) -> Iterator[Scene]:
    """The view of `store`."""
    demand, loop = FakeDemand(), FakeLoop()
    around = Surroundings(store.layout, demand, loop, count(1), Sources(), ReadAhead(), READ_TIMEOUT)
    view = View(store.view, around)
    yield Scene(store, demand, loop, around, view)
    view.close()
