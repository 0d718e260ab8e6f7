"""Committed content: found by its digest, verified before it got its name, never changed afterwards.

A raw layer is one file. A tar layer is a directory of member files and a record of every member; the record is what commits
it, so a directory without a record is nothing. The store trusts its own disk on reads; `verify` hashes again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.artifact.members import AS_TAR, LayerRecord, Member, Reading, numbered
from modelcsi.oci.digest import Digest
from modelcsi.store.durable import (
    MANY_FILES,
    disk_bytes,
    remove_tree,
    replace_file,
    space_errors,
    sync_directories,
    sync_directory,
    sync_filesystem,
)
from modelcsi.store.indexed import IndexedIngest
from modelcsi.store.ingest import BlobIngest, LayerIngest
from modelcsi.store.layout import StoreLayout, directories_in, member_files, member_name

_RECORD_VERSION = 3
"""A release that knows 1 and 2 only looks for all members in one directory; it fetches the layer again, as this one does with theirs."""
_READ_BYTES = 1 << 20
_CACHED_MEMBERS = 50_000
"""Of all records together (measured: 0.7 KiB a member); a tar of more directories than that is read again each time."""


@dataclass(frozen=True, slots=True)
class ReadyBlob:
    """A raw layer whose bytes are complete and match their digest."""

    ingest: BlobIngest
    mode: int
    mtime_ns: int
    """Mode and time that all hard links to it will share: those of the first artifact that brought it."""

    @property
    def digest(self) -> Digest:
        """The blob's digest."""
        return self.ingest.digest

    @property
    def directory(self) -> Path:
        """What goes with the commit."""
        return self.ingest.directory


@dataclass(frozen=True, slots=True)
class ReadyLayer:
    """A tar layer whose stream matched its digest and whose wanted members are written."""

    ingest: LayerIngest | IndexedIngest
    members: tuple[Member, ...]
    reading: Reading = AS_TAR

    @property
    def digest(self) -> Digest:
        """The digest of the whole tar, as transferred."""
        return self.ingest.digest

    @property
    def directory(self) -> Path:
        """What goes with the commit: the bytes that were received, too."""
        return self.ingest.directory.parent


@dataclass(slots=True)
class _Ticket:
    item: ReadyBlob | ReadyLayer
    record: LayerRecord | None = None
    """Of a layer: what is written of it."""
    is_done: bool = False
    error: Exception | None = field(default=None)


