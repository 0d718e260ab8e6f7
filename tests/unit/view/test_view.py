"""Which bytes may be read, and who waits for the rest."""

from __future__ import annotations

import errno
import os
from functools import partial

import pytest

from modelcsi.oci.digest import Digest
from modelcsi.store.chunks import CHUNK_BYTES, ChunkMap
from modelcsi.view.fill import FileState
from modelcsi.view.waits import Need, Verdict, Waiting
from tests.fakes.lazy import HOST
from tests.unit.view.conftest import READ_TIMEOUT, SIZE, Scene

PATH = "weights"


def _wait(scene: Scene, start: int, end: int, *, epoch: int | None = 0) -> list[int]:
    """Wait for a range; the list has what the waiting one was told."""
    told: list[int] = []
    need = Need(scene.number(PATH), start, end, epoch=epoch)
    scene.view.wait(need, scene.view.judge(need).missing, told.append)
    return told


def _note(order: list[int], reader: int, _: int) -> None:
    order.append(reader)


def _must_not_be_told(_: int) -> None:
    pytest.fail("told, although it was cancelled or nothing came")


def test_waiting_file_is_asked_for_chunk_by_chunk(scene: Scene) -> None:
    """A range of a file that nobody fetches is missing, in whole chunks cut at the file's end."""
    located = scene.view.locate(scene.number(PATH), 2 * CHUNK_BYTES + 5, SIZE + 999, 0)

    assert ((2 * CHUNK_BYTES, 3 * CHUNK_BYTES), (3 * CHUNK_BYTES, SIZE)) == located.missing


def test_marked_chunk_can_be_read_while_others_arrive(scene: Scene) -> None:
    """What has a mark is read from the ingest; a range that touches a chunk without one is not."""
    scene.store.arrive(PATH, 1)
    content = scene.store.files[PATH].content

    assert content[CHUNK_BYTES : CHUNK_BYTES + 10] == scene.read(PATH, CHUNK_BYTES, 10)
    assert scene.read(PATH, CHUNK_BYTES - 1, 2) is None
    assert scene.read(PATH, 2 * CHUNK_BYTES - 1, 2) is None


def test_open_descriptor_survives_the_commit(scene: Scene) -> None:
    """A file that was read from the ingest is read on after its rename, and one opened later at its final place."""
    scene.store.arrive(PATH, 0)
    before = scene.read(PATH, 0, 10)
    scene.store.complete(PATH)
    end = scene.read(PATH, SIZE - 10, 99)
    scene.around.sources.forget(scene.view.id, scene.number(PATH))

    assert scene.store.files[PATH].content[:10] == before
    assert scene.store.files[PATH].content[-10:] == end == scene.read(PATH, SIZE - 10, 99)


def test_what_arrived_is_thrown_away_and_another_job_completes(scene: Scene) -> None:
    """Without a word to this view: the file that is verified is read, not the one that was open, whose holes would be zeros."""
    scene.store.arrive(PATH, 0)
    before = scene.read(PATH, 0, 10)
    scene.store.drop(PATH)
    scene.store.complete(PATH)

    assert scene.store.files[PATH].content[:10] == before
    assert scene.store.files[PATH].content[-10:] == scene.read(PATH, SIZE - 10, 10)


def test_what_arrived_is_thrown_away_and_arrives_again(scene: Scene) -> None:
    """Whoever waits for a chunk of the ingest that has gone finds it in the one that follows."""
    scene.store.arrive(PATH, 0)
    before = scene.read(PATH, 0, 10)
    scene.store.drop(PATH)
    told = _wait(scene, CHUNK_BYTES, CHUNK_BYTES + 1)
    scene.store.arrive(PATH, 1)
    scene.demand.answer()

    assert before is not None
    assert [0] == told
    assert scene.store.files[PATH].content[CHUNK_BYTES : CHUNK_BYTES + 10] == scene.read(PATH, CHUNK_BYTES, 10)


