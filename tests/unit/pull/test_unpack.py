from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import zstandard

from modelcsi.artifact.layer import TAR, TAR_GZIP, Codec, Layer
from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.selection import Selection
from modelcsi.errors import StoreFull, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.pull.unpack import Unpacker, missing_members
from modelcsi.store.ingest import LayerIngest
from modelcsi.store.store import Store
from tests.unit.artifact.builders import files_tar, tar_info, tar_of

FILES = {"a/one": b"1" * 3000, "a/two": b"2" * 100, "empty": b""}


def layer_of(stream: bytes, codec: Codec = TAR) -> Layer:
    """The layer that these bytes are."""
    return Layer(Descriptor("type", Digest.of(stream), len(stream)), codec)


def cut(stream: bytes, size: int = 777) -> Iterator[bytes]:
    """The stream as it arrives."""
    return (stream[start : start + size] for start in range(0, len(stream), size))


@pytest.fixture
def unpack(store: Store) -> Callable[..., tuple[list[Member], dict[str, bytes]]]:
    """Unpacks a stream into a new ingest: its members, and the files by number."""

    def run(
        stream: bytes, codec: Codec = TAR, selection: Selection | None = None
    ) -> tuple[list[Member], dict[str, bytes]]:
        layer = layer_of(stream, codec)
        with closing(LayerIngest(store.layout, layer.digest, "plan", is_resumable=codec == TAR)) as ingest:
            unpacker = Unpacker(layer, selection or Selection(), ingest, store.space.reserve(len(stream), "test"))
            unpacker.run(cut(stream))
            files = {entry.name: (ingest.members / entry.name).read_bytes() for entry in os.scandir(ingest.members)}
        return unpacker.members, files

    return run


@pytest.mark.parametrize("declared", [TAR, TAR_GZIP])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_members_become_files(unpack: Any, declared: Codec, compress: Callable[[bytes], bytes]) -> None:
    """Whatever compression the type declares: the bytes decide."""
    members, files = unpack(compress(files_tar(FILES)), declared)

    assert {str(number): content for number, content in enumerate(FILES.values())} == files
    assert [(path, len(content), Digest.of(content).hex) for path, content in FILES.items()] == [
        (member.path, member.size, member.sha256) for member in members
    ]


def test_unwanted_members_are_recorded_only(unpack: Any) -> None:
    """Their place and size are known, their bytes are not kept."""
    members, files = unpack(files_tar(FILES), selection=Selection(exclude_patterns=("two",)))

    assert ({"0", "2"}, [True, False, True]) == (set(files), [bool(member.sha256) for member in members])


def test_links_and_directories(unpack: Any) -> None:
    """They are recorded and have no file."""
    stream = tar_of(
        (tar_info("d", type=tarfile.DIRTYPE), b""),
        (tar_info("d/file", b"x"), b"x"),
        (tar_info("soft", type=tarfile.SYMTYPE, target="d/file"), b""),
        (tar_info("hard", type=tarfile.LNKTYPE, target="d/file"), b""),
    )
    members, files = unpack(stream)

    assert ({"1": b"x"}, set(MemberType) - {MemberType.SPECIAL}) == (files, {member.type for member in members})


@pytest.mark.parametrize(
    ("mode", "stored"), [(0o6777, 0o555), (0o4755, 0o555), (0o000, 0o444), (0o200, 0o444), (0o744, 0o544)]
)
def test_set_id_and_write_bits_are_dropped(store: Store, mode: int, stored: int) -> None:
    """A pod can read every file and change none."""
    info = tar_info("file", b"x")
    info.mode = mode
    stream = tar_of((info, b"x"))
    with closing(LayerIngest(store.layout, Digest.of(stream), "plan", is_resumable=True)) as ingest:
        Unpacker(layer_of(stream), Selection(), ingest, store.space.reserve(0, "test")).run(cut(stream))

        assert stored == (ingest.members / "0").stat().st_mode & 0o7777


