"""An uncompressed tar being written in any order, since its index is known: its members into files of their own.

`tar/members/` has the members (`layout.member_name`); `tar/stray`, one behind the other, all bytes that belong to no member which
is kept; the marks in `chunks` are of chunks of the blob; `tar/index.json` says what is where, so that an attempt that was
killed goes on. All of it is only what the registry said of parts of the blob: the digest, and a parser that reads the whole
stream, decide.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from modelcsi.artifact.tarindex import NO_MEMBER, Split, TarIndex
from modelcsi.oci.digest import Digest
from modelcsi.store.chunks import CHUNK_BYTES, ChunkMap
from modelcsi.store.durable import preallocate, replace_file, space_errors, write_all, write_back_behind
from modelcsi.store.ingest import INDEX_NAME, open_again, read_plan
from modelcsi.store.layout import StoreLayout, member_name

_OPEN_FILES = 64
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class IndexedIngest:
    """Its methods may be called by any thread, each byte being written by one.

    `plan` says how the tar is read, and so which members are `kept`: what an attempt with another plan left is dropped.
    """

    def __init__(
        self, layout: StoreLayout, digest: Digest, plan: str, host: str, content: tuple[int, TarIndex, Sequence[int]]
    ) -> None:
        size, self.index, kept = content
        self.digest = digest
        self.size = size
        self.kept = frozenset(kept)
        self._blob_directory = layout.ingest(digest, host)
        self.directory = self._blob_directory / "tar"
        self.members = self.directory / "members"
        self._split = Split(self.index, kept)
        self._lock = threading.Lock()
        # Under the lock: open members, least recently used first, with how many use each.
        self._files: OrderedDict[int, tuple[int, int]] = OrderedDict()
        with space_errors(str(digest)):
            self._prepare(layout, plan)
            self._stray_fd = os.open(self.directory / "stray", _OPEN, 0o600)
            try:
                self.chunks = ChunkMap(self._blob_directory / "chunks", size)
            except BaseException:
                os.close(self._stray_fd)
                raise

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """What is there and what is missing, in order (`ChunkMap.runs`)."""
        return self.chunks.runs()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The stored bytes of a present run, in pieces of at most 1 MiB."""
        while start < end:
            size = min(CHUNK_BYTES, end - start)
            yield b"".join(
                self._read_part(part.number, part.offset, part.size) for part in self._split.parts(start, size)
            )
            start += size

    def put(self, offset: int, data: bytes) -> None:
        """Store bytes of the blob. Raises StoreFull."""
        view, taken = memoryview(data), 0
        with space_errors(str(self.digest)):
            for part in self._split.parts(offset, len(data)):
                piece = view[taken : taken + part.size]
                taken += part.size
                with self._opened(part.number) as fd:
                    write_all(fd, piece, part.offset)
                    write_back_behind(fd, part.offset, part.offset + part.size)

    def mark(self, chunk: int) -> None:
        """All bytes of a chunk were `put`."""
        self.chunks.mark(chunk)

    def end_member(self, number: int) -> None:
        """All bytes of a kept member are here: give it the mode and the time that its hard links will share."""
        member = self.index.members[number]
        with space_errors(str(self.digest)), self._opened(number) as fd:
            os.fchmod(fd, member.mode & 0o555 | 0o444)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))

    def finish(self) -> None:
        """All members are complete: nothing is held back here, and the commit makes it last."""

    def close(self) -> None:
        """Keep what is there for a later attempt; repeatable."""
        if self._stray_fd < 0:
            return
        with self._lock:
            for fd, _ in self._files.values():
                os.close(fd)
            self._files.clear()
        os.close(self._stray_fd)
        self._stray_fd = -1
        self.chunks.close()

    def _prepare(self, layout: StoreLayout, plan: str) -> None:
        is_known = read_plan(self.directory) == plan and _stored_index(self.directory / INDEX_NAME) == self.index
        if not is_known or not self.members.exists():  # a commit that was killed took the members away
            layout.drop_ingest(
                self._blob_directory
            )  # of an attempt to bring the blob in another form, or by another plan
            self.members.mkdir(mode=0o700, parents=True)
            replace_file(self.directory / INDEX_NAME, self.index.to_json().encode())
            (self.directory / "plan.json").write_text(json.dumps(plan))

    def _read_part(self, number: int, offset: int, size: int) -> bytes:
        with self._opened(number) as fd:
            data = os.pread(fd, size, offset)
        return data.ljust(size, b"\0")  # a mark without its bytes: a power cut. The digest will tell

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        if number == NO_MEMBER:
            yield self._stray_fd
        elif self.index.members[number].size < CHUNK_BYTES:  # comes in one piece, or in two
            fd = self._open_member(number)
            try:
                yield fd
            finally:
                os.close(fd)
        else:
            with self._kept_open(number) as fd:
                yield fd

    @contextlib.contextmanager
    def _kept_open(self, number: int) -> Iterator[int]:
        with self._lock:
            fd, users = self._files.pop(number, (-1, 0))
            if fd < 0:
                fd = self._open_large(number)
            self._files[number] = (fd, users + 1)
        try:
            yield fd
        finally:
            with self._lock:
                fd, users = self._files[number]
                self._files[number] = (fd, users - 1)
                if len(self._files) > _OPEN_FILES:
                    self._close_idle()

    def _close_idle(self) -> None:
        for number in [number for number, (_, users) in self._files.items() if not users][:-_OPEN_FILES]:
            os.close(self._files.pop(number)[0])

    def _open_member(self, number: int) -> int:
        path = f"{self.members}/{member_name(number)}"
        try:
            return open_again(path)
        except FileNotFoundError:  # the directory of its hundred
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            return open_again(path)

    def _open_large(self, number: int) -> int:
        fd = self._open_member(number)
        try:
            if not os.fstat(fd).st_blocks:
                preallocate(fd, self.index.members[number].size)
        except BaseException:
            os.close(fd)
            raise
        return fd


def stored_index(layout: StoreLayout, digest: Digest, plan: str, host: str) -> TarIndex | None:
    """The index by which an earlier attempt of the same plan wrote a tar."""
    directory = layout.ingest(digest, host) / "tar"
    return _stored_index(directory / INDEX_NAME) if read_plan(directory) == plan else None


def _stored_index(path: os.PathLike[str]) -> TarIndex | None:
    try:
        with open(path, "rb") as file:
            return TarIndex.from_json(file.read())
    except (FileNotFoundError, ValueError):
        return None
