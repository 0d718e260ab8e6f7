"""The driver's side of the demand socket, over real sockets."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcsi.errors import NotFound
from modelcsi.packets import MAX_PACKET_BYTES, Packet, encode
from modelcsi.store.layout import DEMAND_SOCKET_NAME
from modelcsi.view.exchange import Exchange
from modelcsi.view.wire import Ahead, Cancel, Changed, Failed, Hello, Here, ToServer, Want, read_by_server

VIEW = "ab" * 32
HELLO = Hello(7, "passthrough", 1.5)


class Demands:
    """Remembers what is asked; the test answers."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.wants: list[tuple[Want, Callable[[Exception | None], None]]] = []
        self.hints: list[Ahead] = []
        self.given_up: list[int] = []
        self.is_here = False
        self.bug: Exception | None = None

    def want(self, want: Want, done: Callable[[Exception | None], None]) -> Callable[[], None]:
        if self.bug is not None:
            raise self.bug
        with self.changed:
            self.wants.append((want, done))
            self.changed.notify_all()
        if self.is_here:
            done(None)
        return lambda: self._give_up(want.id)

    def ahead(self, ahead: Ahead) -> None:
        if self.bug is not None:
            raise self.bug
        with self.changed:
            self.hints.append(ahead)
            self.changed.notify_all()

    def _give_up(self, number: int) -> None:
        with self.changed:
            self.given_up.append(number)
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10)


@pytest.fixture
def demands() -> Demands:
    """What the test answers."""
    return Demands()


@pytest.fixture
def exchange(tmp_path: Path, demands: Demands) -> Iterator[Exchange]:
    """One that listens below `tmp_path`."""
    exchange = Exchange(tmp_path, demands)
    exchange.start()
    yield exchange
    exchange.stop()


@pytest.fixture
def connect(tmp_path: Path, exchange: Exchange) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections as a server does."""
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.append(connection)
        connection.settimeout(10)
        connection.connect(str(tmp_path / DEMAND_SOCKET_NAME))
        return connection

    yield open_one
    for connection in opened:
        connection.close()


def say(connection: socket.socket, *messages: Packet) -> None:
    """As a server."""
    for message in messages:
        connection.send(encode(message))


def hear(connection: socket.socket) -> ToServer:
    """The next word of the driver."""
    return read_by_server(connection.recv(MAX_PACKET_BYTES))


def test_the_socket_is_roots_alone(tmp_path: Path, exchange: Exchange) -> None:
    """Whoever connects learns what pods read."""
    status = (tmp_path / DEMAND_SOCKET_NAME).stat()

    assert (0o600, os.geteuid()) == (stat.S_IMODE(status.st_mode), status.st_uid)


def test_answers_come_in_the_order_of_the_bytes(connect: Callable[[], socket.socket], demands: Demands) -> None:
    """Not in that of the questions; what cannot be had is told with its reason."""
    connection = connect()
    say(connection, HELLO, Want(1, VIEW, 0, 0, 9), Want(2, VIEW, 0, 9, 12), Ahead(VIEW, 0, 12, 20))
    demands.until(lambda: len(demands.hints) == 1)
    demands.wants[1][1](None)
    demands.wants[0][1](NotFound("the blob is gone"))

    assert [Here(2), Failed(1, 5, "the blob is gone")] == [hear(connection), hear(connection)]
    assert [Ahead(VIEW, 0, 12, 20)] == demands.hints


def test_a_question_that_cannot_be_answered(connect: Callable[[], socket.socket], demands: Demands) -> None:
    """It gets an error, and the answers to others go on, on this connection and on others."""
    connection, other = connect(), connect()
    demands.bug = RuntimeError("can't start new thread")
    say(connection, HELLO, Ahead(VIEW, 0, 0, 9), Want(1, VIEW, 0, 0, 9))
    failed = hear(connection)
    demands.bug, demands.is_here = None, True
    say(connection, Want(2, VIEW, 0, 0, 9))
    say(other, Want(2, VIEW, 0, 0, 9))

    assert Failed(1, 5, "can't start new thread") == failed
    assert Here(2) == hear(connection) == hear(other)


def test_a_server_dies_while_it_is_answered(connect: Callable[[], socket.socket], demands: Demands) -> None:
    """That its answer cannot be sent is seen in the same turn as its end; the others are answered all the same."""
    victim, other = connect(), connect()
    say(victim, HELLO, Want(1, VIEW, 0, 0, 9))
    demands.until(lambda: len(demands.wants) == 1)
    with demands.changed:  # the thread waits here with the question, and sees both when it goes on
        say(other, HELLO, Want(2, VIEW, 0, 0, 9))
        demands.wants[0][1](None)
        victim.close()
    demands.until(lambda: len(demands.wants) == 2)
    demands.wants[1][1](None)

    assert Here(2) == hear(other)


def test_who_pulls_talks_on_after_the_end(tmp_path: Path, demands: Demands) -> None:
    """Nobody is told, and no descriptor is written to that may be somebody else's by then."""
    exchange = Exchange(tmp_path, demands)
    exchange.start()
    exchange.stop()
    reader, writer = os.pipe()
    exchange.tell(Changed(VIEW, (1,)))
    os.close(writer)
    written = os.read(reader, 8)
    os.close(reader)

    assert b"" == written