@pytest.mark.parametrize(
    ("name", "type", "target", "named"),
    [
        ("../escape", tarfile.REGTYPE, "", "escape"),
        ("/etc/passwd", tarfile.REGTYPE, "", "etc/passwd"),
        ("a/../../b", tarfile.REGTYPE, "", "b"),
        ("device", tarfile.CHRTYPE, "", "device"),
        ("pipe", tarfile.FIFOTYPE, "", "pipe"),
        ("link", tarfile.SYMTYPE, "/etc", "link"),
        ("hard", tarfile.LNKTYPE, "../../etc/passwd", "etc/passwd"),
        ("new\nline", tarfile.REGTYPE, "", "new"),
    ],
)
def test_hostile_members_are_named(unpack: Any, store: Store, name: str, type: bytes, target: str, named: str) -> None:
    """The message says which member of which layer; nothing is written outside."""
    stream = tar_of((tar_info("good", b"x"), b"x"), (tar_info(name, type=type, target=target), b""))
    with pytest.raises(UnsupportedArtifact) as caught:
        unpack(stream)

    assert named in caught.value.message
    assert str(Digest.of(stream)) in caught.value.message
    assert {"root"} == {path.name for path in store.layout.root.parent.iterdir()}


@pytest.mark.parametrize("length", [600, 700, 2000])
def test_a_truncated_tar(unpack: Any, length: int) -> None:
    """It ends in the middle of a member."""
    with pytest.raises(UnsupportedArtifact, match=r"layer sha256:.* (ends in the middle of a member|claims \d+ bytes)"):
        unpack(files_tar(FILES)[:length])


def test_no_tar_at_all(unpack: Any) -> None:
    """Text is no tar."""
    with pytest.raises(UnsupportedArtifact, match="layer sha256"):
        unpack(b"this is no tar" * 100)


def test_a_bomb_is_refused(store: Store) -> None:
    """Beyond 1 GiB and 200 times its size; also in members that nobody wants, which cost no space but hours."""
    chunk = bytes(1 << 20)
    info = tar_info("bomb")
    info.size = 2 << 30
    layer = layer_of(b"a bomb", TAR_GZIP)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(info.tobuf())
        file.write(chunk)
    stream = buffer.getvalue()
    block = gzip.compress(chunk, 1)
    selection = Selection(exclude_patterns=("*",))
    ingest = LayerIngest(store.layout, layer.digest, "plan", is_resumable=False)

    def bomb() -> Iterator[bytes]:
        yield stream
        for _ in range(1500):
            yield block

    with pytest.raises(UnsupportedArtifact, match="refused as a decompression bomb"):
        Unpacker(layer, selection, ingest, store.space.reserve(0, "test")).run(bomb())
    ingest.close()


@pytest.mark.parametrize("place", ["_stray_fd", "_journal_fd", "_member_fd"])
def test_a_full_disk_is_store_full(store: Store, place: str) -> None:
    """Wherever the last byte was written: in a member, or beside it."""
    stream = files_tar(FILES)
    ingest = FullIngest(store, layer_of(stream), place)
    with pytest.raises(StoreFull, match="layer sha256"), closing(ingest):
        Unpacker(layer_of(stream), Selection(), ingest, store.space.reserve(0, "test")).run(cut(stream))


class FullIngest(LayerIngest):
    """One of its files is on a full disk."""

    def __init__(self, store: Store, layer: Layer, place: str) -> None:
        super().__init__(store.layout, layer.digest, "plan", is_resumable=True)
        self._place = place
        self._fill()

    def begin_member(self, number: int, size: int) -> None:
        super().begin_member(number, size)
        self._fill()

    def _fill(self) -> None:
        fd = getattr(self, self._place)
        if fd >= 0:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, fd)
            os.close(full)


def test_space_is_taken_for_new_bytes_only(store: Store) -> None:
    """What an earlier attempt wrote is on the disk already: reading it again takes nothing from the promise."""
    stream, layer = files_tar(FILES), layer_of(files_tar(FILES))
    remaining = []
    for _ in range(2):
        reservation = store.space.reserve(5000, "test")
        with closing(LayerIngest(store.layout, layer.digest, "plan", is_resumable=True)) as ingest:
            Unpacker(layer, Selection(), ingest, reservation).run(cut(stream))
        remaining.append(reservation.remaining)

    assert [1900, 5000] == remaining


def record(path: str, *, is_kept: bool, type: MemberType = MemberType.FILE, target: str = "") -> Member:
    """A member as it is recorded."""
    return Member(path, type, 1, 0o644, 0, target=target, sha256="ff" if is_kept else "")


def test_what_a_selection_misses() -> None:
    """A wanted file that is not kept, or a wanted hard link to one."""
    layer = layer_of(b"")
    kept, other = record("kept", is_kept=True), record("other", is_kept=False)
    link = record("link", is_kept=False, type=MemberType.HARDLINK, target="other")
    some = Selection(exclude_patterns=("other",))

    assert [False, True] == [missing_members(layer, (kept, other), selection) for selection in (some, Selection())]
    assert [True, False] == [missing_members(layer, members, some) for members in ((kept, other, link), (kept, other))]
