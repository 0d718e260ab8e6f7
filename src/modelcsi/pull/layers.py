"""Brings one layer of an artifact into the store, or proves that a repository may use what is there already.

Cases, by what the manifest tells of the layer:
1. a raw file: received into its final form, in any order;
2. an uncompressed tar: members are written from the stream; what is in no member is kept beside them for a resume;
3. a compressed tar: members are written from the stream; over 16 MiB the received bytes are kept until the commit, so that
   a killed pull does not fetch them again;
4. undecided (a tar if its bytes are one): received as a file, then unpacked if it is a tar;
5. a layer of an image: as 2 or 3, but until a member is wanted, nothing is written, not even for a resume: base layers are
   read only;
6. a compressed file: as 3, with the file as the only member.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from modelcsi.artifact.image_tree import reading_of
from modelcsi.artifact.layer import Compression, Layer, is_tar_head, sniff_codec
from modelcsi.artifact.members import AS_TAR, Reading
from modelcsi.artifact.selection import Selection
from modelcsi.errors import CorruptContent, RegistryUnavailable, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.pull.checktar import TarChecker
from modelcsi.pull.claims import Claims
from modelcsi.pull.decode import decode, needs_large_window
from modelcsi.pull.filling import LayerWork, fill, is_told
from modelcsi.pull.indexing import Indexed, index_tar
from modelcsi.pull.sources import Sources
from modelcsi.pull.targets import Accounted, AccountedIndex, Inline, Lazy, Nothing, Proving, Streamed
from modelcsi.pull.transfer import Origin, Target, Transfer
from modelcsi.pull.treeahead import kept_members
from modelcsi.pull.unpack import Unpacker, has_admitted_members, missing_members, peek
from modelcsi.pull.window import MemoryBudget
from modelcsi.store.chunks import CHUNK_BYTES
from modelcsi.store.content import ReadyBlob, ReadyLayer
from modelcsi.store.indexed import IndexedIngest, stored_index
from modelcsi.store.ingest import BlobIngest, LayerIngest, discard_ingest, has_ingest, ingested_bytes
from modelcsi.store.store import Store

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How often a blob that does not match its digest is fetched before the answer is CorruptContent."""
KEEP_COMPRESSED_ABOVE_BYTES = 16 << 20
"""Writing the received bytes as well costs 0.1 CPU-s/GB beside 1 to 2 of decompression; fetching them again costs more."""
_READ_BYTES = 1 << 20
_BLOCK = 512


