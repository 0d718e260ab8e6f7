"""A tar reader that is pushed: bytes in, events out, at any split of the stream.

Strict on purpose, and own code on purpose: Python's `tarfile` cannot be fed, follows hostile numbers, keeps extended headers
of any size in memory, and with `filter="data"` still let archives out of their directory in 8 of 36 hostile cases on Python
3.11.7. Only regular files, directories, symbolic and hard links pass; everything else is refused. Layers of images are read
by the same rules as far as their members are of any concern.

Nothing is written and no file name reaches a system call here. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from modelcsi.artifact.members import MAX_MEMBERS, Member, MemberType
from modelcsi.artifact.paths import check_link_target, lexical_path, normalise_path, shown
from modelcsi.artifact.tarheader import (
    BLOCK,
    ZERO_BLOCK,
    Header,
    decode_name,
    parse_header,
    parse_pax,
    pax_mtime_ns,
    pax_number,
)
from modelcsi.errors import UnsupportedArtifact

_MAX_EXTENDED_BYTES = 64 << 10
_MAX_EXTENDED_HEADERS = 4
"""For one member."""
_MAX_NAME_CHARACTERS = 16 << 20
"""Of all names of one layer: they stay in memory, and a hundred thousand long ones would fill it."""

_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_EXTENDED = frozenset({_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL})
_TYPES = {
    b"0": MemberType.FILE,
    b"\0": MemberType.FILE,
    b"7": MemberType.FILE,  # contiguous: POSIX has it read as any other
    b"1": MemberType.HARDLINK,
    b"2": MemberType.SYMLINK,
    b"5": MemberType.DIRECTORY,
}
_SPECIAL = frozenset({b"3", b"4", b"6"})
_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"D": "an incremental dump",
    b"M": "a part of a multi-volume archive",
    b"V": "a volume label",
}
_WITHOUT_DATA = frozenset(b"123456"[index : index + 1] for index in range(6))
_OLD_SPARSE = b"S"
_SPARSE_FLAGS = (482, 504)
"""Where an old GNU sparse header, and each block that goes on with it, says that another one follows."""
_MAX_LINK_BYTES = 4095
_NOTHING = frozenset({"", "."})


@dataclass(frozen=True, slots=True)
class Start:
    """A member begins; its path and target are normalised and checked, its sha256 is not known."""

    member: Member


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the current member: a slice of what was fed."""

    view: memoryview


@dataclass(frozen=True, slots=True)
class End:
    """The current member is complete; comes for members without data too."""


@dataclass(frozen=True, slots=True)
class Other:
    """Bytes that are no member's data: headers, padding, trailer."""

    view: memoryview


TarEvent = Start | Data | End | Other
_END = End()


