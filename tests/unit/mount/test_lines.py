"""Packets with descriptors, in a loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from modelcsi.mount import wire
from modelcsi.mount.lines import Line, Loop, receive, send
from modelcsi.packets import MAX_PACKET_BYTES, encode

VIEW = "ab" * 32


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two:
        one.settimeout(10)
        two.settimeout(10)
        yield one, two


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_travel_and_are_not_inherited(pair: tuple[socket.socket, socket.socket]) -> None:
    """The other side has one of its own, which no program that it starts gets."""
    reader, writer = os.pipe()
    send(pair[0], wire.Serve(VIEW), [writer])
    os.close(writer)
    packet, (received,) = receive(pair[1])
    os.write(received, b"x")
    os.close(received)

    assert encode(wire.Serve(VIEW)) == packet
    assert b"x" == os.read(reader, 9)
    assert not os.get_inheritable(reader)
    os.close(reader)


def test_too_much_is_refused_and_leaks_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    """A packet that was cut off, and descriptors that did not fit."""
    before = _descriptors()
    for packet, descriptors in ((b"x" * (MAX_PACKET_BYTES + 1), [0]), (b"{}", [0, 1, 2])):
        socket.send_fds(pair[0], [packet], descriptors)
        with pytest.raises(OSError, match="did not fit"):
            receive(pair[1])

    assert before == _descriptors()


def test_who_does_not_read_gets_all_of_it_later(pair: tuple[socket.socket, socket.socket]) -> None:
    """What cannot be sent now waits, in order, with copies of its descriptors; nobody is waited for."""
    loop = Loop()
    heard: list[bytes] = []
    line = Line(loop, pair[0], lambda packet, _: heard.append(packet))
    reader, writer = os.pipe()
    before = _descriptors()
    count = 2000
    for number in range(count):
        line.send(wire.Lost(VIEW, str(number)), [writer] if number == count - 1 else [])
    os.close(writer)
    received: list[object] = []
    while len(received) < count:
        loop.turn(0)
        pair[1].setblocking(False)
        try:
            while True:
                packet, descriptors = receive(pair[1])
                received.append(wire.read_by_driver(packet))
        except BlockingIOError:
            continue
    os.write(descriptors[0], b"x")
    os.close(descriptors[0])

    assert [wire.Lost(VIEW, str(number)) for number in range(count)] == received
    assert b"x" == os.read(reader, 9)
    assert before - 1 == _descriptors()
    line.close()
    os.close(reader)


def test_who_never_reads_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    """Memory has an end; the reader of the line is told as if the other side had hung up."""
    loop = Loop()
    heard: list[bytes] = []
    line = Line(loop, pair[0], lambda packet, _: heard.append(packet))
    while line.is_open:
        line.send(wire.Ping())

    assert [b""] == heard


def test_the_end_comes_after_what_was_said(pair: tuple[socket.socket, socket.socket]) -> None:
    """All packets of one who hung up are read, though an answer to them cannot be sent any more."""
    loop = Loop()
    heard: list[bytes] = []
    line = Line(loop, pair[0], lambda packet, _: heard.append(packet))
    pair[1].send(b"1")
    pair[1].send(b"2")
    pair[1].close()
    line.send(wire.Ping())
    loop.turn(0)

    assert [b"1", b"2", b""] == heard
    assert not line.is_open


def test_a_line_that_was_closed_in_the_same_turn_is_silent() -> None:
    """Of two events of one turn, the first may close what the second is about."""
    loop = Loop()
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    heard: list[bytes] = []
    lines: list[Line] = []

    def read(packet: bytes, _: list[int]) -> None:
        heard.append(packet)
        for line in lines:
            line.close()

    lines += [Line(loop, ours, read) for ours, _ in ends]
    for _, theirs in ends:
        theirs.send(b"x")
    loop.turn(0)
    for _, theirs in ends:
        theirs.close()

    assert [b"x"] == heard