class LayerPuller:
    """One per process: no layer is fetched twice at a time, whichever jobs want it."""

    def __init__(self, store: Store, budget: MemoryBudget) -> None:
        self._store = store
        self._budget = budget
        self._claims = Claims()

    def holds(self, layer: Layer, selection: Selection) -> bool:
        """Whether the store has all that the selection shows of the layer."""
        content = self._store.content
        is_packed = layer.codec.is_packed
        members = content.members(layer.digest, reading_of(layer, selection)) if is_packed else None
        if members is not None and all(layer.admits(member.path) for member in members):
            return not missing_members(layer, members, selection)
        if not content.has_blob(layer.digest) or (is_packed and not layer.undecided):
            return False
        # Another artifact may have called the same bytes a file: what this one means does not depend on it.
        return not (layer.undecided and self._is_tar_kept_as_file(layer))

    def _is_tar_kept_as_file(self, layer: Layer) -> bool:
        with self._store.layout.blob(layer.digest).open("rb") as file:
            head = file.read(_READ_BYTES)
            rest = iter(partial(file.read, _READ_BYTES), b"")
            return _is_tar(layer, head, rest)

    def need_bytes(self, layer: Layer, selection: Selection, host: str) -> int:
        """Bytes of disk that bringing the layer takes, as far as the manifest tells."""
        if self.holds(layer, selection):
            return 0
        return max(0, layer.size - ingested_bytes(self._store.layout, layer.digest, host))

    def is_ready(self, layer: Layer, work: LayerWork) -> bool:
        """Whether the layer is here and this job's repository delivered it before: nobody needs to be asked."""
        return self.holds(layer, work.selection_of(layer)) and (
            is_told(layer) or self._was_delivered(layer, work.sources)
        )

    def pull(self, layer: Layer, work: LayerWork) -> None:
        """Bring the layer here, or wait until another job has, and prove that the job's repository may use it.

        Nobody waits for another host: it must deliver the bytes itself in any case. Raises CorruptContent after three
        attempts, UnsupportedArtifact, StoreFull, Stopped, or a registry's final answer.
        """
        sources = work.sources
        with self._claims.hold((layer.digest, sources.host), work.stop):
            if not self.holds(layer, work.selection_of(layer)):
                self._store.collector.begin_writing(layer.digest)
                try:
                    self._bring(layer, work)
                finally:
                    self._store.collector.end_writing(layer.digest)
                # What a process before this one received may be all of it, for another repository of this host.
                if is_told(layer) or sources.shows(layer.descriptor):
                    self._record_delivery(layer, sources)
                    return
                work.progress.take_back(layer.size)
        # What is here stays, by the job's lease: nobody needs to wait for this proof.
        if self._is_proven(layer, sources):
            work.progress.add(layer.size, is_downloaded=False)
        else:  # another host delivered it: only a full delivery shows that this one holds it too
            self._transfer(layer.descriptor, Nothing(layer.size), work, origin=Proving(sources))
            self._record_delivery(layer, sources)

    def _bring(self, layer: Layer, work: LayerWork) -> None:
        attempt = 1
        while True:
            try:
                return self._bring_as_told(layer, work)
            except CorruptContent as error:
                work.demands.restarted(layer, error)
                work.ahead.distrust(layer)
                discard_ingest(self._store.layout, layer.digest, work.sources.host)
                if work.stop.is_set():
                    raise
                if work.sources.blame_mirrors(layer.digest):  # at most once: from now on the registry alone is asked
                    logger.warning("a mirror had a part in it, so it is fetched from the registry: %s", error)
                    continue
                if attempt == _ATTEMPTS:
                    raise
                logger.warning("attempt %d: %s", attempt, error)
                attempt += 1
            except UnsupportedArtifact as error:
                work.demands.restarted(layer, error)
                discard_ingest(self._store.layout, layer.digest, work.sources.host)
                raise

    def _bring_as_told(self, layer: Layer, work: LayerWork) -> None:
        if layer.undecided:
            self._bring_undecided(layer, work)
        elif layer.codec.is_packed:
            self._bring_packed(layer, work)
        else:
            self._bring_blob(layer, work)

    def _bring_blob(self, layer: Layer, work: LayerWork) -> None:
        ingest = BlobIngest(self._store.layout, layer.digest, layer.size, work.sources.host)
        with closing(ingest):
            target = Accounted(ingest, work.reservation)
            if work.demands.is_observed and not is_told(layer):
                fill(layer, target, work)
            else:
                self._transfer(layer.descriptor, target, work)
            self._store.content.commit(_ready(ingest, layer))

    def _bring_packed(self, layer: Layer, work: LayerWork) -> None:
        reading = self._reading(layer, work)
        is_plain = layer.codec.compression is Compression.NONE
        indexed = self._index(layer, work, reading) if is_plain and not layer.is_image else None
        if indexed is not None:
            self._bring_indexed(layer, work, indexed, reading)
            return
        with closing(self._layer_ingest(layer, work, reading, is_resumable=is_plain)) as ingest:
            unpacker = Unpacker(layer, work.selection_of(layer), ingest, work.reservation, reading)
            if is_plain or layer.size < KEEP_COMPRESSED_ABOVE_BYTES:
                self._transfer(layer.descriptor, Streamed(ingest, layer.size), work, unpacker)
            else:
                received = partial(BlobIngest, self._store.layout, layer.digest, layer.size, work.sources.host)
                is_begun = layer.is_image and not has_ingest(self._store.layout, layer.digest, work.sources.host)
                with closing(Lazy(received, layer.size, work.reservation, unpacker if is_begun else None)) as target:
                    self._transfer(layer.descriptor, target, work, unpacker)
            self._commit_layer(layer, work, ReadyLayer(ingest, tuple(unpacker.members), reading))

    def _bring_indexed(self, layer: Layer, work: LayerWork, indexed: Indexed, reading: Reading) -> None:
        index, layout = indexed.index, self._store.layout
        kept = kept_members(layer, index.members, work.selection_of(layer))
        plan = self._index_plan(layer, work, reading)
        ingest = IndexedIngest(layout, layer.digest, plan, work.sources.host, (layer.size, index, kept))
        with closing(ingest):
            target = AccountedIndex(ingest, work.reservation)
            for chunk, data in indexed.take_chunks():
                target.put(chunk * CHUNK_BYTES, data)
                target.mark(chunk)
            checker = TarChecker(layer, ingest)
            fill(layer, target, work, checker.run)
            self._commit_layer(layer, work, ReadyLayer(ingest, tuple(checker.members), reading))

    def index(self, layer: Layer, work: LayerWork) -> Indexed:
        """The index of an uncompressed tar: of an attempt that was killed, or made now. Raises as `index_tar` does."""
        plan = self._index_plan(layer, work, self._reading(layer, work))
        known = stored_index(self._store.layout, layer.digest, plan, work.sources.host)
        with contextlib.suppress(RegistryUnavailable):  # making it waits for the registry
            if known is not None and work.sources.shows(layer.descriptor):
                return Indexed(known)
        return index_tar(layer, work.ranges(layer), self._store.layout.ingests)

    def _index(self, layer: Layer, work: LayerWork, reading: Reading) -> Indexed | None:
        """The index by which to write a tar: if it is read while it arrives, or if an attempt of before had one."""
        indexed = work.ahead.index_of(layer)
        if indexed is not None:
            return indexed
        plan = self._index_plan(layer, work, reading)
        known = stored_index(self._store.layout, layer.digest, plan, work.sources.host)
        return None if known is None else Indexed(known)

    def _index_plan(self, layer: Layer, work: LayerWork, reading: Reading) -> str:
        return f"by index: {_plan(layer, work, reading)}"

    def _bring_undecided(self, layer: Layer, work: LayerWork) -> None:
        with closing(BlobIngest(self._store.layout, layer.digest, layer.size, work.sources.host)) as received:
            self._transfer(layer.descriptor, Accounted(received, work.reservation), work)
            head = b"".join(received.read(0, min(layer.size, _READ_BYTES)))
            rest = received.read(len(head), layer.size)
            if _is_tar(layer, head, rest):
                reading = self._reading(layer, work)
                with closing(self._layer_ingest(layer, work, reading, is_resumable=False)) as ingest:
                    unpacker = Unpacker(layer, work.selection_of(layer), ingest, work.reservation, reading)
                    self._unpack(unpacker, received.read(0, layer.size), work)
                    if all(layer.admits(member.path) for member in unpacker.members):
                        self._commit_layer(layer, work, ReadyLayer(ingest, tuple(unpacker.members), reading))
                        return
            self._store.content.commit(_ready(received, layer))

    def _reading(self, layer: Layer, work: LayerWork) -> Reading:
        """How to read a layer: as it was read already, if that told enough."""
        reading = reading_of(layer, work.selection_of(layer))
        known = self._store.content.record(layer.digest)
        return known.reading if known is not None and known.reading.covers(reading) else reading

    def _layer_ingest(self, layer: Layer, work: LayerWork, reading: Reading, *, is_resumable: bool) -> LayerIngest:
        return LayerIngest(
            *(self._store.layout, layer.digest, _plan(layer, work, reading), work.sources.host),
            is_resumable=is_resumable,
            skips_prefix=layer.is_image,
        )

    def _commit_layer(self, layer: Layer, work: LayerWork, item: ReadyLayer) -> None:
        self._store.content.commit(item)
        selection = work.selection_of(layer)
        if not missing_members(layer, item.members, selection):
            return  # without a look into the record, whose reading takes 3 us a member
        members = self._store.content.members(layer.digest, item.reading)
        if missing_members(layer, members or (), selection):
            # A hard link that is wanted points at a file that is not: known only now. Read once more, keeping everything.
            work.progress.take_back(layer.size)
            self._bring_packed(layer, replace(work, selection=Selection()))

    def _transfer(
        self,
        descriptor: Descriptor,
        target: Target,
        work: LayerWork,
        unpacker: Unpacker | None = None,
        *,
        origin: Origin | None = None,
    ) -> None:
        inline = b"" if descriptor.size == 0 else descriptor.data
        source: Origin = Inline(inline) if inline is not None else origin or work.sources
        transfer = Transfer(source, work.progress, self._budget, work.stop)
        transfer.run(
            descriptor, target, None if unpacker is None else lambda pieces: self._unpack(unpacker, pieces, work)
        )

    def _unpack(self, unpacker: Unpacker, pieces: Iterator[bytes], work: LayerWork) -> None:
        """Run the unpacker, alone among those that need a lot of memory."""
        with closing(unpacker):
            head, pieces = peek(pieces)
            if not needs_large_window(head):
                unpacker.run(pieces)
                return
            with self._claims.hold("large window", work.stop):
                unpacker.run(pieces)

    def _is_proven(self, layer: Layer, sources: Sources) -> bool:
        """Whether a repository of this job delivered the layer before, or shows now that it holds it.

        An answer to a HEAD counts only for a host that delivered the bytes once: a registry that answers yes to everything
        would else get at private bytes of another one.
        """
        if is_told(layer):
            return True
        records = self._store.records
        for repository in sources.repositories():
            if records.deliveries([layer.digest], repository.host, repository.name):
                return True
            if records.came_from(layer.digest, repository.host) and sources.has_blob(repository, layer.descriptor):
                records.put_delivery([layer.digest], repository.host, repository.name)
                return True
        return False

    def _was_delivered(self, layer: Layer, sources: Sources) -> bool:
        records = self._store.records
        return any(
            records.deliveries([layer.digest], repository.host, repository.name)
            for repository in sources.repositories()
        )

    def _record_delivery(self, layer: Layer, sources: Sources) -> None:
        for repository in sources.repositories()[:1]:
            self._store.records.put_delivery([layer.digest], repository.host, repository.name)


