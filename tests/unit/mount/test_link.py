"""A server's end of its line to the holder."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcsi.mount import wire
from modelcsi.mount.lines import receive, send
from modelcsi.mount.link import SOCKET_NAME, HolderLink

VIEW, OTHER = "ab" * 32, "cd" * 32


class Holder:
    """The other end, and the place where servers look for the next one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(10)
        self.their_fd = theirs.detach()

    def serve(self, view: str, serial: str = "") -> None:
        """With any descriptor."""
        descriptor = os.open(os.devnull, os.O_RDONLY)
        send(self.line, wire.Serve(view, "0:1", serial), [descriptor])
        os.close(descriptor)

    def listen(self) -> socket.socket:
        """Appear as a holder does: a socket that listens is renamed to its place."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.root / "new"))
        listener.listen()
        (self.root / "new").rename(self.root / SOCKET_NAME)
        listener.settimeout(10)
        return listener


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    """One that lives."""
    monkeypatch.chdir(tmp_path)
    made = Holder(Path())
    yield made
    made.line.close()


@pytest.fixture
def link(holder: Holder) -> Iterator[HolderLink]:
    """A server's link to it."""
    made = HolderLink(holder.their_fd, holder.root)
    yield made
    made.close()


def _is_readable(link: HolderLink) -> bool:
    return bool(select.select([link.fileno()], [], [], 0)[0])


def _take(link: HolderLink, kept: list[int] | None = None) -> list[object]:
    """The orders; their descriptors are closed, as a server would in the end, or kept."""
    orders = link.take()
    for _, descriptor in orders:
        if descriptor is not None and kept is None:
            os.close(descriptor)
        elif descriptor is not None and kept is not None:
            kept.append(descriptor)
    return [order for order, _ in orders]


@pytest.fixture
def kept() -> Iterator[list[int]]:
    """Descriptors of views that are served during a test."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def _hear(line: socket.socket) -> list[object]:
    heard: list[object] = []
    line.setblocking(False)
    try:
        while True:
            packet, descriptors = receive(line)
            heard.append(wire.read_from_peer(packet))
            for descriptor in descriptors:
                heard.append("descriptor")
                os.close(descriptor)
    except BlockingIOError:
        return heard


def test_pings_are_answered_by_the_loop(holder: Holder, link: HolderLink) -> None:
    """They are no order; a loop that does not come round is silent."""
    send(holder.line, wire.Ping())

    assert _is_readable(link)
    assert [] == _hear(holder.line)
    assert [] == _take(link)
    assert [wire.Pong()] == _hear(holder.line)
    assert not _is_readable(link)


def test_orders_come_in_order(holder: Holder, link: HolderLink) -> None:
    """A view comes with its descriptor; what this release does not know, or nobody could, is passed over."""
    holder.serve(VIEW)
    holder.line.send(b'{"op":"dance"}')
    holder.line.send(b"nonsense")
    send(holder.line, wire.Serve(OTHER))  # without its descriptor
    send(holder.line, wire.Resend())
    send(holder.line, wire.Drop(VIEW))
    send(holder.line, wire.Leave())

    assert [wire.Serve(VIEW, "0:1"), wire.Resend(), wire.Drop(VIEW), wire.Leave()] == _take(link)


def test_what_a_server_tells(holder: Holder, link: HolderLink) -> None:
    """Of an end it tells which connection that was: the view may have another by now."""
    holder.serve(VIEW, "first")
    _take(link)
    link.ready()
    link.served(VIEW)
    link.gone(VIEW)
    link.gone(OTHER, "why")

    expected = [wire.Pong(), wire.Served(VIEW), wire.Gone(VIEW, "", "first"), wire.Gone(OTHER, "why")]
    assert expected == _hear(holder.line)


def test_a_standby_ends_with_its_holder(holder: Holder, link: HolderLink) -> None:
    """It has nothing to serve, and nobody would ever ask it to."""
    holder.line.close()

    assert [wire.Leave()] == _take(link)


def test_an_orphan_serves_on_until_its_last_view_has_gone(holder: Holder, link: HolderLink, kept: list[int]) -> None:
    """The loop is told, though nobody is there to tell."""
    holder.serve(VIEW)
    holder.line.close()

    assert [wire.Serve(VIEW, "0:1")] == _take(link, kept)
    assert not _is_readable(link)
    link.gone(VIEW)
    assert _is_readable(link)
    assert [wire.Leave()] == _take(link)


def test_an_orphan_goes_to_the_next_holder(holder: Holder, link: HolderLink, kept: list[int]) -> None:
    """It waits for the socket to appear, hands in what it has, and hears orders again."""
    holder.serve(VIEW, "first")
    holder.line.close()
    _take(link, kept)
    (holder.root / "another file").touch()
    assert [] == _take(link)
    with holder.listen() as listener:
        assert _is_readable(link)
        assert [] == _take(link)
        home, _ = listener.accept()
    with home:
        heard = _hear(home)
        send(home, wire.Leave())

        orphan = wire.Orphan(os.getpid(), "passthrough")
        assert [orphan, wire.Returned(VIEW, "0:1", "first"), "descriptor"] == heard[:3]
        assert [wire.Leave()] == _take(link)


def test_the_next_holder_is_there_already(holder: Holder, link: HolderLink, kept: list[int]) -> None:
    """A server that was stopped while all that happened finds it at once."""
    holder.serve(VIEW)
    _take(link, kept)
    with holder.listen() as listener:
        holder.line.close()
        link.take()
        home, _ = listener.accept()
        home.close()


def test_the_next_holder_dies_too(holder: Holder, link: HolderLink, kept: list[int]) -> None:
    """The orphan waits for the one after."""
    holder.serve(VIEW)
    holder.line.close()
    _take(link, kept)
    for _ in range(2):
        with holder.listen() as listener:
            link.take()
            home, _ = listener.accept()
            home.close()
        link.take()

    assert not _is_readable(link)


def test_a_server_of_pyfuse3_keeps_its_descriptor(holder: Holder, kept: list[int]) -> None:
    """A copy of it would make readers hang when the server dies."""
    link = HolderLink(holder.their_fd, holder.root, "pyfuse3")
    holder.serve(VIEW)
    holder.line.close()
    _take(link, kept)
    with holder.listen() as listener:
        link.take()
        home, _ = listener.accept()
    with home:
        assert [wire.Orphan(os.getpid(), "pyfuse3"), wire.Returned(VIEW, "0:1", has_descriptor=False)] == _hear(home)
    link.close()


def test_the_link_leaves_no_descriptor(holder: Holder) -> None:
    """Neither as an orphan nor after its return."""
    before = len(os.listdir("/proc/self/fd"))
    link = HolderLink(holder.their_fd, holder.root)
    holder.serve(VIEW)
    holder.line.close()
    _take(link)
    link.close()

    assert before - 2 == len(os.listdir("/proc/self/fd"))  # both ends of the line
