from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from modelcsi.artifact.members import Member
from modelcsi.artifact.tarindex import TarIndex, TarIndexer
from modelcsi.oci.digest import Digest
from modelcsi.store.chunks import CHUNK_BYTES
from modelcsi.store.content import ContentStore, ReadyLayer
from modelcsi.store.indexed import IndexedIngest, stored_index
from modelcsi.store.ingest import BlobIngest, LayerIngest
from modelcsi.store.layout import StoreLayout
from tests.unit.artifact.builders import files_tar

FILES = {
    "large": random.Random(1).randbytes(3 * CHUNK_BYTES + 77),  # noqa: S311 - noise
    "empty": b"",
    "small": b"small",
    "unwanted": b"u" * 200_000,
    "last": b"l" * 1_500_000,
}
TAR = files_tar(FILES)
DIGEST = Digest.of(TAR)
KEPT = (0, 1, 2, 4)
HOST = "registry.example.com"


def index_of(content: bytes) -> TarIndex:
    """Of a tar that is here."""
    indexer = TarIndexer("tar", len(content))
    while not indexer.is_done:
        indexer.feed(content[indexer.position : indexer.position + 512])
    return indexer.index()


def new(layout: StoreLayout, plan: str = "plan", kept: Sequence[int] = KEPT) -> IndexedIngest:
    """An ingest, perhaps one that goes on."""
    return IndexedIngest(layout, DIGEST, plan, HOST, (len(TAR), index_of(TAR), kept))


def put(ingest: IndexedIngest, *chunks: int) -> None:
    """Store whole chunks, in pieces."""
    for chunk in chunks:
        start, end = chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, len(TAR))
        for at in range(start, end, 300_000):
            ingest.put(at, TAR[at : min(at + 300_000, end)])
        ingest.mark(chunk)


def read(ingest: IndexedIngest) -> bytes:
    """All of the stream."""
    return b"".join(ingest.read(0, len(TAR)))


def test_any_order(layout: StoreLayout) -> None:
    """Members are in files of their own, the stream can be read again, and is not kept a second time."""
    with closing(new(layout)) as ingest:
        put(ingest, *reversed(range(ingest.chunks.count)))
        for number in KEPT:
            ingest.end_member(number)
        files = {int(path.name): path.read_bytes() for path in ingest.members.iterdir()}
        stray = (ingest.directory / "stray").stat().st_size
        stream = read(ingest)

    assert TAR == stream
    assert {number: list(FILES.values())[number] for number in KEPT} == files
    assert len(TAR) == stray + sum(map(len, files.values()))


def test_a_member_can_be_read_where_it_is_marked(layout: StoreLayout) -> None:
    """At the place that the index says, before what is around it is here."""
    with closing(new(layout)) as ingest:
        put(ingest, 2)
        offset = ingest.index.offsets[0]
        member = (ingest.members / "0").read_bytes()
        runs = list(ingest.runs())

    assert FILES["large"][2 * CHUNK_BYTES - offset :][:CHUNK_BYTES] == member[2 * CHUNK_BYTES - offset :][:CHUNK_BYTES]
    assert (2 * CHUNK_BYTES, 3 * CHUNK_BYTES, True) in runs


