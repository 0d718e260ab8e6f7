"""Packets with descriptors between processes, and the loop of one that waits for many of them.

Nothing here blocks but `Loop.turn`. One thread.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence

from modelcsi.packets import MAX_PACKET_BYTES, Packet, encode

logger = logging.getLogger(__name__)

MAX_DESCRIPTORS = 2
"""That travel with one message."""
_MAX_WAITING = 16384
"""Messages for somebody who does not read. A guess: more than a list of all views that a node can have."""


class Loop:
    """Descriptors, and what to do when they can be read or written."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, descriptor: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call `handler` with the events from now on."""
        if descriptor in self._handlers:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def forget(self, descriptor: int) -> None:
        """No more calls, also not of this turn; before the descriptor is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def turn(self, timeout_seconds: float | None) -> None:
        """Wait for events, and handle those that are there."""
        for descriptor, events in self._epoll.poll(timeout_seconds):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events)


class Line:
    """A connection in a loop; `is_open` is False once either side hung up."""

    def __init__(self, loop: Loop, connection: socket.socket, read: Callable[[bytes, list[int]], None]) -> None:
        """`read` is called with each packet and its descriptors, which are its own to close; with no bytes at the end."""
        connection.setblocking(False)
        self._loop = loop
        self._socket = connection
        self._read = read
        self._waiting: deque[tuple[Packet, list[int]]] = deque()
        self.is_open = True
        loop.watch(connection.fileno(), self._handle)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    @property
    def is_flushed(self) -> bool:
        """Whether all that was sent has left, and stays in the kernel for the other side if this one ends."""
        return not self._waiting

    def send(self, message: Packet, descriptors: Sequence[int] = ()) -> None:
        """Now or as soon as the other side reads; copies of the descriptors are kept till then."""
        if not self.is_open:
            return
        if not self._waiting and self._send_now(message, descriptors):
            return
        if self.is_open:
            self._waiting.append((message, [os.dup(descriptor) for descriptor in descriptors]))
            self._loop.watch(self.fileno(), self._handle, select.EPOLLIN | select.EPOLLOUT)
        if len(self._waiting) > _MAX_WAITING:
            self._end("reads nothing")

    def close(self) -> None:
        """Hang up, without a call of `read`."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.forget(self.fileno())
        self._socket.close()
        while self._waiting:
            _close_all(self._waiting.popleft()[1])

    def _send_now(self, message: Packet, descriptors: Sequence[int]) -> bool:
        try:
            send(self._socket, message, descriptors)
        except BlockingIOError:
            return False
        except OSError as error:
            # Not the end yet: what the other side had said before it hung up is still to be read.
            logger.debug("%s cannot be sent: %s", message.op, error)
        return True

    def _handle(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        while self.is_open and events & ~select.EPOLLOUT:
            try:
                packet, descriptors = receive(self._socket)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(str(error))
                return
            if not packet:
                self._end("")
                return
            self._read(packet, descriptors)

    def _flush(self) -> None:
        while self.is_open and self._waiting:
            message, descriptors = self._waiting[0]
            if not self._send_now(message, descriptors):
                return
            self._waiting.popleft()
            _close_all(descriptors)
        if self.is_open:
            self._loop.watch(self.fileno(), self._handle)

    def _end(self, why: str) -> None:
        if why:
            logger.warning("a connection is given up: %s", why)
        self.close()
        self._read(b"", [])


def send(line: socket.socket, message: Packet, descriptors: Sequence[int] = ()) -> None:
    """One message with its descriptors, whole or not at all. Raises OSError (BlockingIOError: not now)."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    line.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)


def receive(line: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it; nothing when the other side hung up. Raises OSError."""
    # Not socket.recv_fds: it passes no flags on, and descriptors would leak into every program that is started meanwhile.
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)
    try:
        packet, rights, flags, _ = line.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # hung up, and left unread what we had sent
        return b"", []
    descriptors = array("i")
    for level, sort, content in rights:
        if (level, sort) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close_all(descriptors)
        raise OSError(f"a message of more than {MAX_PACKET_BYTES} bytes, or descriptors that did not fit")
    return packet, list(descriptors)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