def test_rename_before_the_state_is_told(scene: Scene) -> None:
    """Between the commit's rename and the driver's word the file is found at its final place."""
    scene.store.complete(PATH)
    scene.store.fill.put(scene.number(PATH), FileState.ARRIVING)

    assert scene.store.files[PATH].content[:10] == scene.read(PATH, 0, 10)


def test_state_before_the_file(scene: Scene) -> None:
    """A file that is said to arrive and is nowhere yet is missing, not an error."""
    scene.store.fill.put(scene.number(PATH), FileState.ARRIVING)

    assert scene.read(PATH, 0, 10) is None


def test_chunk_map_that_is_being_made(scene: Scene) -> None:
    """A chunk map without its header has no marks."""
    scene.store.begin(PATH)
    path = scene.store.layout.ingest(scene.store.files[PATH].digest, HOST) / "chunks"
    os.truncate(path, 0)

    assert scene.read(PATH, 0, 10) is None


def test_failed_file_is_an_error_at_once(scene: Scene) -> None:
    """What cannot be had is EIO, and nobody is asked."""
    scene.store.fill.put(scene.number(PATH), FileState.FAILED)

    with pytest.raises(OSError, match="refused") as caught:
        scene.read(PATH, 0, 10)
    assert errno.EIO == caught.value.errno
    assert Verdict(errno.EIO) == scene.view.judge_opening(scene.number(PATH), waits=False)


def test_empty_file_and_content_of_the_plan_never_wait(scene: Scene) -> None:
    """A file without bytes, one whose bytes are in the plan, and what lies behind a file's end are there at once."""
    said = scene.read("dir/said.txt", 1, 2)

    assert (b"ai", b"", b"") == (said, scene.read("empty", 0, 10), scene.read(PATH, SIZE, 10))
    assert Verdict() == scene.view.judge_opening(scene.number("empty"), waits=True)


def test_wanted_bytes_resume_the_reader(scene: Scene) -> None:
    """A reader goes on when all its chunks are there."""
    told = _wait(scene, 0, CHUNK_BYTES + 1)
    wanted = scene.demand.ranges()
    scene.store.arrive(PATH, 0)
    scene.store.arrive(PATH, 1)
    scene.demand.answer()

    assert [(0, CHUNK_BYTES), (CHUNK_BYTES, 2 * CHUNK_BYTES)] == wanted
    assert [0] == told
    assert 0 == scene.view.waiting


def test_many_readers_of_a_chunk_ask_once(scene: Scene) -> None:
    """128 readers of one chunk are one want, and all go on with its answer, the first first."""
    order: list[int] = []
    for reader in range(128):
        need = Need(scene.number(PATH), reader, reader + 1, epoch=0)
        scene.view.wait(need, scene.view.judge(need).missing, partial(_note, order, reader))
    wanted = scene.demand.ranges()
    scene.store.arrive(PATH, 0)
    scene.demand.answer()

    assert [(0, CHUNK_BYTES)] == wanted
    assert list(range(128)) == order


def test_last_reader_that_leaves_cancels(scene: Scene) -> None:
    """A want is cancelled when nobody waits for it, not before."""
    need = Need(scene.number(PATH), 0, 1, epoch=0)
    first, second = (scene.view.wait(need, scene.view.judge(need).missing, _must_not_be_told) for _ in range(2))
    scene.view.cancel(first)
    before = list(scene.demand.cancelled)
    scene.view.cancel(second)
    scene.view.cancel(second)

    assert ([], [1]) == (before, scene.demand.cancelled)


def test_reader_that_cancels_another_when_it_goes_on(scene: Scene) -> None:
    """What one reader does when it is told must not disturb who is told after it."""
    need = Need(scene.number(PATH), 0, 1, epoch=0)
    missing = scene.view.judge(need).missing
    others: list[Waiting] = []

    def cancel_the_other(_: int) -> None:
        scene.view.cancel(others[0])
        others.append(scene.view.wait(need, missing, _must_not_be_told))

    scene.view.wait(need, missing, cancel_the_other)
    others.append(scene.view.wait(need, missing, _must_not_be_told))
    scene.store.arrive(PATH, 0)
    scene.demand.wants.pop(1)[1](0)

    assert [(0, CHUNK_BYTES)] == scene.demand.ranges()


