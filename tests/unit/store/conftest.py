"""A store in a temporary directory, and shorthands for putting content into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from modelcsi.artifact.members import Member, MemberType
from modelcsi.oci.digest import Digest
from modelcsi.store.content import ContentStore, ReadyBlob, ReadyLayer
from modelcsi.store.ingest import BlobIngest, LayerIngest
from modelcsi.store.layout import StoreLayout
from modelcsi.store.store import Store


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    """The directories of a store, without a store."""
    return make_layout(tmp_path / "root")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    opened = Store(tmp_path / "root")
    yield opened
    opened.close()


def make_layout(root: Path) -> StoreLayout:
    """The directories of a store at `root`."""
    layout = StoreLayout(root)
    for directory in layout.directories():
        directory.mkdir(exist_ok=True)
    return layout


def ready_blob(layout: StoreLayout, content: bytes, *, mode: int = 0o444, mtime_ns: int = 7) -> ReadyBlob:
    """Content that is written and only has to be committed."""
    ingest = BlobIngest(layout, Digest.of(content), len(content))
    ingest.write(0, content)
    ingest.flush()
    return ReadyBlob(ingest, mode, mtime_ns)


def commit_blob(store: Store, content: bytes, *, mode: int = 0o444) -> Digest:
    """Commit a raw layer."""
    store.content.commit(ready_blob(store.layout, content, mode=mode))
    return Digest.of(content)


def ready_layer(
    layout: StoreLayout, digest: Digest, files: Mapping[str, bytes], *, wanted: frozenset[str] | None = None
) -> ReadyLayer:
    """A layer of these files, of which only those wanted (all without it) are stored."""
    ingest = LayerIngest(layout, digest, "plan", is_resumable=False)
    members = []
    for number, (path, content) in enumerate(files.items()):
        member = Member(path, MemberType.FILE, len(content), 0o644, 5)
        if wanted is None or path in wanted:
            ingest.begin_member(number, len(content))
            ingest.write_member(content)
            ingest.end_member(0o444, 5)
            member = Member(path, MemberType.FILE, len(content), 0o644, 5, sha256=Digest.of(content).hex)
        members.append(member)
    return ReadyLayer(ingest, tuple(members))


def commit_layer(
    content: ContentStore, digest: Digest, files: Mapping[str, bytes], *, wanted: frozenset[str] | None = None
) -> None:
    """Commit a tar layer."""
    content.commit(ready_layer(content.layout, digest, files, wanted=wanted))
