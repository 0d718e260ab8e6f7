"""Archives made to hurt: each is refused, in time and in little memory, and never by another exception."""

from __future__ import annotations

import tarfile
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.members import Member
from modelcsi.artifact.tar import TarParser
from modelcsi.errors import UnsupportedArtifact
from tests.unit.artifact.builders import (
    END,
    SAMPLE,
    WHERE,
    extended,
    feed,
    header,
    members_of,
    pax,
    record,
    tar_info,
    tar_of,
)


@pytest.mark.parametrize(
    ("type", "what"),
    [
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"V", "volume label"),
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
