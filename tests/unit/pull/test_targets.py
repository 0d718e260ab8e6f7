"""What is kept of an image's compressed layer: its unpacker says from where on."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest

from modelcsi.artifact.layer import TAR_GZIP, Layer
from modelcsi.artifact.selection import Selection
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.pull.progress import Progress
from modelcsi.pull.targets import Inline, Lazy
from modelcsi.pull.transfer import Transfer
from modelcsi.pull.unpack import Unpacker
from modelcsi.pull.window import MemoryBudget
from modelcsi.store.ingest import BlobIngest, LayerIngest, has_ingest
from modelcsi.store.store import Store
from tests.images import Change, file, tar
from tests.unit.pull.conftest import wait_until
from tests.unit.pull.test_images import noise

_MIB = 1 << 20


class Bench:
    """A layer of which nothing is here, between a registry and the store."""

    def __init__(self, store: Store, stack: ExitStack, *changes: Change, damage: bytes = b"") -> None:
        self.blob = gzip.compress(tar(changes), 1)
        self.blob = self.blob[: len(self.blob) - len(damage)] + damage
        self.descriptor = Descriptor("type", Digest.of(self.blob), len(self.blob))
        self.store = store
        self.progress = Progress(len(self.blob))
        layer = Layer(self.descriptor, TAR_GZIP, is_image=True)
        members = stack.enter_context(closing(LayerIngest(store.layout, layer.digest, "plan", is_resumable=False)))
        reservation = store.space.reserve(3 * len(self.blob), "test")
        self.unpacker = Unpacker(layer, Selection(), members, reservation)
        self.target = stack.enter_context(closing(Lazy(self.open_ingest, layer.size, reservation, self.unpacker)))

    def open_ingest(self) -> BlobIngest:
        """Where the received bytes go."""
        return BlobIngest(self.store.layout, self.descriptor.digest, len(self.blob))

    def transfer(self) -> None:
        """Receive all before any of it is unpacked, as when a machine has better things to do."""

        def unpack(pieces: Iterator[bytes]) -> None:
            wait_until(lambda: not self.progress.remaining_bytes)
            with closing(self.unpacker):
                self.unpacker.run(pieces)

        budget = MemoryBudget(64 * _MIB)
        Transfer(Inline(self.blob), self.progress, budget, threading.Event()).run(self.descriptor, self.target, unpack)

    @property
    def kept_bytes(self) -> int:
        """What a pull that goes on would not fetch again."""
        self.target.close()
        with closing(self.open_ingest()) as ingest:
            return ingest.stored_bytes()


@pytest.fixture
def make_bench(store: Store) -> Iterator[partial[Bench]]:
    """Makes benches on the store."""
    with ExitStack() as stack:
        yield partial(Bench, store, stack)


def test_all_is_kept_from_the_first_wanted_member_on(make_bench: partial[Bench]) -> None:
    """However late it is found: who stores does not run ahead of who unpacks."""
    bench = make_bench(file("etc/before", noise(3 * _MIB)), file("models/m", noise(12 * _MIB, 2)))
    bench.transfer()

    assert 11 * _MIB <= bench.kept_bytes <= 13 * _MIB


def test_nothing_is_kept_where_nothing_is_wanted(make_bench: partial[Bench], store: Store) -> None:
    """Base layers are read only."""
    bench = make_bench(file("etc/before", noise(3 * _MIB)))
    bench.transfer()

    assert not has_ingest(store.layout, bench.descriptor.digest)


def test_nobody_waits_for_an_unpacker_that_failed(make_bench: partial[Bench], store: Store) -> None:
    """What follows is only hashed then."""
    bench = make_bench(file("etc/before", noise(3 * _MIB)), damage=noise(2 * _MIB, 3))
    with pytest.raises(UnsupportedArtifact, match="is not valid gzip"):
        bench.transfer()

    assert not has_ingest(store.layout, bench.descriptor.digest)


def test_nobody_waits_for_an_unpacker_that_never_began(make_bench: partial[Bench], store: Store) -> None:
    """It was to wait for another one's memory when the pull was stopped."""
    bench = make_bench(file("models/m"))
    bench.unpacker.close()
    bench.target.write(0, bench.blob)

    assert not has_ingest(store.layout, bench.descriptor.digest)
