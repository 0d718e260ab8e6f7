"""The server's end of the demand socket, with a driver that comes and goes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcsi.packets import MAX_PACKET_BYTES, Packet, encode
from modelcsi.view.link import Link
from modelcsi.view.wire import Ahead, Cancel, Changed, Failed, Hello, Here, Want, read_by_driver
from tests.fakes.demand import FakeLoop
from tests.fakes.lazy import VIEW


class StepLoop(FakeLoop):
    """Time stands still, and descriptors are looked at when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, tuple[Callable[[], None], bool]] = {}

    def watch(self, fd: int, ready: Callable[[], None], *, is_writing: bool = False) -> None:
        self.watched[fd] = (ready, is_writing)

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def step(self) -> None:
        """All that are watched are ready."""
        for ready, _ in tuple(self.watched.values()):
            ready()


class Observer:
    def __init__(self) -> None:
        self.events: list[object] = []

    def changed(self, view: str, files: tuple[int, ...]) -> None:
        self.events.append((view, files))

    def connected(self) -> None:
        self.events.append("connected")


class Driver:
    """One that listens."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connection: socket.socket | None = None

    def hear(self) -> list[Packet]:
        """All that was said."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.setblocking(False)
        said: list[Packet] = []
        while True:
            try:
                said.append(read_by_driver(self._connection.recv(MAX_PACKET_BYTES)))
            except BlockingIOError:
                return said

    def say(self, *messages: Packet) -> None:
        self.say_bytes(*(encode(message) for message in messages))

    def say_bytes(self, *packets: bytes) -> None:
        assert self._connection is not None, "heard first"
        for packet in packets:
            self._connection.send(packet)

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


@pytest.fixture
def loop() -> StepLoop:
    """The loop."""
    return StepLoop()


@pytest.fixture
def observer() -> Observer:
    """Who is told."""
    return Observer()


@pytest.fixture
def link(tmp_path: Path, loop: StepLoop, observer: Observer) -> Iterator[Link]:
    """A link that has not begun."""
    made = Link(tmp_path / "demand.sock", "passthrough", loop, observer)
    yield made
    made.close()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """One that is there from the beginning."""
    listening = Driver(tmp_path / "demand.sock")
    yield listening
    listening.close()


def _want(id: int) -> Want:
    return Want(id, VIEW, 0, 0, 10)


def test_wants_and_answers(link: Link, driver: Driver, loop: StepLoop) -> None:
    """A server says who it is and what it wants, and each want is answered once."""
    answers: list[tuple[int, int]] = []
    link.connect()
    for id in (1, 2, 3):
        link.want(_want(id), lambda number, id=id: answers.append((id, number)))  # type: ignore[misc]
    link.cancel(3)
    hello, *said = driver.hear()
    driver.say(Here(2), Failed(1, 28, "full"), Here(3), Here(2), Here(99))
    loop.step()

    assert isinstance(hello, Hello)
    assert [_want(1), _want(2), _want(3), Cancel(3)] == said
    assert [(2, 0), (1, 28)] == answers


def test_driver_that_comes_later(link: Link, loop: StepLoop, tmp_path: Path, observer: Observer) -> None:
    """What is wanted while nobody listens is said when somebody does, within a second."""
    link.connect()
    link.want(_want(1), lambda _: None)
    link.ahead(Ahead(VIEW, 0, 0, 10))
    link.want(_want(2), lambda _: None)
    link.cancel(2)
    loop.pass_time(60)
    driver = Driver(tmp_path / "demand.sock")
    loop.pass_time(1)
    said = driver.hear()
    driver.close()

    assert [_want(1)] == said[1:]
    assert ["connected"] == observer.events


def test_driver_that_is_replaced(
    link: Link, driver: Driver, loop: StepLoop, tmp_path: Path, observer: Observer
) -> None:
    """A new driver is told what is still wanted, after whoever waits has looked at what is here by now."""
    link.connect()
    for id in (1, 2):
        link.want(_want(id), lambda _: None)
    driver.hear()
    driver.say(Here(1))
    loop.step()
    driver.close()
    loop.step()
    following = Driver(tmp_path / "demand.sock")
    loop.pass_time(1)
    said = following.hear()
    following.close()

    assert [_want(2)] == said[1:]
    assert ["connected", "connected"] == observer.events


def test_what_the_driver_says_of_its_own_accord(link: Link, driver: Driver, loop: StepLoop, observer: Observer) -> None:
    """Changes are passed on, messages of a newer release are passed over."""
    link.connect()
    driver.hear()
    driver.say_bytes(b'{"op":"dance"}', encode(Changed(VIEW, (1, 2))))
    loop.step()

    assert ["connected", (VIEW, (1, 2))] == observer.events


def test_driver_that_talks_nonsense(link: Link, driver: Driver, loop: StepLoop) -> None:
    """The connection is given up and made again, not faster and faster."""
    link.connect()
    driver.hear()
    driver.say_bytes(b"nonsense")
    loop.step()

    assert {} == loop.watched
    loop.pass_time(0.1)
    assert 1 == len(loop.watched)


def test_driver_that_does_not_listen(link: Link, driver: Driver, loop: StepLoop) -> None:
    """Wants queue up and none is lost; hints are dropped."""
    link.connect()
    for id in range(2000):
        link.want(_want(id), lambda _: None)
        link.ahead(Ahead(VIEW, 0, id, id + 1))
    queued = [is_writing for _, is_writing in loop.watched.values()]
    said: list[Packet] = []
    while len([message for message in said if isinstance(message, Want)]) < 2000:
        said += driver.hear()
        loop.step()

    assert [True] == queued
    assert list(range(2000)) == [message.id for message in said if isinstance(message, Want)]
    assert len([message for message in said if isinstance(message, Ahead)]) < 1000