def test_what_is_here_is_answered_at_once(connect: Callable[[], socket.socket], demands: Demands) -> None:
    """The answer may come before the question was taken."""
    demands.is_here = True
    connection = connect()
    say(connection, Want(3, VIEW, 0, 0, 1))

    assert Here(3) == hear(connection)


def test_who_waits_no_more_gives_up(connect: Callable[[], socket.socket], demands: Demands) -> None:
    """By a word, or by hanging up; what was answered is not given up."""
    connection = connect()
    say(connection, *(Want(number, VIEW, 0, 0, 1) for number in (1, 2, 3)), Cancel(2))
    demands.until(lambda: demands.given_up == [2])
    demands.wants[0][1](None)
    answer = hear(connection)
    say(connection, Ahead(VIEW, 0, 0, 1))  # the next round of the loop: the answer's bookkeeping is done
    demands.until(lambda: len(demands.hints) == 1)
    connection.close()
    demands.until(lambda: len(demands.given_up) == 2)

    assert (Here(1), [2, 3]) == (answer, demands.given_up)


@pytest.mark.parametrize("packet", [b"{", b"[]", b'{"op":"want","id":1}', b"\xff", b'{"op":"hello","pid":-1}'])
def test_who_talks_nonsense_is_cut_off(connect: Callable[[], socket.socket], demands: Demands, packet: bytes) -> None:
    """The others are served on; a message of a newer release is passed over."""
    good, bad = connect(), connect()
    say(good, HELLO)
    bad.send(packet)
    closed = bad.recv(MAX_PACKET_BYTES)
    good.send(b'{"op":"later","x":1}')
    say(good, Want(1, VIEW, 0, 0, 1))
    demands.until(lambda: len(demands.wants) == 1)

    assert b"" == closed


def test_news_reach_every_server(connect: Callable[[], socket.socket], demands: Demands, exchange: Exchange) -> None:
    """While one is replaced there are two."""
    first, second = connect(), connect()
    for connection in (first, second):
        say(connection, HELLO, Want(1, VIEW, 0, 0, 1))
    demands.until(lambda: len(demands.wants) == 2)
    exchange.tell(Changed(VIEW, (0, 4)))

    assert [Changed(VIEW, (0, 4))] * 2 == [hear(first), hear(second)]
    assert (HELLO, HELLO) == exchange.servers()


def test_who_does_not_listen_is_cut_off(
    connect: Callable[[], socket.socket], demands: Demands, exchange: Exchange
) -> None:
    """A stuck server must not fill the driver's memory, nor hold its threads."""
    connection = connect()
    say(connection, Want(1, VIEW, 0, 0, 1))
    demands.until(lambda: len(demands.wants) == 1)
    for _ in range(12_000):
        exchange.tell(Changed(VIEW, (0,)))
    demands.until(lambda: demands.given_up == [1])

    assert () == exchange.servers()


def test_the_next_process_takes_the_socket_over(tmp_path: Path, demands: Demands) -> None:
    """Whatever the last one left."""
    first = Exchange(tmp_path, demands)
    first.start()
    first.stop()
    second = Exchange(tmp_path, demands)
    second.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(10)
        connection.connect(str(tmp_path / DEMAND_SOCKET_NAME))
        say(connection, Want(1, VIEW, 0, 0, 1))
        demands.until(lambda: len(demands.wants) == 1)
        second.stop()

        assert b"" == connection.recv(MAX_PACKET_BYTES)