def test_failed_want_is_the_readers_error(scene: Scene) -> None:
    """The errno that the driver gives is the one that the reader gets."""
    told = _wait(scene, 0, 2 * CHUNK_BYTES)
    scene.demand.answer(errno.ENOSPC)

    assert [errno.ENOSPC] == told
    assert [] == scene.demand.ranges()


def test_nobody_waits_for_ever(scene: Scene) -> None:
    """After `read_timeout` a reader has EIO, counted from its own beginning, and what it wanted is cancelled."""
    first = _wait(scene, 0, 1)
    scene.loop.pass_time(200)
    second = _wait(scene, 0, 1)
    scene.loop.pass_time(READ_TIMEOUT - 200)
    then = (list(first), list(second), scene.demand.ranges())
    scene.loop.pass_time(200)

    assert ([errno.EIO], [], [(0, CHUNK_BYTES)]) == then
    assert ([errno.EIO], []) == (second, scene.demand.ranges())


def _wait_as(scene: Scene, reader: int, start: int, end: int) -> list[int]:
    told: list[int] = []
    need = Need(scene.number(PATH), start, end, epoch=0, reader=reader)
    scene.view.wait(need, scene.view.judge(need).missing, told.append)
    scene.loop.pass_time(0)
    return told


def test_what_was_waited_for_in_vain_is_not_waited_for_twice(scene: Scene) -> None:
    """The kernel asks once more for a page of what it read ahead, at once: that is the same wait, and nobody else's."""
    _wait_as(scene, 7, 0, CHUNK_BYTES)
    scene.loop.pass_time(READ_TIMEOUT)
    other, elsewhere = _wait_as(scene, 8, 0, 10), _wait_as(scene, 7, 0, CHUNK_BYTES + 1)
    again, third = _wait_as(scene, 7, 5, 10), _wait_as(scene, 7, 5, 10)

    assert ([], [], [errno.EIO], []) == (other, elsewhere, again, third)


def test_who_asks_later_waits_anew(scene: Scene) -> None:
    """A program that tries again after its error is as patient as before."""
    _wait_as(scene, 7, 0, CHUNK_BYTES)
    scene.loop.pass_time(READ_TIMEOUT)
    scene.loop.pass_time(2)

    assert [] == _wait_as(scene, 7, 0, 10)
    assert [(0, CHUNK_BYTES)] == scene.demand.ranges()


def test_who_waits_for_all_of_a_file_is_patient_while_it_comes(scene: Scene) -> None:
    """A large one takes longer than `read_timeout`; once nothing more of it has come for that long, it is EIO."""
    told: list[int] = []
    need = Need(scene.number(PATH), 0, SIZE, is_verified=True)
    scene.view.wait(need, scene.view.judge(need).missing, told.append)
    patient = []
    for chunk in range(3):
        scene.store.arrive(PATH, chunk)
        scene.loop.pass_time(READ_TIMEOUT + 1)
        patient.append((list(told), scene.demand.ranges()))
    scene.loop.pass_time(READ_TIMEOUT + 1)

    assert [([], [(0, SIZE)])] * 3 == patient
    assert ([errno.EIO], []) == (told, scene.demand.ranges())


def test_other_bytes_of_the_file_are_no_comfort(scene: Scene) -> None:
    """Who waits for a range waits for that one, whatever else comes."""
    told = _wait(scene, 0, 1)
    scene.store.arrive(PATH, 2)
    scene.loop.pass_time(READ_TIMEOUT)

    assert [errno.EIO] == told


def test_driver_that_is_wrong_is_not_asked_without_pause(scene: Scene) -> None:
    """When what is said to be here is not, it is asked for again, soon not faster than ten times a second."""
    told = _wait(scene, 0, 1)
    asked = 0
    for _ in range(10):
        asked += len(scene.demand.wants)
        scene.demand.answer()
    scene.loop.pass_time(0.1)
    again = scene.demand.ranges()
    scene.store.arrive(PATH, 0)
    scene.demand.answer()

    assert (4, [(0, CHUNK_BYTES)], [0]) == (asked, again, told)