def _plan(layer: Layer, work: LayerWork, reading: Reading) -> str:
    """What an ingest of a tar depends on: one of another plan cannot be continued."""
    selection = work.selection_of(layer)
    return json.dumps(
        [
            *(layer.codec.is_tar, layer.codec.compression.value),
            *(selection.key(), layer.sole_member_path, layer.is_weight),  # what `wants_member` looks at
            *([layer.prefix] if layer.prefix else []),
            *([reading.to_json()] if reading != AS_TAR else []),
        ]
    )


def _ready(ingest: BlobIngest, layer: Layer) -> ReadyBlob:
    return ReadyBlob(ingest, (layer.mode or 0) & 0o555 | 0o444, layer.mtime_ns or 0)


def _is_tar(layer: Layer, head: bytes, rest: Iterator[bytes]) -> bool:
    """Whether an undecided layer's bytes are a tar that the layer may be."""
    codec = sniff_codec(layer.codec, head)
    if layer.tar_root is not None and codec.compression is not Compression.GZIP:
        return False  # oras-py compresses its directories
    try:
        first = next(decode(codec.compression, iter([head]), layer.where), b"")
    except UnsupportedArtifact:
        return False
    if layer.has_fallback_name and len(first) >= _BLOCK and not any(first[:_BLOCK]):
        return True  # an empty one: nobody named a file
    return is_tar_head(first) and (layer.tar_root is None or has_admitted_members(layer, head, rest))
