from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelcsi.errors import CorruptContent, NotFound, StoreFull, UnsupportedArtifact
from modelcsi.oci.reference import Reference
from modelcsi.pull.filltransfer import Filler, FillTransfer
from modelcsi.pull.order import Urgency
from modelcsi.pull.progress import Progress
from modelcsi.pull.sources import Sources
from modelcsi.pull.streams import Stopped
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import ANONYMOUS
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import wait_until

MIB = 1 << 20
REPOSITORY = "models/tiny"
CONTENT = random.Random(7).randbytes(12 * MIB + 4321)  # noqa: S311 - noise


class MemoryTarget:
    """Keeps the bytes in memory, and in which order chunks came; `stored` chunks are there from the start."""

    def __init__(self, content: bytes, stored: tuple[int, ...] = ()) -> None:
        self.content = bytearray(len(content))
        self.marked = list(stored)
        self.put_bytes = 0
        self._before = stored
        for chunk in stored:
            self.content[chunk * MIB : (chunk + 1) * MIB] = content[chunk * MIB : (chunk + 1) * MIB]

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        for start in range(0, len(self.content), MIB):
            yield start, min(start + MIB, len(self.content)), start // MIB in self._before

    def read(self, start: int, end: int) -> Iterator[bytes]:
        yield bytes(self.content[start:end])

    def put(self, offset: int, data: bytes) -> None:
        self.put_bytes += len(data)
        self.content[offset : offset + len(data)] = data

    def mark(self, chunk: int) -> None:
        self.marked.append(chunk)


@dataclass
class Bench:
    """A blob in a registry, and one transfer of it."""

    registry: FakeRegistry
    client: Registry
    content: bytes = CONTENT
    stored: tuple[int, ...] = ()
    urgency: Urgency = field(default_factory=Urgency)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.descriptor = self.registry.content.add_blob(REPOSITORY, self.content)
        self.digest = str(self.descriptor.digest)
        self.target = MemoryTarget(self.content, self.stored)
        self.progress = Progress(len(self.content))
        sources = Sources()
        sources.add(self.client.repository(Reference.parse(f"{self.registry.host}/{REPOSITORY}:v1"), ANONYMOUS))
        filler = Filler(sources, self.progress, self.urgency, self.stop)
        self.transfer = FillTransfer(filler, self.descriptor, self.target, lambda: None)
        self.errors: list[BaseException] = []

    def start(self, consume: Callable[[Iterator[bytes]], None] | None = None) -> threading.Thread:
        def run() -> None:
            try:
                self.transfer.run(consume)
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def run(self, consume: Callable[[Iterator[bytes]], None] | None = None) -> None:
        self.start(consume).join(30)

    def wait_for(self, start: int, end: int) -> None:
        self.transfer.demand(start, end)
        wait_until(lambda: self.transfer.is_here(start, end))


@pytest.fixture
def bench(fake: FakeRegistry, client: Registry) -> Callable[..., Bench]:
    """Makes benches."""

    def make(content: bytes = CONTENT, stored: tuple[int, ...] = ()) -> Bench:
        return Bench(fake, client, content, stored)

    return make


def is_whole(job: Bench) -> bool:
    """Every byte is here, was stored and counted once, and nobody is waited for."""
    return (job.content, len(job.content) - len(job.stored) * MIB, 0, 0, []) == (
        bytes(job.target.content),
        job.target.put_bytes,
        job.progress.remaining_bytes,
        job.urgency.demands,
        job.errors,
    )


def test_a_fill(bench: Any, fake: FakeRegistry) -> None:
    """Stored, marked, hashed and counted; the consumer gets every byte in order; the registry sends each byte once."""
    job: Bench = bench()
    consumed: list[bytes] = []
    job.run(consumed.extend)

    assert is_whole(job)
    assert (job.content, list(range(13))) == (b"".join(consumed), sorted(job.target.marked))
    assert len(job.content) == fake.bytes_served[job.digest] == job.progress.downloaded_bytes


def test_what_is_stored_is_not_fetched(bench: Any, fake: FakeRegistry) -> None:
    """It is hashed with the rest."""
    job: Bench = bench(stored=(0, 5, 11))
    job.run()

    assert is_whole(job)
    assert len(job.content) - 3 * MIB == fake.bytes_served[job.digest]


def test_what_is_wanted_comes_first(bench: Any, fake: FakeRegistry) -> None:
    """The fill stands aside; afterwards it goes on around what is here."""
    job: Bench = bench()
    fake.faults.bytes_per_second_in_all = 8_000_000
    thread = job.start()
    wait_until(lambda: job.progress.downloaded_bytes > 0)
    job.wait_for(9 * MIB, 11 * MIB)
    had = sorted(job.target.marked)
    fake.faults.bytes_per_second_in_all = 0
    thread.join(30)

    assert {9, 10} <= set(had)
    assert len(had) < 8
    assert is_whole(job)
    assert len(job.content) == fake.bytes_served[job.digest]


def test_another_blob_of_the_job_stands_aside(bench: Any, fake: FakeRegistry) -> None:
    """It reads nothing while somebody waits elsewhere, and goes on when nobody does."""
    job: Bench = bench()
    fake.faults.bytes_per_second = 2_000_000
    thread = job.start()
    wait_until(lambda: job.progress.downloaded_bytes > MIB)
    with job.urgency.lock:
        job.urgency.demands += 1
    fake.faults.bytes_per_second = 0
    wait_until(lambda: job.transfer._streams._streams != [])
    stop = threading.Event()
    stop.wait(0.2)
    before = job.progress.downloaded_bytes
    stop.wait(0.2)
    after = job.progress.downloaded_bytes
    with job.urgency.lock:
        job.urgency.demands -= 1
        job.urgency.changed.notify_all()
    thread.join(30)

    assert before == after < len(job.content)
    assert is_whole(job)


