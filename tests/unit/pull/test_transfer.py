from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from modelcsi.errors import CorruptContent, NotFound, StoreFull, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.progress import Progress
from modelcsi.pull.sources import Sources
from modelcsi.pull.streams import Stopped
from modelcsi.pull.transfer import Growth, Transfer
from modelcsi.pull.window import MemoryBudget
from modelcsi.registry.blob import Stream
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import ANONYMOUS
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import wait_until

MIB = 1 << 20
REPOSITORY = "models/tiny"


class MemoryTarget:
    """Keeps the bytes in memory; `stored` runs are there from the start."""

    stores = True

    def __init__(self, content: bytes, stored: tuple[tuple[int, int], ...] = ()) -> None:
        self.content = bytearray(len(content))
        self.written: list[tuple[int, int]] = []
        self._stored = stored
        for start, end in stored:
            self.content[start:end] = content[start:end]

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        position = 0
        for start, end in (*self._stored, (len(self.content), len(self.content))):
            if position < start:
                yield position, start, False
            if start < end:
                yield start, end, True
            position = end

    def read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            yield bytes(self.content[start : min(end, start + MIB)])
            start += MIB

    def write(self, offset: int, data: bytes) -> None:
        self.written.append((offset, offset + len(data)))
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushed = True


@dataclass
class Bench:
    """A blob in a registry, and one transfer of it."""

    registry: FakeRegistry
    client: Registry
    content: bytes
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.descriptor = self.registry.content.add_blob(REPOSITORY, self.content)
        self.target = MemoryTarget(self.content)
        self.progress = Progress(len(self.content))
        reference = Reference.parse(f"{self.registry.host}/{REPOSITORY}:v1")
        self.sources = Sources()
        self.sources.add(self.client.repository(reference, ANONYMOUS))
        self.transfer = Transfer(self.sources, self.progress, MemoryBudget(8 * MIB), self.stop)

    @property
    def digest(self) -> str:
        return str(self.descriptor.digest)

    def run(self, consume: Callable[[Iterator[bytes]], None] | None = None) -> None:
        self.transfer.run(self.descriptor, self.target, consume)

    def start(self) -> tuple[threading.Thread, list[BaseException]]:
        """Run in a thread; the list gets what it raised."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                self.run()
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread, errors


@pytest.fixture
def bench(fake: FakeRegistry, client: Registry) -> Callable[..., Bench]:
    """Makes benches; the content is 3 MiB and a bit unless told."""

    def make(content: bytes = bytes(range(256)) * 4096 * 3 + b"tail") -> Bench:
        return Bench(fake, client, content)

    return make


def test_one_request_brings_a_blob(bench: Any, fake: FakeRegistry) -> None:
    """Stored, hashed and counted; the consumer gets every byte in order."""
    job: Bench = bench()
    consumed: list[bytes] = []
    job.run(consumed.extend)

    assert (job.content, job.content) == (bytes(job.target.content), b"".join(consumed))
    assert (1, 0, len(job.content)) == (
        fake.blob_gets[job.digest],
        job.progress.remaining_bytes,
        job.progress.downloaded_bytes,
    )


def test_the_empty_blob_needs_no_request(bench: Any, fake: FakeRegistry) -> None:
    """There is nothing to ask for."""
    job: Bench = bench(b"")
    job.run()

    assert 0 == fake.blob_gets[job.digest]


def test_stored_runs_are_not_fetched(bench: Any, fake: FakeRegistry) -> None:
    """They are hashed from the disk and not written again; only the gaps are asked for."""
    job: Bench = bench()
    job.target = MemoryTarget(job.content, ((0, MIB), (2 * MIB, 3 * MIB)))
    job.run()
    ranges = [seen.headers.get("range") for seen in fake.seen if "blobs" in seen.path and seen.method == "GET"]

    assert [f"bytes={MIB}-{2 * MIB - 1}", f"bytes={3 * MIB}-{3 * MIB + 3}"] == ranges
    assert (MIB + 4, MIB + 4) == (
        sum(end - start for start, end in job.target.written),
        job.progress.downloaded_bytes,
    )


@pytest.mark.parametrize("with_reset", [False, True])
def test_cuts_are_resumed(bench: Any, fake: FakeRegistry, with_reset: bool) -> None:
    """Each connection brings 1 MB and breaks: nothing is fetched twice."""
    job: Bench = bench()
    fake.faults.cut_every_bytes, fake.faults.cut_with_reset = 1_000_000, with_reset
    job.run()

    assert job.content == bytes(job.target.content)
    assert fake.bytes_served[job.digest] <= 1.1 * len(job.content)
    assert 4 <= fake.blob_gets[job.digest] <= 5


def test_a_server_that_ignores_ranges(bench: Any, fake: FakeRegistry) -> None:
    """It sends the whole again, and what is known of it is skipped."""
    job: Bench = bench()
    job.target = MemoryTarget(job.content, ((0, 2 * MIB),))
    fake.faults.ignores_ranges = True
    job.run()

    assert (job.content, len(job.content)) == (bytes(job.target.content), fake.bytes_served[job.digest])


def test_a_registry_that_is_busy_for_a_moment(bench: Any, fake: FakeRegistry) -> None:
    """Asked again until it answers."""
    job: Bench = bench()
    fake.faults.fail_next(503, times=2, path="blobs", retry_after="0")
    job.run()

    assert (job.content, None) == (bytes(job.target.content), job.progress.report().trouble)


@pytest.mark.parametrize("fault", ["flip", "longer", "shorter"])
def test_damaged_content(bench: Any, fake: FakeRegistry, fault: str) -> None:
    """A wrong bit, too many bytes or too few: CorruptContent, and the progress is what it was."""
    job: Bench = bench()
    if fault == "flip":
        fake.faults.flip_bit_of.add(job.digest)
    else:
        fake.faults.resize[job.digest] = 10 if fault == "longer" else -10
    with pytest.raises(CorruptContent):
        job.run()

    assert len(job.content) == job.progress.remaining_bytes


def test_only_worthless_bytes_are_taken_back(bench: Any, fake: FakeRegistry) -> None:
    """Another layer of the same job adds to the same progress meanwhile."""
    job: Bench = bench()
    job.progress = job.transfer._progress = Progress(10 * len(job.content))
    fake.faults.flip_bit_of.add(job.digest)
    job.progress.add(1000)
    with pytest.raises(CorruptContent):
        job.run()

    assert 1000 == job.progress.report().done_bytes


def test_a_refusal_ends_it(bench: Any, fake: FakeRegistry) -> None:
    """404 is final."""
    job: Bench = bench()
    fake.content.blobs[REPOSITORY].clear()
    with pytest.raises(NotFound):
        job.run()


def test_an_unsupported_artifact_counts_after_the_digest(bench: Any, fake: FakeRegistry) -> None:
    """The bytes must be the artifact's before it can be blamed; all of them are received and stored."""

    def refuse(pieces: Iterator[bytes]) -> None:
        next(pieces)
        raise UnsupportedArtifact("no tar")

    job: Bench = bench()
    with pytest.raises(UnsupportedArtifact, match="no tar"):
        job.run(refuse)
    stored = bytes(job.target.content)
    fake.faults.flip_bit_of.add(job.digest)
    with pytest.raises(CorruptContent):
        bench().run(refuse)

    assert job.content == stored


