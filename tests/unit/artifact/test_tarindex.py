from __future__ import annotations

import io
import itertools
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.tarindex import NO_MEMBER, Split, TarIndex, TarIndexer
from modelcsi.errors import UnsupportedArtifact
from tests.unit.artifact.builders import WHERE, extended, files_tar, header, members_of, padded, tar_info, tar_of

_NAMES = st.text(st.sampled_from("abcdefgh-é"), min_size=1, max_size=40)
_LONG = st.integers(90, 300).map(lambda size: "/".join(["n" * 50] * (size // 51) + ["l" * (size % 51 + 1)]))
_FORMATS = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def index_of(content: bytes, step: int = 512) -> tuple[TarIndex, int]:
    """The index, read in steps of so many bytes; and how many were needed."""
    indexer, needed = TarIndexer(WHERE, len(content)), 0
    while not indexer.is_done:
        data = content[indexer.position : indexer.position + step]
        needed += len(data)
        indexer.feed(data)
    return indexer.index(), needed


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """Files, directories and links with short and long names, in the formats that there are."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    files: list[str] = []
    for number in range(draw(st.integers(0, 12))):
        name = f"{number}/{draw(st.one_of(_NAMES, _LONG))}"
        kind = draw(st.sampled_from(["file", "file", "file", "directory", "link", "hard"]))
        if kind == "file":
            content = bytes([number]) * draw(st.sampled_from([0, 1, 511, 512, 513, 3000, 70_000]))
            members.append((tar_info(name, content), content))
            files.append(name)
        elif kind == "directory":
            members.append((tar_info(name, type=tarfile.DIRTYPE), b""))
        elif kind == "link":
            members.append((tar_info(name, type=tarfile.SYMTYPE, target=draw(st.one_of(_NAMES, _LONG))), b""))
        elif files:
            target = draw(st.sampled_from(files))
            members.append((tar_info(name, type=tarfile.LNKTYPE, target=target), b""))
    return tar_of(*members, format=draw(st.sampled_from(_FORMATS)))


@settings(max_examples=150, deadline=None)
@given(content=tars(), step=st.sampled_from([512, 777, 5000, 1 << 20]))
def test_the_index_is_what_the_whole_stream_says(content: bytes, step: int) -> None:
    """The members are those of the parser that sees all, and the bytes at their places those that tarfile finds."""
    index, _ = index_of(content, step)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = [info.offset_data for info in archive.getmembers()]
        sizes = [info.size if info.isreg() else 0 for info in archive.getmembers()]

    assert members_of(content) == list(index.members)
    assert (found, sizes) == (list(index.offsets), [member.size for member in index.members])
    assert index == TarIndex.from_json(index.to_json())


def test_data_is_passed_over() -> None:
    """A large member costs its header."""
    content = files_tar({"large": bytes(5_000_000), "small": b"x"})
    index, needed = index_of(content)

    assert (["large", "small"], True) == ([member.path for member in index.members], needed < 4096)


@pytest.mark.parametrize(
    "content",
    [
        header("cut", content=bytes(5000)) + bytes(1000),
        header("/absolute"),
        header("../leaves"),
        header("a") + b"no header at all".ljust(512, b"."),
        extended(b"L", b"name of nothing"),
        header("claims", content=b"x" * 100)[:124] + b"77777777777\0" + header("claims", content=b"x" * 100)[136:],
        padded(b"no tar"),
    ],
    ids=["cut", "absolute", "dots", "garbage", "nameless", "size", "other"],
)
def test_what_the_parser_refuses(content: bytes) -> None:
    """By its own rules."""
    with pytest.raises(UnsupportedArtifact):
        index_of(content)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "members": [[0]]}', '{"version": 1}'])
def test_no_index(text: str) -> None:
    """A file that was damaged, or of another release."""
    with pytest.raises(ValueError):
        TarIndex.from_json(text)


@settings(max_examples=100, deadline=None)
@given(content=tars(), data=st.data())
def test_every_byte_has_one_place(content: bytes, data: st.DataObject) -> None:
    """Kept members are put together from any pieces of the stream; what is left over has no gaps."""
    index, _ = index_of(content)
    files = [number for number, member in enumerate(index.members) if member.size]
    kept = data.draw(st.lists(st.sampled_from(files), unique=True).map(sorted)) if files else []
    split = Split(index, kept)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=8))
    edges = [0, *sorted(cuts), len(content)]
    places: dict[int, bytearray] = {}
    for at, end in itertools.pairwise(edges):
        taken = at
        for part in split.parts(at, end - at):
            place = places.setdefault(part.number, bytearray())
            assert part.offset == len(place)
            place += content[taken : taken + part.size]
            taken += part.size
    expected = {
        number: content[index.offsets[number] : index.offsets[number] + index.members[number].size] for number in kept
    }
    stray = len(content) - sum(map(len, expected.values()))

    assert stray == len(places.pop(NO_MEMBER, b""))
    assert expected == {number: bytes(place) for number, place in places.items()}
