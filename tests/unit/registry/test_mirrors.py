from __future__ import annotations

import pytest

from modelcsi.errors import CorruptContent, ModelCsiError, NotFound, RegistryUnavailable
from modelcsi.oci.digest import Digest
from modelcsi.registry.blob import BlobStream, Span
from modelcsi.registry.mirrors import MirrorHealth, MirrorRules, MirrorStream

URL, HOST = "https://mirror.example.com/v2", "mirror.example.com"
RULES = MirrorRules(
    pause_seconds=10, longest_pause_seconds=35, slow_seconds=4, least_bytes_per_second=100, worth_bytes=50
)
DIGEST = Digest.of(b"weights")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Of the health."""
    return Clock()


@pytest.fixture
def health(clock: Clock) -> MirrorHealth:
    """Nothing has failed yet."""
    return MirrorHealth(RULES, clock)


def ask(health: MirrorHealth, error: ModelCsiError | None = None) -> str:
    """What becomes of a question that the mirror answers, or answers with an error."""

    def answer() -> str:
        if error is not None:
            raise error
        return "answered"

    try:
        return health.ask(URL, HOST, answer)
    except ModelCsiError as raised:
        return "left alone" if "is left alone" in raised.message else "failed"


def test_a_mirror_that_failed_is_left_alone_for_longer_each_time(health: MirrorHealth, clock: Clock) -> None:
    """10 s, 20 s, and never more than 35; one that serves in between starts anew."""
    pauses = []
    for _ in range(4):
        assert ask(health, RegistryUnavailable("down")) == "failed"
        began = clock.now
        while ask(health) == "left alone":
            clock.now += 1
        pauses.append(clock.now - began)
    health.served(URL)
    ask(health, RegistryUnavailable("down"))
    clock.now += 10

    assert [10, 20, 35, 35] == pauses
    assert "answered" == ask(health)


def test_an_old_failure_is_forgotten(health: MirrorHealth, clock: Clock) -> None:
    """A mirror that fails once a day is not punished for last week."""
    for _ in range(3):
        ask(health, RegistryUnavailable("down"))
        clock.now += 36
    clock.now += 100
    ask(health, RegistryUnavailable("down"))
    clock.now += 10

    assert "answered" == ask(health)


def test_a_refusal_is_an_answer(health: MirrorHealth) -> None:
    """A mirror that lacks a blob serves others."""
    assert ["failed", "answered"] == [ask(health, NotFound("no such blob")), ask(health)]


def test_garbage_counts_as_a_failure(health: MirrorHealth) -> None:
    """What it sends next is not better."""
    assert ["failed", "left alone"] == [ask(health, CorruptContent("another digest")), ask(health)]


def test_failures_at_the_same_time_are_one(health: MirrorHealth, clock: Clock) -> None:
    """Eight connections that break together say no more than one."""
    for _ in range(8):
        health.failed(URL, HOST, RegistryUnavailable("down"))
    clock.now += 10

    assert "answered" == ask(health)


def test_blame_is_for_a_blob_and_ends(health: MirrorHealth, clock: Clock) -> None:
    """For an hour; other blobs of the mirror only wait."""
    health.blame(URL, HOST, DIGEST)
    found = [health.is_blamed(URL, DIGEST), health.is_blamed(URL, Digest.of(b"other")), ask(health) == "left alone"]
    clock.now += 3601

    assert [True, False, True] == found
    assert (False, "answered") == (health.is_blamed(URL, DIGEST), ask(health))


class SlowAnswer:
    """An answer whose reads take their time and may fail; the rest of a `Response` is not asked for."""

    status = 200

    def __init__(self, clock: Clock, *reads: tuple[float, int]) -> None:
        """Each read takes seconds and brings bytes; after the last one the connection breaks."""
        self._clock = clock
        self._reads = list(reads)

    def header(self, name: str) -> str:
        return "1000" if name == "Content-Length" else ""

    def header_lines(self, name: str) -> tuple[str, ...]:
        return (self.header(name),)

    def read(self, size: int) -> bytes:
        if not self._reads:
            raise RegistryUnavailable("the connection broke")
        seconds, count = self._reads.pop(0)
        self._clock.now += seconds
        return bytes(min(count, size))

    def close(self) -> None:
        """Nothing is open."""


def stream(health: MirrorHealth, clock: Clock, *reads: tuple[float, int]) -> MirrorStream:
    """A blob of 1000 bytes that comes so."""
    blob = BlobStream(SlowAnswer(clock, *reads), Span("a blob", 0, 1000, 1000), is_range=False)
    return MirrorStream(blob, health, URL, HOST)


def test_a_slow_mirror_is_left_after_what_it_sent(health: MirrorHealth, clock: Clock) -> None:
    """No byte that came is lost."""
    slow = stream(health, clock, (3, 100), (3, 100), (3, 100))
    sizes = [len(slow.read(1000)), len(slow.read(1000))]
    with pytest.raises(RegistryUnavailable, match="is slow"):
        slow.read(1000)

    assert [100, 100] == sizes
    assert "left alone" == ask(health)


def test_only_waiting_counts(health: MirrorHealth, clock: Clock) -> None:
    """Whoever reads may take an hour between two reads."""
    fine = stream(health, clock, (0.1, 100), (0.1, 100))
    fine.read(1000)
    clock.now += 3600
    fine.read(1000)

    assert "answered" == ask(health)


def test_a_connection_that_breaks_after_a_lot_is_made_again(health: MirrorHealth, clock: Clock) -> None:
    """One that breaks at once is the mirror's failure."""
    outcomes = []
    for size in (60, 40):
        broken = stream(health, clock, (0.1, size))
        broken.read(1000)
        with pytest.raises(RegistryUnavailable):
            broken.read(1000)
        outcomes.append(ask(health))

    assert ["answered", "left alone"] == outcomes


def test_a_stream_that_we_closed_is_not_its_failure(health: MirrorHealth, clock: Clock) -> None:
    """A pull that is stopped closes what it reads."""
    closed = stream(health, clock)
    closed.close()
    with pytest.raises(RegistryUnavailable):
        closed.read(1000)

    assert "answered" == ask(health)
