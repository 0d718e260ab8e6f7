"""The parser against tars by the standard library, and against sequences of headers that it would not write."""

from __future__ import annotations

import io
import tarfile
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.tar import Data, Start, TarParser
from modelcsi.errors import UnsupportedArtifact
from tests.unit.artifact.builders import (
    END,
    SAMPLE,
    WHERE,
    extended,
    feed,
    files_tar,
    header,
    members_of,
    padded,
    pax,
    record,
    tar_info,
    tar_of,
)

FORMATS = pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
SECOND = 1_700_000_000 * 1_000_000_000


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
def test_sizes_beyond_octal(format: Literal[1, 2]) -> None:
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


def test_links_with_a_size_have_no_data() -> None:
    """Some writers give a hard link its file's size; as in Go and Python, no data follow."""
    content = header("d", tarfile.DIRTYPE, b"x" * 9) + header("h", tarfile.LNKTYPE, b"x" * 9, "d/f") + header("f") + END

    assert [("d", 0), ("h", 0), ("f", 0)] == [(member.path, member.size) for member in members_of(content)]


@given(st.lists(st.integers(0, len(SAMPLE)), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    """However the stream is cut: the same members with the same data, and the bytes come back."""
    assert (feed(SAMPLE)[0], SAMPLE) == feed(SAMPLE, cuts)


def test_byte_by_byte() -> None:
    """The smallest pieces there are."""
    assert (feed(SAMPLE)[0], SAMPLE) == feed(SAMPLE, range(len(SAMPLE)))


def test_agrees_with_the_standard_library() -> None:
    """Names, types, sizes and contents are those that tarfile reads."""
    with tarfile.open(fileobj=io.BytesIO(SAMPLE)) as archive:
        expected = [(info.name, info.size if info.isreg() else 0, info.linkname) for info in archive]

    assert expected == [(member.path, member.size, member.target) for member in members_of(SAMPLE)]
