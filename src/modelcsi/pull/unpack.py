"""Writes the members of a tar layer straight from the stream into their own files; the tar itself is never kept.

A compressed file is written decompressed, as the only member. Of an image's layer only those members are recorded that are of
concern for what is shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial

from modelcsi.artifact.image_tree import concerns, reading_of
from modelcsi.artifact.layer import TAR, Codec, Compression, Layer, sniff_codec
from modelcsi.artifact.members import WHOLE_FILE, Form, Member, MemberType, Reading
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tar import Data, End, Start, TarEvent, TarParser
from modelcsi.artifact.tree import wants_member
from modelcsi.errors import UnsupportedArtifact
from modelcsi.pull.decode import decode
from modelcsi.store.durable import space_errors
from modelcsi.store.ingest import LayerIngest
from modelcsi.store.space import Reservation

_SNIFF_BYTES = 512
_EXPANSION_FLOOR_BYTES = 1 << 30
_EXPANSION_FACTOR = 200
"""Weights compress 1.3 times and text 4; a stream that grows beyond 1 GiB and 200 times its size is an attack."""


class Unpacker:
    """Reads one layer once; `members` is complete when `run` has returned.

    `reading` is how it is read, by default as the selection needs it. `has_kept_of` may be asked by another thread.
    """

    def __init__(
        self,
        layer: Layer,
        selection: Selection,
        ingest: LayerIngest,
        reservation: Reservation,
        reading: Reading | None = None,
    ) -> None:
        self.members: list[Member] = []
        self._looked = threading.Condition()
        # Under the condition's lock: bytes of the stream that were looked through; how many those were when the first member
        # was kept; whether nothing more will be.
        self._read_bytes, self._is_over = 0, False
        self._kept_from: int | None = None
        self._reading = reading or reading_of(layer, selection)
        self._layer = layer
        self._selection = selection
        self._ingest = ingest
        self._reservation = reservation
        self._where = f"layer {layer.digest}"
        self._unpacked = self._unspent = 0
        self._is_kept = self._is_plain = False
        self._hash = hashlib.sha256()
        self._wants_all = self._reading.form is Form.FILE or (selection.is_everything and not layer.is_image)

    def run(self, pieces: Iterator[bytes]) -> None:
        """Unpack the whole stream, to its last byte; once.

        Raises UnsupportedArtifact naming the member and the layer, StoreFull.
        """
        pieces = self._counted(pieces)
        if self._reading.form is Form.FILE:
            self._run_file(pieces)
            return
        head, pieces = peek(pieces)
        codec = sniff_codec(self._layer.codec, head)
        self._is_plain = codec == TAR
        if not self._is_plain:
            self._ingest.give_up_resuming()
        parser = TarParser(self._where, member_filter(self._reading))
        with space_errors(self._what):
            for data in decode(codec.compression, pieces, self._where):
                self._refuse_bomb(len(data), codec)
                for event in parser.feed(memoryview(data)):
                    self._handle(event)
                self._account()
        parser.finish()

    def close(self) -> None:
        """Nothing is unpacked any more, whether or not `run` was called: nobody waits for it."""
        with self._looked:
            self._is_over = True
            self._looked.notify_all()

    def has_kept_of(self, end: int) -> bool:
        """Whether a member was kept of the stream up to `end`; waits until that was looked through, or for `close`.

        A decoder takes its next piece before it has given all of the last one: a member that begins at the end of a piece may
        count for the one after it.
        """
        with self._looked:
            self._looked.wait_for(lambda: self._kept_from is not None or self._is_over or self._read_bytes >= end)
            return self._kept_from is not None and self._kept_from < end

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            with self._looked:
                self._read_bytes += len(piece)
                self._looked.notify_all()

    def _run_file(self, pieces: Iterator[bytes]) -> None:
        """How large the file is, its last byte tells."""
        codec, size = self._layer.codec, 0
        with space_errors(self._what):
            self._begin(whole_file(0, self._layer.mode or 0, self._layer.mtime_ns or 0))
            for data in decode(codec.compression, pieces, self._where):
                self._refuse_bomb(len(data), codec)
                self._handle(Data(memoryview(data)))
                self._account()
                size += len(data)
        self.members[0] = dataclasses.replace(self.members[0], size=size)
        self._end()

    def _what(self) -> str:
        """What is being written."""
        return f"{self.members[-1].path!r} of {self._where}" if self._is_kept else self._where

    def _account(self) -> None:
        """After each piece, not each member: a hundred thousand of a few bytes would pay more for it than for their bytes."""
        self._reservation.spend(self._unspent, self._where)
        self._unspent = 0
        self._ingest.flush()

    def _handle(self, event: TarEvent) -> None:
        if isinstance(event, Data) and self._is_kept:
            self._unspent += self._ingest.write_member(event.view)
            self._hash.update(event.view)
        elif isinstance(event, Start):
            self._begin(event.member)
        elif isinstance(event, End):
            self._end()
        else:
            self._ingest.write_stray(event.view)

    def _begin(self, member: Member) -> None:
        self.members.append(member)
        self._is_kept = member.type is MemberType.FILE and (self._wants_all or self._wants(member.path))
        if self._is_kept:
            self._note_kept()
            if self._is_plain and member.size > self._layer.size:
                raise UnsupportedArtifact(
                    f"{member.path!r} of {self._where} claims {member.size} bytes; the whole layer has {self._layer.size}"
                )
            self._hash = hashlib.sha256()
            self._ingest.begin_member(len(self.members) - 1 if member.number is None else member.number, member.size)

    def _note_kept(self) -> None:
        if self._kept_from is None:  # written here only
            with self._looked:
                self._kept_from = self._read_bytes
                self._looked.notify_all()

    def _wants(self, path: str) -> bool:
        return wants_member(self._layer, path, self._selection)

    def _end(self) -> None:
        if self._is_kept:
            member = self.members[-1]
            self._ingest.end_member(member.mode & 0o555 | 0o444, member.mtime_ns)
            self.members[-1] = member.kept(self._hash.hexdigest())
            self._is_kept = False

    def _refuse_bomb(self, size: int, codec: Codec) -> None:
        """Members that nobody wants count too: they cost no space, but hours."""
        self._unpacked += size
        if codec.compression is not Compression.NONE and is_bomb(self._unpacked, self._layer.size):
            raise UnsupportedArtifact(
                f"{self._where} unpacks to over {self._unpacked} bytes from {self._layer.size}: refused as a decompression bomb"
            )


def whole_file(size: int, mode: int, mtime_ns: int) -> Member:
    """The only member of a compressed file; where it is shown, its layers say."""
    return Member("file", MemberType.FILE, size, mode, mtime_ns, number=WHOLE_FILE)


def member_filter(reading: Reading) -> Callable[[str], bool] | None:
    """Which members the parser is to tell of."""
    return partial(concerns, reading) if reading.form is Form.IMAGE else None


def has_admitted_members(layer: Layer, head: bytes, rest: Iterator[bytes]) -> bool:
    """Whether all members of a tar may be in the layer; stops at the first that may not, or cannot be read.

    What is broken after a member that is admitted is said to have them: it is refused when it is unpacked.
    """
    parser = TarParser(layer.where)
    compression = sniff_codec(layer.codec, head).compression
    has_some = False
    try:
        for data in decode(compression, itertools.chain([head], rest), layer.where):
            for event in parser.feed(memoryview(data)):
                if isinstance(event, Start):
                    if not layer.admits(event.member.path):
                        return False
                    has_some = True
    except UnsupportedArtifact:
        return has_some
    return True


def missing_members(layer: Layer, members: tuple[Member, ...], selection: Selection) -> bool:
    """Whether a recorded tar layer lacks a file that the selection shows.

    A wanted hard link may lead, over other links, to any file of the tar: then all of them must be there. In an image it may
    lead to one of another layer, so that a link is left out with its file.
    """
    if layer.codec.is_packed_file:
        return not all(member.sha256 for member in members)
    wanted = [member for member in members if wants_member(layer, member.path, selection)]
    has_links = not layer.is_image and any(member.type is MemberType.HARDLINK for member in wanted)
    needed = members if has_links else wanted
    return any(member.type is MemberType.FILE and not member.sha256 for member in needed)


def is_bomb(unpacked_bytes: int, layer_bytes: int) -> bool:
    """Whether a compressed layer has grown beyond what any honest one does."""
    return unpacked_bytes > max(_EXPANSION_FLOOR_BYTES, _EXPANSION_FACTOR * layer_bytes)


def peek(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of the stream, and the stream with them."""
    first: list[bytes] = []
    while sum(map(len, first)) < _SNIFF_BYTES and (piece := next(pieces, b"")):
        first.append(piece)

    def again() -> Iterator[bytes]:
        yield from first
        yield from pieces

    return b"".join(first)[:_SNIFF_BYTES], again()
