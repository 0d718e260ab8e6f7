"""The parser against tars by the standard library, real sequences of headers, and everything hostile."""

from __future__ import annotations

import io
import tarfile
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.tar import Data, Start, TarParser
from modelcsi.errors import UnsupportedArtifact
from tests.unit.artifact.builders import WHERE, feed, files_tar, members_of, tar_info, tar_of

FORMATS = pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
SECOND = 1_700_000_000 * 1_000_000_000


def header(name: str, type: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = "") -> bytes:
    """One header block as GNU tar writes it."""
    info = tar_info(name, content, type=type, target=target)
    return info.tobuf(tarfile.GNU_FORMAT)[-512:]


def padded(content: bytes) -> bytes:
    """Content, filled up to whole blocks."""
    return content + bytes(-len(content) % 512)


def extended(type: bytes, body: bytes) -> bytes:
    """An extended header with its body."""
    return header("ext", type, body) + padded(body)


def pax(**records: str) -> bytes:
    """A pax header for the next member."""
    return extended(b"x", b"".join(record(key, value.encode()) for key, value in records.items()))


def record(key: str, value: bytes) -> bytes:
    """One pax record."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return str(length).encode() + rest


END = bytes(1024)


@FORMATS
def test_members_of_every_kind(format: int) -> None:
    """Files, directories, symbolic and hard links, in all formats of the standard library."""
    content = tar_of(
        (tar_info("d", type=tarfile.DIRTYPE), b""),
        (tar_info("d/file", b"x" * 600), b"x" * 600),
        (tar_info("d/empty"), b""),
        (tar_info("d/link", type=tarfile.SYMTYPE, target="../d/file"), b""),
        (tar_info("d/hard", type=tarfile.LNKTYPE, target="./d/file"), b""),
        format=format,
    )

    assert [
        (Member("d", MemberType.DIRECTORY, 0, 0o644, SECOND), b""),
        (Member("d/file", MemberType.FILE, 600, 0o644, SECOND), b"x" * 600),
        (Member("d/empty", MemberType.FILE, 0, 0o644, SECOND), b""),
        (Member("d/link", MemberType.SYMLINK, 0, 0o644, SECOND, "../d/file"), b""),
        (Member("d/hard", MemberType.HARDLINK, 0, 0o644, SECOND, "d/file"), b""),
    ] == feed(content)[0]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(format: int) -> None:
    """Names and targets beyond the header's fields, in GNU's and in POSIX' way."""
    name, target = "/".join(["é" * 60] * 5), "t" * 150
    content = tar_of(
        (tar_info(name, b"x"), b"x"), (tar_info("l", type=tarfile.SYMTYPE, target=target), b""), format=format
    )

    assert [(name, ""), ("l", target)] == [(member.path, member.target) for member in members_of(content)]


def test_prefix_of_ustar() -> None:
    """A path of up to 256 bytes in a plain header."""
    name = "/".join(["d" * 70] * 3)

    assert [name] == [member.path for member in members_of(files_tar({name: b""}, tarfile.USTAR_FORMAT))]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sizes_beyond_octal(format: int) -> None:
    """A member of 100 GiB, which octal cannot say; its data are slices of what was fed."""
    info = tar_info("big")
    info.size = 100 << 30
    parser = TarParser(WHERE)
    started = [event for event in parser.feed(memoryview(info.tobuf(format))) if isinstance(event, Start)]
    piece = memoryview(bytes(4096))
    (event,) = parser.feed(piece)

    assert [100 << 30] == [event.member.size for event in started]
    assert isinstance(event, Data)
    assert event.view.obj is piece.obj


def test_pax_time_has_nanoseconds() -> None:
    """mtime of a pax header beats that of the plain one; a global header's stands for all members."""
    content = (
        extended(b"g", record("mtime", b"2.5") + record("comment", b"by git archive"))
        + header("a")
        + pax(mtime="1.000000001")
        + header("b")
        + END
    )

    assert [("a", 2_500_000_000), ("b", 1_000_000_001)] == [(m.path, m.mtime_ns) for m in members_of(content)]


def test_pax_beats_gnu_long_name() -> None:
    """Where an archive has both, POSIX' header decides, in either order."""
    long_name = extended(b"L", b"gnu\0")

    assert ["pax", "pax", "gnu"] == [
        member.path
        for member in members_of(
            long_name
            + pax(path="pax")
            + header("x")
            + pax(path="pax")
            + long_name
            + header("x")
            + long_name
            + header("x")
        )
    ]


@pytest.mark.parametrize("name", [".", "./", "./."])
def test_root_directory_is_no_member(name: str) -> None:
    """`tar -C directory .` begins with it."""
    content = header(name, tarfile.DIRTYPE) + header("./a") + END

    assert ["a"] == [member.path for member in members_of(content)]


def test_trailing_slash_is_a_directory() -> None:
    """v7 tars have no other sign; with content it is refused."""
    assert [MemberType.DIRECTORY] == [member.type for member in members_of(header("d/", tarfile.AREGTYPE) + END)]
    with pytest.raises(UnsupportedArtifact, match="directory with content"):
        members_of(header("d/", tarfile.REGTYPE, b"x") + padded(b"x"))


