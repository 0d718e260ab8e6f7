"""Content being written: invisible until it is committed, and resumable after a crash.

Two forms, by what is kept of the bytes that arrive:
- `BlobIngest`: all of them, in `data`, in any order, with a chunk map. For raw layers, and for compressed tars (whose
  received bytes are thrown away at the commit).
- `LayerIngest`: the member files of a tar, named by number; with `stray` (every byte of the stream that ends in no member
  file) and `journal` (where in `stray` a member's bytes belong), the received stream of an uncompressed tar can be read
  again from its start, so that it can be hashed and continued after a crash although the tar itself is not kept. Where it
  `skips_prefix`, it is read again from its first member file, and what came before must be fetched again.

A digest has one ingest at a time (`pull` sees to it); the directory's name is the digest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from modelcsi.oci.digest import Digest
from modelcsi.store.blobfile import BlobFile
from modelcsi.store.chunks import CHUNK_BYTES, ChunkMap
from modelcsi.store.durable import WriteBack, disk_bytes, preallocate, space_errors, write_all, write_back_behind
from modelcsi.store.layout import StoreLayout, member_files, member_name

INDEX_NAME = "index.json"
"""In the directory of a tar: it is written in any order."""
_REPLAY_BYTES = 1 << 20
_JOURNAL_ENTRY = struct.Struct("<QQQ")  # offset in stray, member number, size of the member
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class BlobIngest:
    """A blob's bytes, written at any offset by one thread at a time; each byte is written once per object."""

    def __init__(self, layout: StoreLayout, digest: Digest, size: int, host: str = "") -> None:
        self._partial: dict[int, int] = {}  # bytes that are there of chunks that are not complete
        self.digest = digest
        self.size = size
        self.directory = layout.ingest(digest, host)
        with space_errors(str(digest)):
            if _is_indexed(self.directory):
                layout.drop_ingest(self.directory)
            elif not ChunkMap.may_be(self.directory / "chunks", size):  # of a manifest that named another size
                layout.drop_marks(self.directory)
                self.path.unlink(missing_ok=True)
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.chunks = ChunkMap(self.directory / "chunks", size)
            self.fd = open_again(self.path)
            self._file = BlobFile(self.path, self.fd)
            try:
                if os.fstat(self.fd).st_size > size:  # of a manifest that named this digest with another size
                    os.ftruncate(self.fd, size)
                before = os.fstat(self.fd).st_blocks
                self.is_preallocated = preallocate(self.fd, size)
                self.preallocated_bytes = (os.fstat(self.fd).st_blocks - before) * 512
            except BaseException:
                self.close()
                raise

    @property
    def path(self) -> Path:
        """The file that becomes the blob."""
        return self.directory / "data"

    def stored_bytes(self) -> int:
        """How many bytes an earlier attempt left."""
        return self.chunks.present_bytes()

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """What is there and what is missing, in order (`ChunkMap.runs`)."""
        return self.chunks.runs()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The stored bytes of a present run, in pieces of at most 1 MiB."""
        while start < end:
            piece = os.pread(self.fd, min(_REPLAY_BYTES, end - start), start)
            if not piece:  # a mark without its bytes: a power cut. The digest will tell; zeros keep the stream in step.
                piece = bytes(min(_REPLAY_BYTES, end - start))
            yield piece
            start += len(piece)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes that arrived, now or at the latest with `flush`; marks the chunks that are complete. Raises StoreFull."""
        with space_errors(str(self.digest)):
            self._mark(self._file.write(offset, data))

    def put(self, offset: int, data: bytes) -> None:
        """Store bytes now, from any thread; `mark` says when a chunk is complete. Not beside `write`. Raises StoreFull."""
        with space_errors(str(self.digest)):
            write_all(self.fd, data, offset)
            write_back_behind(self.fd, offset, offset + len(data))

    def mark(self, chunk: int) -> None:
        """All bytes of a chunk were `put`."""
        self.chunks.mark(chunk)

    def flush(self) -> None:
        """Store what is held back. Raises StoreFull."""
        with space_errors(str(self.digest)):
            self._mark(self._file.flush())

    def _mark(self, ranges: list[tuple[int, int]]) -> None:
        for start, end in ranges:
            offset = start
            while offset < end:
                chunk = offset // CHUNK_BYTES
                step = min(end, (chunk + 1) * CHUNK_BYTES) - offset
                self._count(chunk, step)
                offset += step

    def _count(self, chunk: int, arrived: int) -> None:
        length = min(CHUNK_BYTES, self.size - chunk * CHUNK_BYTES)
        filled = self._partial.pop(chunk, 0) + arrived
        if filled < length:
            self._partial[chunk] = filled
        else:
            self.chunks.mark(chunk)

    def close(self) -> None:
        """Keep what is there for a later attempt."""
        if self.fd >= 0:
            self._file.close()
            self.fd = -1
            self.chunks.close()