class ContentStore:
    """The content under one root; commits that come together share their fsyncs."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self._queue_lock = threading.Lock()
        self._queue: list[_Ticket] = []  # under _queue_lock
        self._manifest_lock = threading.Lock()  # one writer: pods that come together bring the same manifest
        self._commit_lock = threading.Lock()  # held by the thread that commits for all that wait
        self._records = _RecordCache(_CACHED_MEMBERS)

    def manifest(self, digest: Digest) -> bytes | None:
        """A kept manifest, or None; checked against its digest, since it decides what everything else means."""
        try:
            content = self.layout.manifest(digest).read_bytes()
        except FileNotFoundError:
            return None
        return content if digest.matches(content) else None

    def keep_manifest(self, digest: Digest, content: bytes) -> None:
        """Keep a manifest that matches its digest; mends a damaged one."""
        with self._manifest_lock:
            if self.manifest(digest) is None:
                replace_file(self.layout.manifest(digest), content)

    def has_blob(self, digest: Digest) -> bool:
        """Whether the raw layer is committed."""
        return self.layout.blob(digest).exists()

    def members(self, digest: Digest, reading: Reading = AS_TAR) -> tuple[Member, ...] | None:
        """The members of a committed layer; None if it is not here, or was not read so that all are known that `reading` tells."""
        record = self.record(digest)
        return record.members if record is not None and record.reading.covers(reading) else None

    def record(self, digest: Digest) -> LayerRecord | None:
        """The record of a committed layer, however it was read, or None."""
        stamp = self._stamp(digest)
        if stamp is None or not self.layout.layer(digest).is_dir():
            return None
        record = self._records.get(digest, stamp)
        if record is None:
            record = self._load_record(digest)
            if record is not None:
                self._records.put(digest, stamp, record)
        return record

    def commit(self, item: ReadyBlob | ReadyLayer) -> None:
        """Make verified content durable and visible under its digest, and drop its ingest.

        Returning normally means that it is committed, not that this call did it. Raises StoreFull; the ingest then stays.
        """
        ticket = _Ticket(item)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._commit_lock:
            if not ticket.is_done:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit_batch(batch)
        if ticket.error is not None:
            raise ticket.error

    def verify(self, digest: Digest) -> list[str]:
        """Hash what is stored of a digest again; a sentence per damage, none if it is sound or absent."""
        damages = []
        if self.has_blob(digest) and _hash_file(self.layout.blob(digest), digest.algorithm) != digest.hex:
            damages.append(f"blob {digest} does not match its digest")
        record = self.record(digest)
        for number, member in numbered(record.members if record is not None else ()):
            path = self.layout.layer(digest) / member_name(number)
            if member.sha256 and (not path.exists() or _hash_file(path, "sha256") != member.sha256):
                damages.append(f"{member.path!r} of layer {digest} does not match the digest taken when it was written")
        return damages

    def digests(self) -> Iterator[Digest]:
        """Everything that is committed, manifests included; a layer without its record too."""
        for top in (self.layout.manifests, self.layout.blobs, self.layout.layers):
            for path in top.glob("*/*"):
                if not path.name.startswith("."):
                    yield Digest(path.parent.name, path.name.removesuffix(".json"))

    def size_bytes(self) -> int:
        """Bytes on the disk of all that is committed; walks every file."""
        return disk_bytes(self.layout.blobs, self.layout.layers)

    def take_away(self, digests: Iterable[Digest]) -> list[Path]:
        """Move content to the trash; the caller knows that no lease needs it, and empties the trash when it has the time."""
        trash = []
        for digest in digests:
            self.layout.layer_record(digest).unlink(missing_ok=True)
            for path in (self.layout.manifest(digest), self.layout.blob(digest), self.layout.layer(digest)):
                trash += self.discard(path)
        return trash

    def content_bytes(self, digest: Digest) -> int:
        """Bytes on the disk of what is committed under a digest."""
        files = (path for path in (self.layout.manifest(digest), self.layout.blob(digest)) if path.exists())
        return sum(path.stat().st_blocks * 512 for path in files) + disk_bytes(self.layout.layer(digest))

    def discard(self, path: Path) -> list[Path]:
        """Move a file or tree to the trash, in one step; returns where it is there, nothing if it was absent."""
        away = self.layout.trash / f"{path.parent.name}-{path.name}-{os.urandom(4).hex()}"
        try:
            if path.is_dir():
                path.chmod(0o700)  # a user may not move a read-only directory
            path.rename(away)
        except FileNotFoundError:
            return []
        return [away]

    def _commit_batch(self, batch: Sequence[_Ticket]) -> None:
        try:
            with space_errors("committed content"):
                self._sync(batch)
                for ticket in batch:
                    self._rename(ticket)
                for directory in {_final_parent(self.layout, ticket.item) for ticket in batch}:
                    sync_directory(directory)
            for ticket in batch:
                ticket.item.ingest.close()
                shutil.rmtree(ticket.item.directory)
        except Exception as error:  # noqa: BLE001 - raised again by each `commit` of the batch
            for ticket in batch:
                ticket.error = error
        finally:
            for ticket in batch:
                ticket.is_done = True

    def _sync(self, batch: Sequence[_Ticket]) -> None:
        files: list[Path | str] = []
        for ticket in batch:
            item = ticket.item
            if isinstance(item, ReadyBlob):
                os.fchmod(item.ingest.fd, item.mode | self.layout.file_mode)
                os.utime(item.ingest.fd, ns=(item.mtime_ns, item.mtime_ns))
                files.append(item.ingest.path)
            else:
                ticket.record = self._joined(item)
                record = item.ingest.directory / "record.json"
                record.write_text(_encode_record(ticket.record))
                item.ingest.finish()
                files.append(record)
                files.extend(path for _, path in itertools.islice(member_files(item.ingest.members), MANY_FILES))
        if len(files) >= MANY_FILES:
            sync_filesystem(self.layout.root)
            return
        for path in files:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _rename(self, ticket: _Ticket) -> None:
        item = ticket.item
        if isinstance(item, ReadyBlob):
            if not self.has_blob(item.digest):  # another host may have been faster; views link what it brought
                item.ingest.path.rename(self.layout.blob(item.digest))
            return
        final, known = self.layout.layer(item.digest), self.record(item.digest)
        if known is not None and known.contradicts(LayerRecord(item.members, item.reading)):
            known = None  # and gone before its directory is another one
            self.layout.layer_record(item.digest).unlink()
            sync_directory(final.parent)
        if known is None and final.exists():  # a directory that no record committed
            empty_trash(*self.discard(final))
        if known is None:
            item.ingest.members.rename(final)
        else:  # a wider selection: add what the record will name from now on
            kept = {number for number, member in numbered(known.members) if member.sha256}
            for number, path in member_files(item.ingest.members):
                if number not in kept:
                    link = final / member_name(number)
                    link.parent.mkdir(mode=0o700, exist_ok=True)
                    link.unlink(missing_ok=True)  # what no record names may be anything
                    os.link(path, link)
        sync_directories([final, *directories_in(final)])
        (item.ingest.directory / "record.json").rename(self.layout.layer_record(item.digest))
        stamp = self._stamp(item.digest)
        if stamp is not None and ticket.record is not None:
            self._records.put(item.digest, stamp, ticket.record, is_asked_for_soon=True)

    def _stamp(self, digest: Digest) -> tuple[int, ...] | None:
        """Tells the record that is there from any other one."""
        try:
            status = self.layout.layer_record(digest).stat()
        except FileNotFoundError:
            return None
        # The time alone is too coarse: before Linux 6.13 two records of one tick have the same.
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _joined(self, item: ReadyLayer) -> LayerRecord:
        """What there is to know, with what an earlier, other selection stored: replacing the record forgets nothing."""
        known, new = self.record(item.digest), LayerRecord(item.members, item.reading)
        return new if known is None else known.joined(new)

    def _load_record(self, digest: Digest) -> LayerRecord | None:
        """None for a record of another version, and for an unreadable one: the layer is then fetched and committed again."""
        try:
            document = json.loads(self.layout.layer_record(digest).read_bytes())
            if document["version"] != _RECORD_VERSION:
                return None
            members = tuple(Member.from_json(item) for item in document["members"])
            return LayerRecord(members, Reading.from_json(document["reading"]))
        except (ValueError, LookupError, TypeError, FileNotFoundError):
            return None


class _RecordCache:
    """The records used last, bounded by the members of all of them: their number alone would bound nothing.

    One that is too large is kept until it is asked for once, if that will be soon: a job that has committed a layer makes its
    tree of it. To read it again took 2.5 us a member.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._members = 0  # all under the lock
        self._records: OrderedDict[Digest, tuple[tuple[int, ...], LayerRecord]] = OrderedDict()
        self._large: dict[Digest, tuple[tuple[int, ...], LayerRecord]] = {}  # at most one

    def get(self, digest: Digest, stamp: tuple[int, ...]) -> LayerRecord | None:
        """The record, if it was this file that it was read from."""
        with self._lock:
            found = self._large.pop(digest, None) or self._records.get(digest)
            if found is None or found[0] != stamp:
                return None
            if digest in self._records:
                self._records.move_to_end(digest)
            return found[1]

    def put(
        self, digest: Digest, stamp: tuple[int, ...], record: LayerRecord, *, is_asked_for_soon: bool = False
    ) -> None:
        """Remember it, and forget what was asked for least recently."""
        with self._lock:
            self._members -= _weight(self._records.pop(digest, ((), None))[1])
            if _weight(record) > self._limit:
                if is_asked_for_soon:
                    self._large = {digest: (stamp, record)}
                return
            self._records[digest] = (stamp, record)
            self._members += _weight(record)
            while self._members > self._limit:
                self._members -= _weight(self._records.popitem(last=False)[1][1])


def _weight(record: LayerRecord | None) -> int:
    return 0 if record is None else len(record.members) + 1


def empty_trash(*paths: Path) -> int:
    """Unlink files and trees in the trash, in this order; returns the bytes of the files that had no other link."""
    freed = 0
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            freed += disk_bytes(path, with_links=False)
            remove_tree(path)
        else:
            status = path.lstat()
            freed += status.st_blocks * 512 if status.st_nlink == 1 else 0
            path.unlink()
    return freed


def _final_parent(layout: StoreLayout, item: ReadyBlob | ReadyLayer) -> Path:
    return layout.blob(item.digest).parent if isinstance(item, ReadyBlob) else layout.layer(item.digest).parent


def _encode_record(record: LayerRecord) -> str:
    members = [item.to_json() for item in record.members]
    return json.dumps({"version": _RECORD_VERSION, "reading": record.reading.to_json(), "members": members})


def _hash_file(path: Path, algorithm: str) -> str:
    hasher = hashlib.new(algorithm)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