@pytest.mark.parametrize(
    "trailer", [b"", bytes(512), END, bytes(10240), END + b"anything", bytes(512) + header("ignored"), bytes(700)]
)
def test_end(trailer: bytes) -> None:
    """Two zero blocks, one as for GNU tar, padding to any length, or nothing: what follows is Other."""
    content = header("a", content=b"x") + padded(b"x") + trailer
    members, again = feed(content)

    assert ["a"] == [member.path for member, _ in members]
    assert content == again


def test_empty_tar_has_no_members() -> None:
    """1024 zero bytes, or none."""
    assert [[], []] == [members_of(END), members_of(b"")]


WHOLE = pax(path="é/x") + header("x", content=b"y" * 700) + padded(b"y" * 700)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 530, 1023, 1024, 1500, 1536, 1600, 2235, 2236, 2237, 2559])
def test_truncated_tar_is_refused(length: int) -> None:
    """Inside a header, an extended header, between it and its member, inside data and padding."""
    with pytest.raises(UnsupportedArtifact, match="ends in the middle"):
        feed(WHOLE[:length])


@pytest.mark.parametrize(
    ("type", "what"),
    [
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"V", "volume label"),
        (b"7", "unknown type b'7'"),
        (b"X", "unknown type b'X'"),
        (b"\xff", "unknown type"),
    ],
)
def test_other_types_are_refused(type: bytes, what: str) -> None:
    """Devices, FIFOs, sparse files and everything unknown; the message names member and layer."""
    with pytest.raises(UnsupportedArtifact, match=rf"'some/thing' in {WHERE} is .*{what}"):
        members_of(header("some/thing", type) + END)


@pytest.mark.parametrize("key", ["GNU.sparse.major", "GNU.sparse.size", "GNU.sparse.name"])
@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_sparse_files_of_pax_are_refused(key: str, kind: bytes) -> None:
    """An entry of a few bytes could claim an exbibyte."""
    with pytest.raises(UnsupportedArtifact, match="sparse"):
        members_of(extended(kind, record(key, b"1")) + header("x") + END)


@pytest.mark.parametrize(
    "content",
    [
        header("../x"),
        header("/x"),
        header("a/../../x"),
        header("..", tarfile.DIRTYPE),
        header("/", tarfile.DIRTYPE),
        header("", tarfile.DIRTYPE),
        header(""),
        header("."),
        header("a\nb"),
        pax(path="../x") + header("x"),
        pax(path="a\0b") + header("x"),
        extended(b"L", b"../x\0") + header("x"),
        header("a", tarfile.SYMTYPE, target="/etc/passwd"),
        header("a", tarfile.SYMTYPE, target="../x"),
        header("d/a", tarfile.SYMTYPE, target="../../d/x"),
        header("a", tarfile.SYMTYPE),
        pax(linkpath="../x") + header("a", tarfile.SYMTYPE, target="x"),
        extended(b"K", b"/x\0") + header("a", tarfile.SYMTYPE, target="x"),
        header("d/a", tarfile.LNKTYPE, target="../x"),
        header("a", tarfile.LNKTYPE, target="/etc/passwd"),
        header("a", tarfile.LNKTYPE),
    ],
)
def test_unsafe_names_are_refused(content: bytes) -> None:
    """Paths and targets that are absolute, leave, are empty or unprintable, wherever they are written."""
    with pytest.raises(UnsupportedArtifact, match=rf"unsafe (path|link) .* in {WHERE}"):
        members_of(content + END)


def test_name_that_is_not_utf8_is_refused() -> None:
    """A pod could not name it."""
    info = tarfile.TarInfo("caf\udce9")
    with pytest.raises(UnsupportedArtifact, match="not UTF-8"):
        members_of(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))


@pytest.mark.parametrize("type", [b"x", b"g", b"L", b"K"])
def test_large_extended_headers_are_refused_unread(type: bytes) -> None:
    """512 MB of long name cost other readers a gigabyte of memory."""
    info = tar_info("x", type=type)
    info.size = 512 << 20
    with pytest.raises(UnsupportedArtifact, match="extended headers"):
        feed(info.tobuf(tarfile.GNU_FORMAT))


def test_many_extended_headers_are_refused() -> None:
    """Four may precede a member, not five."""
    assert ["n"] == [member.path for member in members_of(extended(b"L", b"n") * 4 + header("x"))]
    with pytest.raises(UnsupportedArtifact, match="extended headers"):
        members_of(extended(b"L", b"n") * 5 + header("x"))


@pytest.mark.parametrize("key", ["path", "linkpath", "size"])
def test_global_names_and_sizes_are_refused(key: str) -> None:
    """One name for all members makes no sense, and readers disagree about it."""
    with pytest.raises(UnsupportedArtifact, match="all members"):
        members_of(extended(b"g", record(key, b"1")) + header("x"))


def test_extended_header_without_a_member_is_refused() -> None:
    """It would silently change nothing."""
    with pytest.raises(UnsupportedArtifact, match="no member"):
        members_of(pax(path="x") + END)