@pytest.mark.parametrize("with_reset", [False, True])
def test_cuts_are_resumed(bench: Any, fake: FakeRegistry, with_reset: bool) -> None:
    """Nothing is fetched twice."""
    job: Bench = bench()
    fake.faults.cut_every_bytes, fake.faults.cut_with_reset = 700_000, with_reset
    job.run()

    assert is_whole(job)
    assert fake.bytes_served[job.digest] <= 1.02 * len(job.content)


@pytest.mark.parametrize("stored", [(), (0, 1, 6)])
def test_a_server_that_ignores_ranges(bench: Any, fake: FakeRegistry, stored: tuple[int, ...]) -> None:
    """One connection brings all from the start; who waits, waits for it."""
    job: Bench = bench(stored=stored)
    fake.faults.ignores_ranges = True
    job.transfer.demand(10 * MIB, 11 * MIB)
    job.run()

    assert is_whole(job)
    assert fake.blob_gets[job.digest] <= 6


def test_a_registry_that_is_busy_for_a_moment(bench: Any, fake: FakeRegistry) -> None:
    """Asked again until it answers."""
    job: Bench = bench()
    fake.faults.fail_next(503, times=4, path="blobs", retry_after="0")
    job.transfer.demand(5 * MIB, 6 * MIB)
    job.run()

    assert is_whole(job)


@pytest.mark.parametrize("fault", ["flip", "longer", "shorter"])
def test_damaged_content(bench: Any, fake: FakeRegistry, fault: str) -> None:
    """CorruptContent, and the progress is what it was."""
    job: Bench = bench()
    if fault == "flip":
        fake.faults.flip_bit_of.add(job.digest)
    else:
        fake.faults.resize[job.digest] = 10 if fault == "longer" else -10
    job.run()

    assert [CorruptContent] == [type(error) for error in job.errors]
    assert (len(job.content), 0) == (job.progress.remaining_bytes, job.urgency.demands)


def test_a_refusal_ends_it(bench: Any, fake: FakeRegistry) -> None:
    """404 is final; nobody is waited for any more."""
    job: Bench = bench()
    fake.content.blobs[REPOSITORY].clear()
    job.transfer.demand(5 * MIB, 6 * MIB)
    job.run()

    assert ([NotFound], 0) == ([type(error) for error in job.errors], job.urgency.demands)


def test_an_unsupported_artifact_counts_after_the_digest(bench: Any, fake: FakeRegistry) -> None:
    """The bytes must be the artifact's before it can be blamed."""

    def refuse(pieces: Iterator[bytes]) -> None:
        next(pieces)
        raise UnsupportedArtifact("no tar")

    right: Bench = bench()
    right.run(refuse)
    fake.faults.flip_bit_of.add(right.digest)
    wrong: Bench = bench()
    wrong.run(refuse)

    assert [UnsupportedArtifact, CorruptContent] == [type(error) for error in (*right.errors, *wrong.errors)]


@pytest.mark.parametrize("where", ["consumer", "target"])
def test_a_failure_within(bench: Any, where: str) -> None:
    """A full disk ends everything."""

    def fail(*_: object) -> None:
        raise StoreFull("full")

    job: Bench = bench()
    if where == "target":
        job.target.put = fail  # type: ignore[method-assign, assignment]
    job.run(fail if where == "consumer" else None)

    assert [StoreFull] == [type(error) for error in job.errors]


@pytest.mark.parametrize("is_wanted", [False, True])
def test_stopping_does_not_wait_for_a_silent_registry(bench: Any, fake: FakeRegistry, is_wanted: bool) -> None:
    """It is let go within a moment, whoever waits."""
    job: Bench = bench()
    fake.faults.stall_after_bytes = MIB
    thread = job.start()
    wait_until(lambda: job.progress.downloaded_bytes > 0)
    if is_wanted:
        job.transfer.demand(8 * MIB, 9 * MIB)
    job.stop.set()
    thread.join(5)

    assert (False, [Stopped], 0) == (
        thread.is_alive(),
        [type(error) for error in job.errors],
        job.urgency.demands,
    )


def test_readers_all_over_it(bench: Any, fake: FakeRegistry) -> None:
    """Eight of them, with hints, cancelling some: each byte comes once, and none is wrong."""
    job: Bench = bench(random.Random(1).randbytes(40 * MIB))  # noqa: S311 - noise
    fake.faults.bytes_per_second_in_all = 80_000_000
    thread = job.start()

    def read(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - no secret
        for _ in range(12):
            at = dice.randrange(38) * MIB
            job.transfer.hint(at + MIB, min(at + 6 * MIB, len(job.content)))
            if dice.random() < 0.2:
                job.transfer.demand(at, at + MIB)()
            else:
                job.wait_for(at, at + 2 * MIB)
                assert job.content[at : at + 2 * MIB] == job.target.content[at : at + 2 * MIB]

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for reader in readers:
        reader.start()
    for reader in [*readers, thread]:
        reader.join(30)

    assert is_whole(job)
    assert len(job.content) == fake.bytes_served[job.digest]