def test_what_came_while_the_driver_was_away(scene: Scene) -> None:
    """Readers whose bytes were marked and not announced go on when they are looked at again."""
    told = _wait(scene, 0, 1)
    waits = _wait(scene, CHUNK_BYTES, CHUNK_BYTES + 1)
    scene.store.arrive(PATH, 0)
    scene.view.look_again()

    assert ([0], [], [1]) == (told, waits, scene.demand.cancelled)


def test_new_epoch_ends_older_handles(scene: Scene) -> None:
    """When bytes were wrong, handles from before are errors, waiting or not; new ones read what comes now."""
    scene.store.arrive(PATH, 0)
    scene.read(PATH, 0, 1)
    waits = _wait(scene, CHUNK_BYTES, CHUNK_BYTES + 1)
    scene.store.begin_again(PATH)
    scene.view.changed((scene.number(PATH),))
    fresh = scene.read(PATH, 0, 1, epoch=1)
    scene.store.arrive(PATH, 0)

    assert [errno.EIO] == waits
    assert fresh is None
    assert scene.store.files[PATH].content[:1] == scene.read(PATH, 0, 1, epoch=1)
    with pytest.raises(OSError, match="refused"):
        scene.read(PATH, 0, 1)


def test_opening_that_waits_for_the_digest(scene: Scene) -> None:
    """With `fuse.verify: complete` an open waits until all is verified, not only marked."""
    told: list[int] = []
    number = scene.number(PATH)
    for chunk in scene.store.chunks(PATH):
        scene.store.arrive(PATH, chunk)
    verdict = scene.view.judge_opening(number, waits=True)
    scene.view.wait(Need(number, 0, SIZE, is_verified=True), verdict.missing, told.append)
    (want,) = (want for want, _ in scene.demand.wants.values())
    scene.store.complete(PATH)
    scene.demand.answer()

    assert (True, 0, SIZE) == (want.verified, want.start, want.end)
    assert [0] == told
    assert Verdict() == scene.view.judge_opening(number, waits=True)


def test_member_of_a_tar_is_judged_by_the_blobs_chunks(scene: Scene) -> None:
    """A member that begins at a strange place of its layer is there when the chunks that it lies in are."""
    layer = Digest.of(b"a tar")
    directory = scene.store.layout.ingest(layer, HOST)
    (directory / "tar" / "members").mkdir(parents=True)
    (directory / "tar" / "members" / "4").write_bytes(b"x" * CHUNK_BYTES)
    chunks = ChunkMap(directory / "chunks", 3 * CHUNK_BYTES)
    number = scene.number(PATH)
    node = scene.view.tree.nodes[number + 1]
    scene.view.tree.nodes[number + 1] = node._replace(
        layer=str(layer), member=4, offset=CHUNK_BYTES + 512, size=CHUNK_BYTES
    )
    scene.store.fill.put(number, FileState.ARRIVING)
    chunks.mark(1)
    first = scene.read(PATH, 0, CHUNK_BYTES - 512)
    located = scene.view.locate(number, 0, CHUNK_BYTES, 0)
    chunks.mark(2)
    chunks.close()

    assert CHUNK_BYTES - 512 == len(first or b"")
    assert ((CHUNK_BYTES - 512, CHUNK_BYTES),) == located.missing
    assert scene.read(PATH, CHUNK_BYTES - 512, 512) == b"x" * 512


def test_sequential_reader_is_read_ahead_of(scene: Scene) -> None:
    """The driver is told what a reader that goes on will want."""
    for chunk in scene.store.chunks(PATH):
        scene.store.arrive(PATH, chunk)
    scene.read(PATH, 0, 4096)
    before = list(scene.demand.hints)
    scene.read(PATH, 4096, 4096)

    assert ([], [(8192, SIZE)]) == (before, scene.demand.hints)
