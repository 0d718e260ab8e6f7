"""Blobs being written; layers are in test_ingest_layer.py."""

from __future__ import annotations

import os
from contextlib import closing

from modelcsi.oci.digest import Digest
from modelcsi.store.chunks import CHUNK_BYTES
from modelcsi.store.content import ContentStore, ReadyBlob
from modelcsi.store.ingest import BlobIngest, discard_ingest, ingested_bytes
from modelcsi.store.layout import StoreLayout

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 256) * 2 + b"tail"
DIGEST = Digest.of(CONTENT)


def test_writes_in_any_order(layout: StoreLayout) -> None:
    """The file has the bytes where they belong, and all is marked."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        half = CHUNK_BYTES // 2
        for start in (3 * half, 0, 2 * half, 4 * half, half):
            ingest.write(start, CONTENT[start : start + half])

        assert [(0, len(CONTENT), True)] == list(ingest.runs())
        assert CONTENT == ingest.path.read_bytes()


def test_a_write_over_several_chunks(layout: StoreLayout) -> None:
    """Each chunk that it completes is marked, no other."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        ingest.write(100, CONTENT[100:])

        assert [(0, CHUNK_BYTES, False), (CHUNK_BYTES, len(CONTENT), True)] == list(ingest.runs())


def test_what_was_complete_is_there_again(layout: StoreLayout) -> None:
    """After a kill, whole chunks are there; the rest of a half one is written again from its start."""
    killed = BlobIngest(layout, DIGEST, len(CONTENT))
    killed.write(0, CONTENT[: CHUNK_BYTES + 7])
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        missing = [(start, end) for start, end, is_present in ingest.runs() if not is_present]
        ingest.write(CHUNK_BYTES, CONTENT[CHUNK_BYTES : CHUNK_BYTES + 7])
        before = ingest.stored_bytes()
        ingest.write(CHUNK_BYTES + 7, CONTENT[CHUNK_BYTES + 7 :])

        assert [(CHUNK_BYTES, len(CONTENT))] == missing
        assert (CHUNK_BYTES, len(CONTENT)) == (before, ingest.stored_bytes())
    killed.close()


def test_stored_bytes_are_read_in_pieces(layout: StoreLayout) -> None:
    """Pieces of at most 1 MiB, in order."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        ingest.write(0, CONTENT)
        pieces = list(ingest.read(5, len(CONTENT)))

    assert CONTENT[5:] == b"".join(pieces)
    assert max(map(len, pieces)) <= CHUNK_BYTES


def test_a_mark_without_its_bytes(layout: StoreLayout) -> None:
    """What a power cut took reads as zeros, so that the stream stays in step and the digest tells."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        ingest.write(0, CONTENT)
        os.truncate(ingest.path, CHUNK_BYTES)

        assert len(CONTENT) == sum(map(len, ingest.read(0, len(CONTENT))))


def test_an_attempt_of_another_size_leaves_no_bytes(layout: StoreLayout) -> None:
    """A manifest that lied about the size left more than the blob has: nothing of it is committed."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT) + 1000)) as lie:
        lie.write(0, CONTENT + b"x" * 1000)
    ingest = BlobIngest(layout, DIGEST, len(CONTENT))
    ingest.write(0, CONTENT)
    ContentStore(layout).commit(ReadyBlob(ingest, 0o444, 0))

    assert CONTENT == layout.blob(DIGEST).read_bytes()


def test_the_empty_blob(layout: StoreLayout) -> None:
    """It is complete without a write."""
    with closing(BlobIngest(layout, Digest.of(b""), 0)) as ingest:
        assert ([], b"") == (list(ingest.runs()), ingest.path.read_bytes())


def test_blocks_are_taken_at_the_start(layout: StoreLayout) -> None:
    """The ingest says how many bytes it took from the disk; a second attempt takes none."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        taken = ingest.preallocated_bytes
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as again:
        assert taken in (0, ingested_bytes(layout, DIGEST) - (layout.ingest(DIGEST) / "chunks").stat().st_blocks * 512)
        assert 0 == again.preallocated_bytes


def test_an_interrupted_commit_can_be_resumed(layout: StoreLayout) -> None:
    """The mode of the final file may be set already when the process dies: the next attempt still writes."""
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as killed:
        killed.write(0, CONTENT)
        killed.path.chmod(0o444)
    with closing(BlobIngest(layout, DIGEST, len(CONTENT))) as ingest:
        assert len(CONTENT) == ingest.stored_bytes()


def test_discarding_is_repeatable(layout: StoreLayout) -> None:
    """Nothing is left, and nothing is needed."""
    BlobIngest(layout, DIGEST, len(CONTENT)).close()
    discard_ingest(layout, DIGEST)
    discard_ingest(layout, DIGEST)

    assert 0 == ingested_bytes(layout, DIGEST)