def test_a_consumer_that_stops_early(bench: Any) -> None:
    """What it leaves is taken off its hands, also when its generators are closed."""

    def wrapped(pieces: Iterator[bytes]) -> Iterator[bytes]:
        yield from pieces

    def stop_early(pieces: Iterator[bytes]) -> None:
        next(wrapped(pieces))

    job: Bench = bench(bytes(20 * MIB))
    job.run(stop_early)

    assert 0 == job.progress.remaining_bytes


def test_a_consumer_that_fails(bench: Any) -> None:
    """A full disk ends everything."""

    def fail(pieces: Iterator[bytes]) -> None:
        next(pieces)
        raise StoreFull("full")

    with pytest.raises(StoreFull):
        bench(bytes(20 * MIB)).run(fail)


def test_stored_bytes_that_are_missing(bench: Any) -> None:
    """An ingest that promised more than it has is corrupt; nobody waits for ever."""
    job: Bench = bench()
    job.target = MemoryTarget(job.content, ((0, 2 * MIB),))
    job.target.read = lambda start, end: iter([job.content[start : end - 10]])  # type: ignore[method-assign]
    with pytest.raises(CorruptContent, match="shorter"):
        job.run()


def test_stopping_does_not_wait_for_a_silent_registry(bench: Any, fake: FakeRegistry) -> None:
    """A registry that stalls is let go within a moment, not after its timeout of 30 s."""
    job: Bench = bench()
    fake.faults.stall_after_bytes = MIB
    thread, errors = job.start()
    wait_until(lambda: job.progress.downloaded_bytes > 0)
    job.stop.set()
    thread.join(5)

    assert (False, [Stopped]) == (thread.is_alive(), [type(error) for error in errors])