def test_a_killed_attempt_goes_on(layout: StoreLayout) -> None:
    """The index, the marks and the bytes are there."""
    with closing(new(layout)) as killed:
        put(killed, 0, 3)
    found = stored_index(layout, DIGEST, "plan", HOST)
    with closing(new(layout)) as ingest:
        present = [start // CHUNK_BYTES for start, _, is_stored in ingest.runs() if is_stored]
        put(ingest, 1, 2, 4)

        assert TAR == read(ingest)
    assert (index_of(TAR), [0, 3]) == (found, present)


@pytest.mark.parametrize("other", ["plan", "index", "damaged", "members"])
def test_what_cannot_be_continued_is_dropped(layout: StoreLayout, other: str) -> None:
    """Another plan keeps other members; and an index that cannot be read says nothing of what is there."""
    with closing(new(layout)) as before:
        put(before, 0, 3)
        index_file = before.directory / "index.json"
    if other == "damaged":
        index_file.write_bytes(b"damaged")
    elif other == "members":  # a commit that was killed has taken them away
        before.members.rename(layout.root / "away")
    elif other == "index":
        index_file.write_text(index_of(files_tar({"other": b""})).to_json())
    with closing(new(layout, "plan" if other != "plan" else "wider")) as ingest:
        assert [False] == [is_stored for _, _, is_stored in ingest.runs()]
        assert [] == list(ingest.members.iterdir())


def test_other_forms_of_the_same_blob(layout: StoreLayout) -> None:
    """Each begins anew: the marks of one mean nothing to another."""
    with closing(new(layout)) as ingest:
        put(ingest, 0, 3)
    with closing(BlobIngest(layout, DIGEST, len(TAR), HOST)) as blob:
        as_blob = blob.stored_bytes()
        blob.write(0, TAR[:CHUNK_BYTES])
    with closing(new(layout)) as ingest:
        again = [is_stored for _, _, is_stored in ingest.runs()]
        put(ingest, 1)
    with closing(LayerIngest(layout, DIGEST, "streamed", HOST, is_resumable=True)) as layer:
        as_stream = layer.stored_bytes()
    with closing(new(layout)) as ingest:
        at_last = [is_stored for _, _, is_stored in ingest.runs()]

    assert (0, [False], 0, [False]) == (as_blob, again, as_stream, at_last)


def test_marks_without_bytes(layout: StoreLayout) -> None:
    """After a power cut: zeros keep the stream in step, and the digest will tell."""
    with closing(new(layout)) as ingest:
        ingest.mark(1)
        stream = b"".join(ingest.read(CHUNK_BYTES, 2 * CHUNK_BYTES))

    assert bytes(CHUNK_BYTES) == stream


def test_commit(layout: StoreLayout) -> None:
    """As of a tar that was streamed: a record and the member files, with mode and time."""
    content = ContentStore(layout)
    ingest = new(layout)
    put(ingest, *range(ingest.chunks.count))
    for number in KEPT:
        ingest.end_member(number)
    members = tuple(
        member if number not in KEPT else _hashed(member.path, number)
        for number, member in enumerate(index_of(TAR).members)
    )
    content.commit(ReadyLayer(ingest, members))
    file = layout.layer(DIGEST) / "2"

    assert (members, []) == (content.members(DIGEST), content.verify(DIGEST))
    assert (b"small", 0o444, 1_700_000_000) == (
        file.read_bytes(),
        file.stat().st_mode & 0o777,
        int(file.stat().st_mtime),
    )
    assert not _ingest(layout).exists()


def test_many_members_need_few_descriptors(layout: StoreLayout) -> None:
    """Of large ones some stay open."""
    files = {f"m{number}": bytes([number]) * CHUNK_BYTES for number in range(80)}
    tar = files_tar(files)
    ingest = IndexedIngest(layout, Digest.of(tar), "plan", HOST, (len(tar), index_of(tar), range(80)))
    with closing(ingest):
        for at in range(0, len(tar), CHUNK_BYTES):
            ingest.put(at, tar[at : at + CHUNK_BYTES])
        open_files = len(ingest._files)
        digest = hashlib.sha256(b"".join(ingest.read(0, len(tar)))).hexdigest()

    assert (True, Digest.of(tar).hex) == (open_files <= 65, digest)


def _hashed(path: str, number: int) -> Member:
    return dataclasses.replace(index_of(TAR).members[number], sha256=hashlib.sha256(FILES[path]).hexdigest())


def _ingest(layout: StoreLayout) -> Path:
    return layout.ingest(DIGEST, HOST)