class TarParser:
    """Reads one tar. `where` ("layer sha256:…") stands in messages.

    `concerns` is given for the layer of an image: it tells by the path which members there are for the reader. The others
    may be anything, and pass as `Other`. Of those that there are, devices and the like pass as SPECIAL, and symbolic links
    lead anywhere: whether they are shown in the end, their layer alone does not tell.

    The events of a stream do not depend on how it was cut, but for the cuts of `Data` and `Other`; their views, in order,
    are the stream. After an exception the parser is of no use.
    """

    def __init__(self, where: str, concerns: Callable[[str], bool] | None = None) -> None:
        self._where = where
        self._concerns = concerns
        self._sparse_flag = (
            0  # where the block that comes next, of a sparse member that is of no concern, says if it is the last
        )
        self._collected = bytearray()  # of the header block or extended header that is under way, cut by the last feed
        self._needed = BLOCK  # size of that whole
        self._extended: bytes | None = None  # the type of the extended header whose body is collected
        self._data_left = 0
        self._skip = 0  # padding after data or an extended header, or a member that is of no concern
        self._skip_after = 0  # the same, once the blocks of a sparse header have passed
        self._is_over = False
        self._overrides: dict[bytes, bytes] = {}  # pax keys for the next member; GNU's long names are entered as such
        self._global_mtime: bytes = b""
        self._extended_headers = 0
        self._members = 0
        self._number = 0  # of the next member, whether it is of concern or not
        self._name_characters = 0

    def feed(self, data: memoryview) -> Iterator[TarEvent]:
        """The events of the next bytes; take them all before the next feed. Raises UnsupportedArtifact.

        The work does not depend on the size of members: their data is passed on in slices, valid as long as `data` is.
        """
        position = told = 0
        end = len(data)
        while position < end:
            if self._data_left:
                if told < position:
                    yield Other(data[told:position])
                told = min(end, position + self._data_left)
                self._data_left -= told - position
                yield Data(data[position:told])
                position = told
                if not self._data_left:
                    yield _END
            elif self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
            elif self._is_over:
                position = end
            else:
                step = min(self._needed - len(self._collected), end - position)
                whole = self._collect(data[position : position + step])
                position += step
                member = None if whole is None else self._take(whole)
                if member is not None:
                    yield Other(data[told:position])
                    told = position
                    yield Start(member)
                    if not self._data_left:
                        yield _END
        if told < end:
            yield Other(data[told:])

    @property
    def is_over(self) -> bool:
        """Whether the end of the archive was seen: what follows is not looked at."""
        return self._is_over

    @property
    def passable(self) -> int:
        """How many of the bytes that come next are of no concern to the parser: data and padding, before the next header."""
        return self._data_left + self._skip

    def pass_over(self, size: int) -> None:
        """Take so many bytes, at most `passable`, as fed, without their events: the next header comes nearer."""
        data = min(size, self._data_left)
        self._data_left -= data
        self._skip -= size - data

    def finish(self) -> None:
        """The stream is over; a tar may end at any member, the two zero blocks are not insisted on.

        Raises UnsupportedArtifact when it ends within a member or a header.
        """
        is_within = self._data_left or self._skip or self._collected or self._sparse_flag
        if is_within or self._extended is not None or self._overrides:
            raise UnsupportedArtifact(f"{self._where} ends in the middle of a member")

    def _collect(self, piece: memoryview) -> bytes | None:
        if not self._collected and len(piece) == self._needed:
            return bytes(piece)
        self._collected += piece
        if len(self._collected) < self._needed:
            return None
        whole = bytes(self._collected)
        self._collected.clear()
        return whole

    def _take(self, whole: bytes) -> Member | None:
        """The member that begins with this header; None when the whole was something else."""
        if self._extended is not None:
            self._take_extended(self._extended, whole)
            self._extended, self._needed = None, BLOCK
            return None
        if self._sparse_flag:
            self._sparse_flag = _SPARSE_FLAGS[1] if whole[self._sparse_flag] else 0
            if not self._sparse_flag:
                self._skip, self._skip_after = self._skip_after, 0
            return None
        if whole == ZERO_BLOCK:
            # GNU tar stops at a lone zero block too, and what follows the end is not looked at.
            self._is_over = True
            if self._overrides:
                raise UnsupportedArtifact(f"{self._where} ends with an extended header of no member")
            return None
        header = parse_header(whole, self._where)
        if header.type in _EXTENDED:
            self._expect_extended(header)
            return None
        if self._concerns is not None and not self._is_of_concern(header, self._concerns):
            self._pass_over(header, is_continued=header.type == _OLD_SPARSE and bool(whole[_SPARSE_FLAGS[0]]))
            return None
        return self._begin(header)

    def _is_of_concern(self, header: Header, concerns: Callable[[str], bool]) -> bool:
        """Names that are absolute, too long or no text are looked at too: what is shown must not have them."""
        name = (self._overrides.get(b"path") or header.name).decode(errors="surrogateescape")
        return concerns(lexical_path(name, self._where))

    def _pass_over(self, header: Header, *, is_continued: bool) -> None:
        """What follows the header is not looked at."""
        overrides = self._overrides
        self._overrides = {}
        self._extended_headers = 0
        self._number += 1
        size = pax_number(overrides[b"size"], self._where) if overrides.get(b"size") else header.size
        size = 0 if header.type in _WITHOUT_DATA else size
        if is_continued:
            self._sparse_flag, self._skip_after = _SPARSE_FLAGS[1], size + -size % BLOCK
        else:
            self._skip = size + -size % BLOCK

    def _expect_extended(self, header: Header) -> None:
        self._extended_headers += 1
        if header.size > _MAX_EXTENDED_BYTES or self._extended_headers > _MAX_EXTENDED_HEADERS:
            raise UnsupportedArtifact(f"{self._where} has too large or too many extended headers for one member")
        if header.size:
            self._extended, self._needed = header.type, header.size
            self._skip = 0

    def _take_extended(self, kind: bytes, body: bytes) -> None:
        self._skip = -len(body) % BLOCK
        if kind == _LONG_NAME:
            self._overrides.setdefault(b"path", body.partition(b"\0")[0])
        elif kind == _LONG_LINK:
            self._overrides.setdefault(b"linkpath", body.partition(b"\0")[0])
        else:
            records = parse_pax(body, self._where)
            if _is_sparse(records) and (self._concerns is None or kind != _PAX):
                raise UnsupportedArtifact(f"{self._where} has a sparse file")
            if kind == _PAX:
                self._overrides |= records
            elif records.keys() & {b"path", b"linkpath", b"size"}:
                raise UnsupportedArtifact(f"{self._where} has a pax header that gives all members one name or size")
            else:
                self._global_mtime = records.get(b"mtime", self._global_mtime)

    def _begin(self, header: Header) -> Member | None:
        """The member of a header and the extended ones before it; None for the root directory (`tar -C directory .`)."""
        overrides, where = self._overrides, self._where
        self._overrides = {}
        self._extended_headers = 0
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise UnsupportedArtifact(f"{where} has over {MAX_MEMBERS} members")
        name = decode_name(overrides.get(b"path") or header.name, where)
        if overrides and _is_sparse(overrides):
            raise UnsupportedArtifact(f"{shown(name)} in {where} is a sparse file")
        kind = _TYPES.get(header.type)
        if kind is None and self._concerns is not None and header.type in _SPECIAL:
            kind = MemberType.SPECIAL
        if kind is None:
            what = _REFUSED.get(header.type, f"a member of the unknown type {header.type!r}")
            raise UnsupportedArtifact(f"{shown(name)} in {where} is {what}")
        size = pax_number(overrides[b"size"], where) if overrides.get(b"size") else header.size
        if kind is MemberType.FILE and name.endswith("/"):
            if size:
                raise UnsupportedArtifact(f"{shown(name)} in {where} is a directory with content")
            kind = MemberType.DIRECTORY  # v7 tars have no other sign for it
        if kind is MemberType.DIRECTORY and name.startswith(".") and _NOTHING.issuperset(name.split("/")):
            return None
        if kind is MemberType.DIRECTORY and self._concerns is not None and not name.strip("/"):
            return None  # kaniko has an entry for the image's root
        path = normalise_path(name, where)
        target = ""
        if kind is MemberType.SYMLINK or kind is MemberType.HARDLINK:  # a set would call Python to hash each
            target = self._link_target(path, kind, overrides.get(b"linkpath") or header.link_name)
        self._name_characters += len(path) + len(target)
        if self._name_characters > _MAX_NAME_CHARACTERS:
            raise UnsupportedArtifact(f"the names of the members of {where} are too long to be kept")
        if kind is not MemberType.FILE:
            # As in Go and Python: only files have data, whatever a link's size says.
            size = 0
        self._data_left, self._skip = size, -size % BLOCK
        mtime = overrides.get(b"mtime") or self._global_mtime
        mtime_ns = pax_mtime_ns(mtime, where) if mtime else header.mtime_ns
        number = None if self._concerns is None else self._number
        self._number += 1
        return Member(path, kind, size, header.mode, mtime_ns, target, number=number)

    def _link_target(self, path: str, kind: MemberType, raw: bytes) -> str:
        if self._concerns is not None and kind is MemberType.SYMLINK:
            return raw[:_MAX_LINK_BYTES].decode(errors="surrogateescape")
        target = decode_name(raw, self._where)
        if kind is MemberType.HARDLINK:
            if self._concerns is not None:
                target = target.lstrip("/")  # kaniko writes where the file was
            return normalise_path(target, f"the target of the hard link {shown(path)} in {self._where}")
        check_link_target(path, target, self._where)
        return target


def _is_sparse(records: Mapping[bytes, bytes]) -> bool:
    return any(key.startswith(b"GNU.sparse.") for key in records)