class Mute:
    """An origin whose answers' heads do not come before a test says so."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.asked = threading.Event()
        self.streams: list[MuteStream] = []

    def open_blob(self, descriptor: Descriptor, start: int, end: int | None) -> Stream:
        self.asked.set()
        self.answered.wait()
        self.streams.append(MuteStream())
        return self.streams[-1]


class MuteStream(Stream):
    """Is closed, and never read."""

    honours_ranges = True

    def __init__(self) -> None:
        self.closed = threading.Event()

    def read(self, size: int) -> bytes:
        raise AssertionError("nobody wants it any more")

    def close(self) -> None:
        self.closed.set()


def test_stopping_does_not_wait_for_the_head_of_an_answer() -> None:
    """A transfer holds a claim on its blob: it ends while a registry has not begun to answer, and the answer is closed unread."""
    origin, stop, errors = Mute(), threading.Event(), list[BaseException]()
    transfer = Transfer(origin, Progress(5), MemoryBudget(MIB), stop)
    descriptor = Descriptor("application/octet-stream", Digest.of(b"bytes"), 5)

    def run() -> None:
        try:
            transfer.run(descriptor, MemoryTarget(b"bytes"))
        except Stopped as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert origin.asked.wait(60)
    stop.set()
    thread.join(60)
    has_ended = not thread.is_alive()
    origin.answered.set()
    wait_until(lambda: bool(origin.streams) and origin.streams[0].closed.is_set())

    assert (True, 1) == (has_ended, len(errors))


def test_stopping_between_attempts(bench: Any, fake: FakeRegistry) -> None:
    """Also while it waits as long as the registry asked for; a person was told why."""
    job: Bench = bench()
    fake.faults.fail_next(503, times=99, path="blobs", retry_after="1000")
    thread, errors = job.start()
    wait_until(lambda: job.progress.report().trouble is not None)
    job.stop.set()
    thread.join(5)

    assert (False, [Stopped]) == (thread.is_alive(), [type(error) for error in errors])


class Slow:
    """An origin whose connections bring `per_connection` bytes a second each, and `in_all` together."""

    def __init__(
        self, content: bytes, per_connection: float, in_all: float = float("inf"), *, ranges: bool = True
    ) -> None:
        self.content = content
        self.per_connection = per_connection
        self.in_all = in_all
        self.ranges = ranges
        self.most = 0
        self._lock = threading.Lock()
        self._open = 0
        self._pause = threading.Event()

    def open_blob(self, descriptor: Descriptor, start: int, end: int | None) -> SlowStream:
        return SlowStream(self, start, len(self.content) if end is None else end)

    def change(self, number: int) -> int:
        with self._lock:
            self._open += number
            self.most = max(self.most, self._open)
            return self._open

    def take(self, start: int, size: int) -> bytes:
        rate = min(self.per_connection, self.in_all / max(1, self.change(0)))
        self._pause.wait(size / rate)
        return self.content[start : start + size]


class SlowStream(Stream):
    def __init__(self, origin: Slow, start: int, end: int) -> None:
        self.honours_ranges = origin.ranges
        self._origin, self._position, self._end = origin, start, end

    def __enter__(self) -> Self:
        self._origin.change(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._origin.change(-1)

    def close(self) -> None:
        self._end = self._position

    def read(self, size: int) -> bytes:
        piece = self._origin.take(self._position, min(size, self._end - self._position, MIB))
        self._position += len(piece)
        return piece


def bring(origin: Slow) -> None:
    """Fetch it, with an eye on growth ten times a second."""
    content = origin.content
    transfer = Transfer(origin, Progress(len(content)), MemoryBudget(64 * MIB), threading.Event())
    transfer.growth = Growth(above_bytes=MIB, look_seconds=0.1)
    target = MemoryTarget(content)
    transfer.run(Descriptor("", Digest.of(content), len(content)), target)

    assert content == bytes(target.content)


BIG = bytes(64 * MIB)


def test_connections_are_added_while_they_help() -> None:
    """A server that limits each connection gets up to eight."""
    origin = Slow(BIG, 60e6)
    bring(origin)

    assert 2 < origin.most <= 8


def test_no_connection_is_added_without_a_gain() -> None:
    """A server that limits all of them together gets one try; a busy machine may make it look like a gain once."""
    origin = Slow(BIG, 1e9, in_all=100e6)
    bring(origin)

    assert 2 <= origin.most <= 4


@pytest.mark.parametrize("origin", [Slow(BIG, 400e6, ranges=False), Slow(BIG[: MIB // 2], 4e6)])
def test_one_connection_is_enough(origin: Slow) -> None:
    """For a server without ranges, and for a small remainder."""
    bring(origin)

    assert 1 == origin.most
