"""Where a transfer's bytes go, and where they come from beside a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modelcsi.oci.descriptor import Descriptor
from modelcsi.pull.sources import Sources, SourceStream
from modelcsi.pull.unpack import Unpacker
from modelcsi.registry.blob import Stream
from modelcsi.store.indexed import IndexedIngest
from modelcsi.store.ingest import BlobIngest, LayerIngest
from modelcsi.store.space import Reservation


class Accounted:
    """A blob's ingest whose blocks are taken from the job's reservation as they are written, or at once."""

    stores = True

    def __init__(self, ingest: BlobIngest, reservation: Reservation) -> None:
        self._ingest = ingest
        self._reservation = reservation
        if ingest.is_preallocated:
            reservation.used(ingest.preallocated_bytes)

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """See `Target.runs`."""
        return self._ingest.runs()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """See `Target.read`."""
        return self._ingest.read(start, end)

    def write(self, offset: int, data: bytes) -> None:
        """See `Target.write`."""
        self._ingest.write(offset, data)
        if not self._ingest.is_preallocated:
            self._reservation.used(len(data))

    def flush(self) -> None:
        """See `Target.flush`."""
        self._ingest.flush()

    def put(self, offset: int, data: bytes) -> None:
        """See `FillTarget.put`."""
        self._ingest.put(offset, data)
        if not self._ingest.is_preallocated:
            self._reservation.used(len(data))

    def mark(self, chunk: int) -> None:
        """See `FillTarget.mark`."""
        self._ingest.mark(chunk)


class AccountedIndex:
    """The same for a tar that is written by its index."""

    def __init__(self, ingest: IndexedIngest, reservation: Reservation) -> None:
        self._ingest = ingest
        self._reservation = reservation
        self.runs = ingest.runs
        self.read = ingest.read
        self.mark = ingest.mark

    def put(self, offset: int, data: bytes) -> None:
        """See `FillTarget.put`."""
        self._ingest.put(offset, data)
        self._reservation.used(len(data))


class Streamed:
    """A tar that is unpacked as it arrives: the unpacker stores, nothing is stored here."""

    stores = False

    def __init__(self, ingest: LayerIngest, size: int) -> None:
        self._ingest = ingest
        self._size = size

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """See `Target.runs`."""
        prefix = self._ingest.prefix_bytes
        stored = min(self._ingest.stored_bytes(), self._size - prefix)
        if prefix and stored > 0:
            yield 0, prefix, False
        if stored > 0:
            yield prefix, prefix + stored, True
        known = prefix + stored if stored > 0 else 0
        if known < self._size:
            yield known, self._size, False

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """See `Target.read`."""
        left = end - start
        for piece in self._ingest.read_again():
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return

    def write(self, offset: int, data: bytes) -> None:
        """See `Target.write`."""
        raise AssertionError(f"{len(data)} bytes at {offset}: the unpacker writes them")

    def flush(self) -> None:
        """Nothing is held back."""


class Proving:
    """A blob from sources whose delivery is a proof."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def open_blob(self, descriptor: Descriptor, start: int, end: int | None) -> SourceStream:
        """See `Origin.open_blob`."""
        return self._sources.open_proving(descriptor, start, end)


class Nothing:
    """Bytes that are received only to see that they match."""

    stores = False

    def __init__(self, size: int) -> None:
        self._size = size

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """See `Target.runs`."""
        if self._size:
            yield 0, self._size, False

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """See `Target.read`."""
        raise AssertionError(f"nothing is stored, {start} to {end} neither")

    def write(self, offset: int, data: bytes) -> None:
        """See `Target.write`."""
        raise AssertionError(f"{len(data)} bytes at {offset}: nobody wants them")

    def flush(self) -> None:
        """Nothing is held back."""


class Inline(Stream):
    """A descriptor's own `data` (checked when it was parsed), or the empty blob: no request is made for them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.honours_ranges = True

    def open_blob(self, descriptor: Descriptor, start: int, end: int | None) -> Inline:
        """See `Origin.open_blob`."""
        del descriptor
        self._data, self._position = self._data[:end], start
        return self

    def read(self, size: int) -> bytes:
        """See `Stream.read`."""
        piece = self._data[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """Nothing is open."""


class Lazy:
    """The received bytes of a compressed layer, kept so that a killed pull need not fetch them again.

    `awaited`: of an image's layer, of which nothing is kept until its unpacker found something to keep. What came before
    is then fetched again by a pull that goes on; with base layers that is everything, for nothing of them is wanted. Until
    then who stores follows the unpacker: ahead of it, he would drop up to a whole window of what it is about to keep.
    """

    stores = True

    def __init__(
        self, opened: Callable[[], BlobIngest], size: int, reservation: Reservation, awaited: Unpacker | None
    ) -> None:
        self._opened = opened
        self._size = size
        self._reservation = reservation
        self._awaited = awaited
        self._ingest: BlobIngest | None = None
        self._target: Accounted | None = None
        if awaited is None:
            self._open()

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """See `Target.runs`."""
        if self._target is not None:
            yield from self._target.runs()
        elif self._size:
            yield 0, self._size, False

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """See `Target.read`."""
        assert self._target is not None, "only what was kept is read again"
        return self._target.read(start, end)

    def write(self, offset: int, data: bytes) -> None:
        """See `Target.write`."""
        if self._target is None and self._awaited is not None and self._awaited.has_kept_of(offset + len(data)):
            self._open()
        if self._target is not None:
            self._target.write(offset, data)

    def flush(self) -> None:
        """See `Target.flush`."""
        if self._target is not None:
            self._target.flush()

    def close(self) -> None:
        """Keep what is there for a later attempt."""
        if self._ingest is not None:
            self._ingest.close()

    def _open(self) -> None:
        self._ingest = self._opened()
        self._target = Accounted(self._ingest, self._reservation)
