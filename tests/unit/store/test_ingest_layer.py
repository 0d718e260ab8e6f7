"""Layers being written: a kill, or a power cut, at any point."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.members import MemberType
from modelcsi.artifact.tar import Data, End, Start, TarParser
from modelcsi.oci.digest import Digest
from modelcsi.store.ingest import LayerIngest
from modelcsi.store.layout import StoreLayout
from tests.unit.artifact.builders import files_tar
from tests.unit.store.conftest import make_layout

PIECE_BYTES = 700


class Killed(Exception):
    """The process died here."""


@dataclass
class Kill:
    """Counts steps down to the kill."""

    steps: int

    def step(self) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1


def unpack(ingest: LayerIngest, pieces: Iterator[bytes], wants: Callable[[str], bool], kill: Kill) -> None:
    """What `pull.unpack` does with an ingest."""
    parser, number, kept = TarParser("layer"), -1, False
    for piece in pieces:
        for event in parser.feed(memoryview(piece)):
            kill.step()
            if isinstance(event, Start):
                number += 1
                kept = event.member.type is MemberType.FILE and wants(event.member.path)
                if kept:
                    ingest.begin_member(number, event.member.size)
            elif isinstance(event, End):
                if kept:
                    ingest.end_member(0o444, event_time(number))
                kept = False
            elif isinstance(event, Data) and kept:
                ingest.write_member(event.view)
            else:
                ingest.write_stray(event.view)
        ingest.flush()
    parser.finish()


def event_time(number: int) -> int:
    """Any time that depends on the member."""
    return number * 1_000_000_000


def opened(layout: StoreLayout, tar: bytes, plan: str = "plan", *, is_resumable: bool = True) -> LayerIngest:
    """The ingest of a tar, begun or found."""
    return LayerIngest(layout, Digest.of(tar), plan, is_resumable=is_resumable)


def cut(stream: bytes) -> Iterator[bytes]:
    """The stream as it arrives."""
    return (stream[start : start + PIECE_BYTES] for start in range(0, len(stream), PIECE_BYTES))


def resume(ingest: LayerIngest, tar: bytes, wants: Callable[[str], bool], kill: Kill) -> bytes:
    """One attempt: what is stored, then the rest; returns the stream as it was hashed."""
    seen = bytearray()

    def stream() -> Iterator[bytes]:
        for piece in ingest.read_again():
            seen.extend(piece)
            yield piece
        for piece in cut(tar[len(seen) :]):
            seen.extend(piece)
            yield piece

    unpack(ingest, stream(), wants, kill)
    return bytes(seen)


def stored(ingest: LayerIngest) -> dict[str, bytes]:
    """The member files by their number."""
    return {entry.name: Path(entry.path).read_bytes() for entry in os.scandir(ingest.members)}


def expected(files: Mapping[str, bytes], wants: Callable[[str], bool]) -> dict[str, bytes]:
    """The member files that must be there in the end."""
    return {str(number): content for number, (path, content) in enumerate(files.items()) if wants(path)}


tars = st.dictionaries(
    st.sampled_from([f"dir/file-{number}" for number in range(6)]),
    st.tuples(st.integers(0, 3000), st.integers(1, 255)).map(lambda item: bytes([item[1]]) * item[0]),
    min_size=1,
)
wishes = st.frozensets(st.sampled_from([f"dir/file-{number}" for number in range(6)]))


@settings(max_examples=60, deadline=None)
@given(files=tars, unwanted=wishes, kills=st.lists(st.integers(0, 30), max_size=3))
def test_kills_at_any_point(files: dict[str, bytes], unwanted: frozenset[str], kills: list[int]) -> None:
    """What is read again is what was written, nothing is received twice in the end, and the files are right."""
    tar = files_tar(files)

    def wants(path: str) -> bool:
        return path not in unwanted

    with tempfile.TemporaryDirectory() as directory:
        layout = make_layout(Path(directory))
        before = 0
        for steps in kills:
            ingest = opened(layout, tar)
            with suppress(Killed):
                resume(ingest, tar, wants, Kill(steps))
            with closing(opened(layout, tar)) as found:
                again = b"".join(found.read_again())

                assert tar[: found.stored_bytes()] == again
                assert before <= len(again)
                before = len(again)
            ingest.close()
        with closing(opened(layout, tar)) as last:
            resume(last, tar, wants, Kill(-1))

            assert expected(files, wants) == stored(last)


@settings(max_examples=100, deadline=None)
@given(files=tars, unwanted=wishes, steps=st.integers(0, 40), data=st.data())
def test_power_cuts(files: dict[str, bytes], unwanted: frozenset[str], steps: int, data: st.DataObject) -> None:
    """Whatever a power cut takes, puts back or zeroes: a stream with the right digest never leaves wrong files."""
    tar = files_tar(files)

    def wants(path: str) -> bool:
        return path not in unwanted

    with tempfile.TemporaryDirectory() as directory:
        layout = make_layout(Path(directory))
        ingest = opened(layout, tar)
        with suppress(Killed):
            resume(ingest, tar, wants, Kill(steps))
        ingest.close()
        for path in sorted(ingest.directory.rglob("*")):
            if path.is_file() and path.name != "plan.json" and data.draw(st.booleans()):
                lose(path, data.draw(st.floats(0, 1)), data.draw(st.sampled_from(["cut", "zeros", "gone"])))
        with closing(opened(layout, tar)) as found:
            promised = found.stored_bytes()
            again = sum(map(len, found.read_again()))

            assert promised == again
        with closing(opened(layout, tar)) as last:
            try:
                seen = resume(last, tar, wants, Kill(-1))
            except Exception:  # noqa: BLE001 - a tar that cannot be read: the digest is wrong too
                return
            if hashlib.sha256(seen).digest() == hashlib.sha256(tar).digest():
                assert expected(files, wants) == stored(last)


def lose(path: Path, part: float, how: str) -> None:
    """What happens to one file in a power cut."""
    if how == "gone" and path.parent.name == "members":
        path.unlink()
        return
    size = path.stat().st_size
    path.chmod(0o600)
    os.truncate(path, int(size * part))
    if how == "zeros":
        os.truncate(path, size)


@pytest.mark.parametrize("lost", ["stray", "journal"])
def test_a_member_that_no_journal_knows(layout: StoreLayout, lost: str) -> None:
    """Its bytes cannot be read again, so they are not trusted either: the digest would not see them."""
    files = {"a": b"1" * 3000, "b": b"2" * 3000}
    tar = files_tar(files)
    with closing(opened(layout, tar)) as first:
        resume(first, tar, lambda _: True, Kill(-1))
    os.truncate(first.directory / lost, 0)
    for number in ("0", "1"):
        (first.members / number).chmod(0o600)
        (first.members / number).write_bytes(bytes(3000))
    with closing(opened(layout, tar)) as second:
        seen = resume(second, tar, lambda _: True, Kill(-1))

        assert seen != tar or expected(files, lambda _: True) == stored(second)


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_kill_between_the_two_writes_of_a_flush(layout: StoreLayout, part: float) -> None:
    """The journal is ahead of what it refers to: what is read again is the beginning of the stream all the same."""
    tar = files_tar({"a": b"1" * 3000, "b": b"2" * 3000, "c": b"3" * 100})
    with closing(opened(layout, tar)) as first:
        resume(first, tar, lambda _: True, Kill(-1))
    stray = first.directory / "stray"
    os.truncate(stray, int(stray.stat().st_size * part))
    with closing(opened(layout, tar)) as second:
        again = b"".join(second.read_again())

        assert (tar[: len(again)], len(again)) == (again, second.stored_bytes())


def test_a_member_that_is_longer_than_it_was(layout: StoreLayout) -> None:
    """It is not read again beyond its size, nor kept."""
    tar = files_tar({"a": b"1" * 3000})
    with closing(opened(layout, tar)) as first:
        resume(first, tar, lambda _: True, Kill(-1))
    (first.members / "0").chmod(0o600)
    (first.members / "0").write_bytes(b"1" * 3001)
    with closing(opened(layout, tar)) as second:
        seen = resume(second, tar, lambda _: True, Kill(-1))

        assert (tar, {"0": b"1" * 3000}) == (seen, stored(second))


def test_another_plan_begins_anew(layout: StoreLayout) -> None:
    """What was written for other members or another codec is not continued."""
    tar = files_tar({"file": b"x" * 5000})
    with closing(opened(layout, tar, "all")) as first:
        resume(first, tar, lambda _: True, Kill(-1))
    with closing(opened(layout, tar, "some")) as second:
        assert ({}, 0) == (stored(second), second.stored_bytes())


def test_a_stream_that_cannot_be_resumed_keeps_nothing(layout: StoreLayout) -> None:
    """Members of a compressed tar are written anew by each attempt."""
    tar = files_tar({"file": b"x" * 5000})
    with closing(opened(layout, tar, is_resumable=False)) as first:
        unpack(first, cut(tar), lambda _: True, Kill(-1))

        assert {"0": b"x" * 5000} == stored(first)
    with closing(opened(layout, tar, is_resumable=False)) as second:
        assert ({}, 0) == (stored(second), second.stored_bytes())


def test_a_stream_that_turns_out_compressed(layout: StoreLayout) -> None:
    """Nothing is promised to be read again, then or by the next attempt."""
    tar = files_tar({"file": b"x" * 5000})
    with closing(opened(layout, tar)) as first:
        first.give_up_resuming()
        unpack(first, cut(tar), lambda _: True, Kill(-1))
    with closing(opened(layout, tar)) as second:
        assert ([], 0) == (list(second.read_again()), second.stored_bytes())


def test_mode_and_time_of_a_member(layout: StoreLayout) -> None:
    """They are set when it is complete, for all its hard links."""
    tar = files_tar({"a": b"1", "b": b"2"})
    with closing(opened(layout, tar)) as ingest:
        unpack(ingest, cut(tar), lambda _: True, Kill(-1))
        status = (ingest.members / "1").stat()

    assert (0o444, 1_000_000_000) == (status.st_mode & 0o7777, status.st_mtime_ns)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes_of_members(layout: StoreLayout, umask: int) -> None:
    """Each has its own, whatever the umask, the file before it and an earlier attempt made of it."""
    wanted = [0o444, 0o444, 0o555, 0o444, 0o555, 0o444]
    before = os.umask(umask)
    try:
        for modes in (wanted[:3], wanted):
            with closing(LayerIngest(layout, Digest.of(b"modes"), "plan", is_resumable=True)) as ingest:
                for number, mode in enumerate(modes):
                    ingest.begin_member(number, 0)
                    ingest.end_member(mode, 0)
                ingest.flush()
            if modes != wanted:
                (ingest.members / "1").chmod(0o600)  # killed before it was complete
    finally:
        os.umask(before)

    assert wanted == [(ingest.members / str(number)).stat().st_mode & 0o7777 for number in range(6)]


def test_bytes_that_were_there_are_not_counted_again(layout: StoreLayout) -> None:
    """`write_member` tells what is new on the disk."""
    tar = files_tar({"file": b"x" * 5000})
    with closing(opened(layout, tar)) as first:
        first.write_stray(tar[:512])
        first.begin_member(0, 5000)
        first.write_member(tar[512:1512])
        first.flush()
    with closing(opened(layout, tar)) as second:
        second.write_stray(tar[:512])
        second.begin_member(0, 5000)

        assert [0, 500, 3500] == [
            second.write_member(tar[512:1012]),
            second.write_member(tar[1012:2012]),
            second.write_member(tar[2012:5512]),
        ]


def begun(layout: StoreLayout, tar: bytes) -> LayerIngest:
    """The ingest of a tar of which nothing is stored before the first member file."""
    return LayerIngest(layout, Digest.of(tar), "plan", is_resumable=True, skips_prefix=True)


def go_on(ingest: LayerIngest, tar: bytes, wants: Callable[[str], bool], kill: Kill) -> None:
    """One attempt: what came before, again; what is stored; the rest."""
    prefix, known = ingest.prefix_bytes, ingest.prefix_bytes + ingest.stored_bytes()
    stream = chain(cut(tar[:prefix]), ingest.read_again(), cut(tar[known:]))
    unpack(ingest, stream, wants, kill)


@settings(max_examples=60, deadline=None)
@given(files=tars, unwanted=wishes, kills=st.lists(st.integers(0, 30), max_size=3))
def test_kills_where_nothing_is_stored_at_first(
    files: dict[str, bytes], unwanted: frozenset[str], kills: list[int]
) -> None:
    """What is read again is what was written, behind the place where it began; the files are right in the end."""
    tar = files_tar(files)

    def wants(path: str) -> bool:
        return path not in unwanted

    with tempfile.TemporaryDirectory() as directory:
        layout = make_layout(Path(directory))
        for steps in kills:
            ingest = begun(layout, tar)
            with suppress(Killed):
                go_on(ingest, tar, wants, Kill(steps))
            if not stored(ingest):
                assert [] == [
                    path.name
                    for path in ingest.directory.iterdir()
                    if path.is_file() and path.stat().st_size and path.name != "plan.json"
                ]
            with closing(begun(layout, tar)) as found:
                again = b"".join(found.read_again())

                assert tar[found.prefix_bytes : found.prefix_bytes + found.stored_bytes()] == again
            ingest.close()
        with closing(begun(layout, tar)) as last:
            go_on(last, tar, wants, Kill(-1))

            assert expected(files, wants) == stored(last)


@pytest.mark.parametrize("lost", ["prefix", "journal", "stray"])
def test_a_power_cut_where_nothing_is_stored_at_first(layout: StoreLayout, lost: str) -> None:
    """Without the place where it began, or what says what is there, what is there is nothing."""
    files = {"no": b"x" * 1000, "yes": b"y" * 2000, "also": b"z" * 100}
    tar = files_tar(files)
    with closing(begun(layout, tar)) as first, suppress(Killed):
        go_on(first, tar, lambda path: path != "no", Kill(12))
    (layout.ingest(Digest.of(tar)) / "tar" / lost).write_bytes(b"")
    with closing(begun(layout, tar)) as second:
        known = second.prefix_bytes, second.stored_bytes()
        again = b"".join(second.read_again())
        go_on(second, tar, lambda path: path != "no", Kill(-1))

        assert {"1": files["yes"], "2": files["also"]} == stored(second)
    assert tar[known[0] : sum(known)] == again
    assert lost == "stray" or known == (0, 0)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_an_unreadable_plan_begins_anew(layout: StoreLayout, content: str) -> None:
    """A power cut may leave any text there."""
    tar = files_tar({"file": b"x"})
    with closing(opened(layout, tar)) as first:
        (first.directory / "plan.json").write_text(content)
    with closing(opened(layout, tar)) as second:
        assert 0 == second.stored_bytes()


def test_a_failed_opening_leaves_no_descriptor(layout: StoreLayout) -> None:
    """Each attempt on a full disk would take one more."""
    digest = Digest.of(b"tar")
    LayerIngest(layout, digest, "plan", is_resumable=True).close()
    journal = layout.ingest(digest) / "tar" / "journal"
    journal.unlink()
    journal.mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(IsADirectoryError):
        LayerIngest(layout, digest, "plan", is_resumable=True)

    assert before == os.listdir("/proc/self/fd")