class LayerIngest:
    """The member files of one tar layer, written in order by one thread.

    `plan` says how the tar is read (codec, selection): what an attempt with another plan left cannot be continued and is
    dropped. Members that an earlier attempt wrote are not written twice.

    `stray` and `journal` are written by `flush`, which who writes calls now and then: what a kill takes is what came after
    it. Written for each member, they would make two of its three writes.
    """

    def __init__(
        self,
        layout: StoreLayout,
        digest: Digest,
        plan: str,
        host: str = "",
        *,
        is_resumable: bool,
        skips_prefix: bool = False,
    ) -> None:
        self.digest = digest
        self.directory = directory = layout.ingest(digest, host) / "tar"
        self.members = directory / "members"
        self._write_back = WriteBack(directory)
        self._members_fd = self._stray_fd = self._journal_fd = self._member_fd = -1
        self._member_offset = self._member_stored = 0
        self._made_directory, self._is_made = "", False
        self._made_mode: int | None = None  # what files are made with, once that was seen: the umask decides too
        self._file_mode = layout.file_mode
        self._held_stray, self._held_journal = bytearray(), bytearray()
        self._found: set[int] = set()  # members that an earlier attempt left
        self._is_resumable = is_resumable
        self._replayed_stray = self._stray_position = self._journal_position = 0
        self._skips_prefix = skips_prefix
        self._seen_prefix = 0  # bytes that came before any member file
        self._prefix: int | None = None if skips_prefix else 0  # all of them; None: there is no member file yet
        try:
            with space_errors(str(digest)):
                self._open(layout, plan)
            if is_resumable:
                self._prefix = self._recorded_prefix() if skips_prefix else 0
                self._replayed_stray = self._cut_to_what_can_be_read_again()
                if skips_prefix and not any(self._journal()):
                    self._forget_prefix()
        except BaseException:
            self.close()
            raise

    @property
    def prefix_bytes(self) -> int:
        """How many bytes at the start of the stream were not stored, before those that were."""
        return self._prefix or 0

    def stored_bytes(self) -> int:
        """How many bytes of the stream an earlier attempt left, from its start or behind the prefix."""
        if not self._is_resumable:
            return 0
        return self._replayed_stray + sum(self._stored_size(number) or 0 for _, number, _ in self._journal())

    def read_again(self) -> Iterator[bytes]:
        """The stream that an earlier attempt left, in pieces of at most 1 MiB."""
        position = 0
        for at, number, _ in list(self._journal()):
            yield from _read_range(self._stray_fd, position, at)
            position = at
            fd = os.open(self.members / member_name(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                yield from _read_range(fd, 0, os.fstat(fd).st_size)
            finally:
                os.close(fd)
        yield from _read_range(self._stray_fd, position, self._replayed_stray)

    def give_up_resuming(self) -> None:
        """The stream turned out to be compressed although its type says otherwise: another attempt begins at its start."""
        if self._is_resumable:
            for fd in (self._stray_fd, self._journal_fd):
                os.ftruncate(fd, 0)
            (self.directory / "prefix").unlink(missing_ok=True)
            self._is_resumable = False

    def write_stray(self, data: bytes | memoryview) -> None:
        """Bytes that end in no member file: headers, padding, members nobody wants."""
        if self._skips_prefix and self._seen_prefix < (self._prefix or 1 << 63):
            self._seen_prefix += len(data)
        elif self._is_resumable and data:
            known = max(0, self._replayed_stray - self._stray_position)
            self._held_stray += memoryview(data)[known:] if known else data
            self._stray_position += len(data)

    def begin_member(self, number: int, size: int) -> None:
        """The bytes that `write_member` gets from now on are those of member `number`."""
        if self._is_resumable:
            if self._prefix is None:
                self._prefix = self._seen_prefix
                (self.directory / "prefix").write_text(str(self._prefix))
            self._held_journal += _JOURNAL_ENTRY.pack(self._stray_position, number, size)
        name = member_name(number)
        self._make_directory(name.rpartition("/")[0])
        # What most members have in the end; who makes a file may write it all the same.
        self._member_fd = open_again(name, self._members_fd, self._file_mode)
        self._member_offset, self._is_made = 0, number not in self._found
        self._member_stored = 0 if self._is_made else os.fstat(self._member_fd).st_size
        if self._is_resumable and size >= CHUNK_BYTES:  # a compressed stream may claim any size
            preallocate(self._member_fd, size)

    def write_member(self, data: bytes | memoryview) -> int:
        """Bytes of the member begun last; returns how many of them were not there before.

        Raises OSError; the caller translates (it knows the path).
        """
        end = self._member_offset + len(data)
        known = min(len(data), max(0, self._member_stored - self._member_offset)) if self._member_stored else 0
        if known < len(data):
            write_all(self._member_fd, memoryview(data)[known:] if known else data, self._member_offset + known)
        write_back_behind(self._member_fd, self._member_offset, end)
        self._member_offset = end
        return len(data) - known

    def end_member(self, mode: int, mtime_ns: int) -> None:
        """The member is complete: give it the mode and the time that its hard links will share."""
        mode |= self._file_mode
        is_so = self._is_made and mode == self._made_mode  # saves 1 us of looking, which saves 2 of changing nothing
        if not is_so and os.fstat(self._member_fd).st_mode & 0o7777 != mode:
            os.fchmod(self._member_fd, mode)
        elif self._is_made:
            self._made_mode = mode
        os.utime(self._member_fd, ns=(mtime_ns, mtime_ns))
        os.close(self._member_fd)
        self._member_fd = -1
        self._write_back.wrote_file()

    def flush(self) -> None:
        """What came so far can be read again after a kill. Raises OSError; the caller translates."""
        if self._held_journal:
            write_all(self._journal_fd, self._held_journal, self._journal_position)
            self._journal_position += len(self._held_journal)
            self._held_journal.clear()
        if self._held_stray:
            write_all(self._stray_fd, self._held_stray, self._stray_position - len(self._held_stray))
            self._held_stray.clear()

    def finish(self) -> None:
        """All members are complete. Raises OSError for what could not be written of them."""
        self._write_back.finish()

    def close(self) -> None:
        """Keep what is there for a later attempt, up to the last `flush`."""
        for fd in (self._members_fd, self._stray_fd, self._journal_fd, self._member_fd):
            if fd >= 0:
                os.close(fd)
        self._members_fd = self._stray_fd = self._journal_fd = self._member_fd = -1

    def _open(self, layout: StoreLayout, plan: str) -> None:
        if read_plan(self.directory) != plan:
            if _is_indexed(self.directory.parent):
                layout.drop_ingest(self.directory.parent)
            if self.directory.exists():
                shutil.rmtree(self.directory)
            self.directory.mkdir(mode=0o700, parents=True)
            (self.directory / "plan.json").write_text(json.dumps(plan))
        elif not self._is_resumable and self.members.exists():
            shutil.rmtree(self.members)
        self.members.mkdir(mode=0o700, exist_ok=True)
        self._members_fd = os.open(self.members, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if self._is_resumable:
            self._stray_fd = os.open(self.directory / "stray", _OPEN, 0o600)
            self._journal_fd = os.open(self.directory / "journal", _OPEN, 0o600)

    def _make_directory(self, name: str) -> None:
        if name != self._made_directory:
            with contextlib.suppress(FileExistsError):  # an earlier attempt's
                os.mkdir(name, 0o700, dir_fd=self._members_fd)
            self._made_directory = name

    def _recorded_prefix(self) -> int | None:
        try:
            return int((self.directory / "prefix").read_text())
        except (FileNotFoundError, ValueError):
            os.ftruncate(self._journal_fd, 0)  # nobody knows where in the stream that was
            return None

    def _forget_prefix(self) -> None:
        (self.directory / "prefix").unlink(missing_ok=True)
        os.ftruncate(self._stray_fd, 0)
        self._prefix, self._replayed_stray = None, 0

    def _journal(self) -> Iterator[tuple[int, int, int]]:
        content = os.pread(self._journal_fd, os.fstat(self._journal_fd).st_size, 0)
        yield from _JOURNAL_ENTRY.iter_unpack(content[: len(content) - len(content) % _JOURNAL_ENTRY.size])

    def _stored_size(self, number: int) -> int | None:
        try:
            return (self.members / member_name(number)).lstat().st_size
        except FileNotFoundError:
            return None

    def _cut_to_what_can_be_read_again(self) -> int:
        """Drop what does not continue the stream without a gap; returns the usable length of `stray`.

        The order of writes is members, journal, stray: a header in `stray` whose member no journal knows would be taken for
        the next one's neighbour. A kill leaves a prefix of that order; a power cut may not, and what it leaves is cut at the
        first gap, or found by the digest. A member file that is not read again must go: its bytes would be taken for those
        that come, and no digest would see it.
        """
        stray = os.fstat(self._stray_fd).st_size
        position = usable = 0
        for at, number, size in self._journal():
            stored = self._stored_size(number)
            if not position <= at <= stray or number in self._found or stored is None or stored > size:
                stray = min(stray, max(at, position))
                break
            usable, position = usable + 1, at
            self._found.add(number)
            if stored < size:
                stray = at
                break
        os.ftruncate(self._journal_fd, usable * _JOURNAL_ENTRY.size)
        os.ftruncate(self._stray_fd, stray)
        for number, path in member_files(self.members):
            if number not in self._found:
                os.unlink(path)
        return stray


def ingested_bytes(layout: StoreLayout, digest: Digest, host: str = "") -> int:
    """Bytes on the disk that an unfinished ingest of the digest takes."""
    return disk_bytes(layout.ingest(digest, host))


def has_ingest(layout: StoreLayout, digest: Digest, host: str = "") -> bool:
    """Whether received bytes of a blob are here, whatever of them."""
    return (layout.ingest(digest, host) / "chunks").exists()


def discard_ingest(layout: StoreLayout, digest: Digest, host: str = "") -> None:
    """Remove what one host delivered of a digest; closing the ingest first is the caller's duty. Repeatable."""
    layout.drop_ingest(layout.ingest(digest, host))


def open_again(path: Path | str, directory_fd: int | None = None, mode: int = 0o600) -> int:
    """Open for writing what an earlier attempt may have made read-only already: a complete member, or an interrupted commit."""
    try:
        return os.open(path, _OPEN, mode, dir_fd=directory_fd)
    except PermissionError:  # root is never refused
        os.chmod(path, 0o600, dir_fd=directory_fd)
        return os.open(path, _OPEN, mode, dir_fd=directory_fd)


def read_plan(directory: Path) -> str | None:
    """How the tar is read that is being written there."""
    try:
        value = json.loads((directory / "plan.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, str) else None


def _is_indexed(directory: Path) -> bool:
    """Whether there is something of a tar that arrived by its index (`store/indexed.py`): its marks mean other files."""
    return (directory / "tar" / INDEX_NAME).exists()


def _read_range(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = os.pread(fd, min(_REPLAY_BYTES, end - start), start)
        if not piece:
            return
        yield piece
        start += len(piece)