def test_negative_size_is_refused() -> None:
    """It once sent Python's tarfile into an endless loop (CVE-2025-8194)."""
    with pytest.raises(UnsupportedArtifact, match="impossible size"):
        members_of(pax(size="-512") + header("x"))


def feed_often(parser: TarParser, block: memoryview, times: int) -> None:
    """Feed the same bytes again and again."""
    for _ in range(times):
        deque(parser.feed(block), maxlen=0)


def test_members_are_counted() -> None:
    """A million entries fit into five compressed megabytes."""
    block = memoryview(header("x") * 1000)
    parser = TarParser(WHERE)
    with pytest.raises(UnsupportedArtifact, match="over 100000 members"):
        feed_often(parser, block, 101)


def test_long_names_are_counted() -> None:
    """A hundred thousand names of four kilobytes would fill the memory."""
    block = memoryview(extended(b"L", "/".join(["x" * 250] * 16).encode()) + header("x"))
    parser = TarParser(WHERE)
    with pytest.raises(UnsupportedArtifact, match="too long to be kept"):
        feed_often(parser, block, 5000)


def test_links_with_a_size_have_no_data() -> None:
    """Some writers give a hard link its file's size; as in Go and Python, no data follow."""
    content = header("d", tarfile.DIRTYPE, b"x" * 9) + header("h", tarfile.LNKTYPE, b"x" * 9, "d/f") + header("f") + END

    assert [("d", 0), ("h", 0), ("f", 0)] == [(member.path, member.size) for member in members_of(content)]


SAMPLE = tar_of(
    (tar_info("d", type=tarfile.DIRTYPE), b""),
    (tar_info("d/" + "n" * 120, b"x" * 1000), b"x" * 1000),
    (tar_info("é.txt", b"y" * 512), b"y" * 512),
    (tar_info("d/l", type=tarfile.SYMTYPE, target="../é.txt"), b""),
    (tar_info("h", type=tarfile.LNKTYPE, target="é.txt"), b""),
    (tar_info("empty"), b""),
    format=tarfile.PAX_FORMAT,
)


@given(st.lists(st.integers(0, len(SAMPLE)), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    """However the stream is cut: the same members with the same data, and the bytes come back."""
    assert (feed(SAMPLE)[0], SAMPLE) == feed(SAMPLE, cuts)


def test_byte_by_byte() -> None:
    """The smallest pieces there are."""
    assert (feed(SAMPLE)[0], SAMPLE) == feed(SAMPLE, range(len(SAMPLE)))


NAMES = st.text(alphabet=st.sampled_from("ab./é"), min_size=1, max_size=12)
TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


def is_inside(member: Member) -> bool:
    """Whether a member's path is relative and in normal form."""
    return not {"", ".", ".."} & set(member.path.split("/"))


@given(st.lists(st.tuples(NAMES, TYPES, NAMES, st.binary(max_size=600)), max_size=5), st.sampled_from([0, 1, 2]))
@settings(max_examples=150)
def test_any_tar_is_read_or_refused(entries: list[tuple[str, bytes, str, bytes]], format: int) -> None:
    """Whatever names, types and targets: refused, or every member inside and every byte there."""
    members = [
        (tar_info(name, content if type == tarfile.REGTYPE else b"", type=type, target=target), content)
        for name, type, target, content in entries
    ]
    content = tar_of(*members, format=format)
    try:
        found, again = feed(content)
    except UnsupportedArtifact:
        return

    assert content == again
    assert all(is_inside(member) for member, _ in found)


@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=400)
def test_mutated_tar_is_read_or_refused(changes: list[tuple[int, int]], with_checksums: bool) -> None:
    """Changed bytes, with right checksums or without, end in members inside or in a refusal; never in another exception."""
    content = bytearray(SAMPLE)
    for position, value in changes:
        content[position] = value
    if with_checksums:
        for start in range(0, len(content), 512):
            if content[start + 257 : start + 262] == b"ustar":
                content[start + 148 : start + 156] = b" " * 8
                content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    try:
        found, again = feed(bytes(content))
    except UnsupportedArtifact:
        return

    assert content == again
    assert all(is_inside(member) for member, _ in found)


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """What is no tar is refused as such."""
    try:
        _, again = feed(content)
    except UnsupportedArtifact:
        return

    assert content == again


@pytest.mark.parametrize(
    "make", [lambda: b"not a tar" * 100, lambda: b"PK\x03\x04" + bytes(600), lambda: b"\x1f\x8b" * 400]
)
def test_other_formats_are_refused(make: Callable[[], bytes]) -> None:
    """The message says what is wrong with which layer."""
    with pytest.raises(UnsupportedArtifact, match=f"{WHERE} is not a tar"):
        feed(make())


def test_agrees_with_the_standard_library() -> None:
    """Names, types, sizes and contents are those that tarfile reads."""
    with tarfile.open(fileobj=io.BytesIO(SAMPLE)) as archive:
        expected = [(info.name, info.size if info.isreg() else 0, info.linkname) for info in archive]

    assert expected == [(member.path, member.size, member.target) for member in members_of(SAMPLE)]
