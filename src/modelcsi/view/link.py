"""The server's end of the demand socket.

The driver may be away, for as long as an upgrade takes: what is wanted is kept, the connection is tried again, and all of it
is asked anew. Nothing here waits; times are the loop's.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from modelcsi.packets import MAX_PACKET_BYTES, Packet, UnknownPacket, encode
from modelcsi.socket_place import SocketPlace
from modelcsi.view.loop import Loop, Timer
from modelcsi.view.wire import Ahead, Cancel, Changed, Failed, Hello, Want, read_by_server

logger = logging.getLogger(__name__)

_FIRST_BACK_OFF_SECONDS = 0.05
_LAST_BACK_OFF_SECONDS = 0.1
"""A driver that starts is found this soon: "restart + 1 s" is what a reader of a missing range was promised."""
_MAX_HINTS_QUEUED = 64

Answered = Callable[[int], None]
"""Told 0, or the errno with which a want failed."""


class Demand(Protocol):
    """Whoever can have bytes fetched."""

    def want(self, want: Want, answered: Answered) -> None:
        """Have the bytes fetched first of all; `answered` is told once, never from within this call, unless it is cancelled."""

    def cancel(self, id: int) -> None:
        """Nobody waits any more."""

    def ahead(self, hint: Ahead) -> None:
        """These bytes may be wanted soon. May be forgotten."""


class LinkObserver(Protocol):
    """Who is told what the driver says of its own accord."""

    def changed(self, view: str, files: tuple[int, ...]) -> None:
        """What was read of these files is wrong."""

    def connected(self) -> None:
        """The driver is there again: it may have said something that nobody heard."""


class Link:
    """One connection to the driver, made again whenever it ends. Satisfies `Demand`."""

    def __init__(self, path: Path, adapter: str, loop: Loop, observer: LinkObserver) -> None:
        self._path = path
        self._hello = Hello(os.getpid(), adapter, time.time())
        self._loop = loop
        self._observer = observer
        self._socket: socket.socket | None = None
        self._wants: dict[int, tuple[Want, Answered]] = {}
        self._queue: deque[bytes] = deque()
        self._back_off = _FIRST_BACK_OFF_SECONDS
        self._timer: Timer | None = None

    def connect(self) -> None:
        """Begin; connects at once where the driver listens."""
        self._timer = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with SocketPlace(self._path.parent, self._path.name) as place:
                connection.connect(place.socket_path)
        except OSError:  # nobody listens, or more than its backlog are waiting
            connection.close()
            self._connect_later()
            return
        self._socket = connection
        self._loop.watch(connection.fileno(), self._ready)
        self._send(self._hello)
        self._observer.connected()
        for want, _ in tuple(self._wants.values()):
            self._send(want)

    def close(self) -> None:
        """Hang up, for good."""
        if self._timer is not None:
            self._timer.cancel()
        self._hang_up()

    def want(self, want: Want, answered: Answered) -> None:
        """`Demand.want`."""
        self._wants[want.id] = (want, answered)
        self._send(want)

    def cancel(self, id: int) -> None:
        """`Demand.cancel`."""
        if self._wants.pop(id, None) is not None:
            self._send(Cancel(id))

    def ahead(self, hint: Ahead) -> None:
        """`Demand.ahead`: forgotten while the driver is away, or has more to read than it can."""
        if len(self._queue) < _MAX_HINTS_QUEUED:
            self._send(hint)

    def _send(self, message: Packet) -> None:
        if self._socket is not None:  # else all that is still wanted is said when the driver is back
            self._queue.append(encode(message))
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None, "only called while connected"
        try:
            while self._queue:
                self._socket.send(self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            self._loop.watch(self._socket.fileno(), self._ready, is_writing=True)
        except OSError:
            self._lose()

    def _ready(self) -> None:
        if self._queue and self._socket is not None:
            self._loop.watch(self._socket.fileno(), self._ready)
            self._flush()
        while self._socket is not None:
            try:
                packet = self._socket.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._lose()
                return
            self._back_off = _FIRST_BACK_OFF_SECONDS
            self._hear(packet)

    def _hear(self, packet: bytes) -> None:
        try:
            message = read_by_server(packet)
        except UnknownPacket as error:
            logger.debug("skipped: %s", error)
            return
        except ValueError as error:
            logger.warning("the driver said what is no message (%s); connecting again", error)
            self._lose()
            return
        if isinstance(message, Changed):
            self._observer.changed(message.view, message.files)
            return
        _, answered = self._wants.pop(message.id, (None, None))
        if isinstance(message, Failed) and answered is not None:
            logger.warning("wanted bytes cannot be had: %s", message.why)
        if answered is not None:  # else cancelled while the answer was under way
            answered(message.errno if isinstance(message, Failed) else 0)

    def _lose(self) -> None:
        self._hang_up()
        self._connect_later()

    def _connect_later(self) -> None:
        self._timer = self._loop.call_at(self._loop.now() + self._back_off, self.connect)
        self._back_off = min(_LAST_BACK_OFF_SECONDS, 2 * self._back_off)

    def _hang_up(self) -> None:
        self._queue.clear()
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None
