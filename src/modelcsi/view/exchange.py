"""The driver's side of the demand socket: servers say what is read, and are told when it is there.

One thread for all of them, since what they want is answered by the threads that pull: those never wait for a server that
reads its answers slowly, or not at all. A server whose answers pile up is cut off; it connects again and repeats what it wants.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from modelcsi.packets import MAX_PACKET_BYTES, UnknownPacket, encode
from modelcsi.socket_place import SocketPlace
from modelcsi.store.layout import DEMAND_SOCKET_NAME
from modelcsi.view.wire import Ahead, Cancel, Changed, Failed, Hello, Here, ToDriver, ToServer, Want, read_by_driver

logger = logging.getLogger(__name__)

_MAX_WAITING_ANSWERS = 10_000
"""Ten times the requests that the kernel lets a server have at once, for each of ten busy views: a guess at what no server needs."""
_BACKLOG = 64


class Demands(Protocol):
    """Who knows how to get at bytes."""

    def want(self, want: Want, done: Callable[[Exception | None], None]) -> Callable[[], None]:
        """Have bytes brought; `done` is called once, from any thread, perhaps before this returns. The result gives it up."""

    def ahead(self, ahead: Ahead) -> None:
        """Bytes that will be wanted soon."""


class _Server:
    """A connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.hello: Hello | None = None
        self.given_up: dict[int, Callable[[], None]] = {}  # by the id of the want
        self.answers: deque[ToServer] = deque()  # under the exchange's lock


class Exchange:
    """Listens at `<root_dir>/demand.sock`; `start` and `stop` are called once each, `tell` and `servers` by any thread."""

    def __init__(self, root_dir: Path, demands: Demands) -> None:
        self._root_dir = root_dir
        self._demands = demands
        self._lock = threading.Lock()
        self._servers: dict[socket.socket, _Server] = {}  # changed by the thread, under the lock
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._has_ended = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=self._run, name="demands", daemon=True)

    def start(self) -> None:
        """Listen, in place of a process that was here before. Raises OSError."""
        with SocketPlace(self._root_dir, DEMAND_SOCKET_NAME) as place:
            try:
                os.unlink(DEMAND_SOCKET_NAME, dir_fd=place.descriptor)
            except FileNotFoundError:
                logger.debug("%s is new", place)
            self._listener.setblocking(False)
            old = os.umask(0o177)
            try:
                self._listener.bind(place.socket_path)
            finally:
                os.umask(old)
            self._listener.listen(_BACKLOG)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Hang up: servers keep what they want for the next process."""
        self._has_ended.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()

    def tell(self, message: ToServer) -> None:
        """Say something to every server."""
        with self._lock:
            for server in self._servers.values():
                server.answers.append(message)
        self._wake()

    def servers(self) -> tuple[Hello, ...]:
        """Who is connected, and said who it is."""
        with self._lock:
            return tuple(server.hello for server in self._servers.values() if server.hello is not None)

    def _wake(self) -> None:
        with self._lock:  # who pulls may still have something to say when the descriptor is somebody else's
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        while not self._has_ended.is_set():
            for key, events in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    self._send_all()
                else:
                    self._serve(key.data, events)
        for server in tuple(self._servers.values()):
            self._hang_up(server)
        self._selector.close()
        with self._lock:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # gone again, or out of descriptors: it comes back
            logger.warning("a FUSE server could not connect: %s", error)
            return
        if _peer_uid(connection) != os.geteuid():
            logger.warning("somebody else than a FUSE server of this node connected to %s", DEMAND_SOCKET_NAME)
            connection.close()
            return
        connection.setblocking(False)
        server = _Server(connection)
        with self._lock:
            self._servers[connection] = server
        self._selector.register(connection, selectors.EVENT_READ, server)

    def _serve(self, server: _Server, events: int) -> None:
        if server.connection not in self._servers:  # hung up on in this turn, by an answer that could not be sent
            return
        try:
            if events & selectors.EVENT_READ:
                self._receive(server)
            elif events & selectors.EVENT_WRITE:
                self._send(server)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            logger.log(
                logging.DEBUG if isinstance(error, ConnectionError | BrokenPipeError) else logging.WARNING,
                "the connection of %s ended: %s",
                server.hello or "a FUSE server",
                error,
            )
            self._hang_up(server)

    def _receive(self, server: _Server) -> None:
        """All that is there. Raises OSError, ValueError, BlockingIOError at the end."""
        while packet := server.connection.recv(MAX_PACKET_BYTES):
            try:
                self._take(server, read_by_driver(packet))
            except UnknownPacket as error:
                logger.debug("%s: %s", server.hello, error)
        raise ConnectionResetError(errno.ECONNRESET, "it hung up")

    def _take(self, server: _Server, message: ToDriver) -> None:
        match message:
            case Hello():
                server.hello = message
            case Want():
                self._give_up(server, message.id)
                server.given_up[message.id] = self._want(server, message)
            case Ahead():
                with self._surviving(message):
                    self._demands.ahead(message)
            case Cancel():
                self._give_up(server, message.id)

    def _want(self, server: _Server, want: Want) -> Callable[[], None]:
        answer = partial(self._answer, server, want.id)
        with self._surviving(want, answer):
            return self._demands.want(want, answer)
        return lambda: None

    @contextmanager
    def _surviving(self, message: Want | Ahead, failed: Callable[[Exception], None] = lambda _: None) -> Iterator[None]:
        """What is wrong with one question must not end the answers to all others."""
        try:
            yield
        except Exception as error:  # a bug, or no thread can be started at present
            logger.exception("%s cannot be answered", message)
            failed(error)

    def _give_up(self, server: _Server, number: int) -> None:
        give_up = server.given_up.pop(number, None)
        if give_up is not None:
            give_up()

    def _answer(self, server: _Server, number: int, error: Exception | None) -> None:
        message = Here(number) if error is None else Failed(number, errno.EIO, str(error)[:1000])
        with self._lock:
            server.answers.append(message)
        self._wake()

    def _send_all(self) -> None:
        with self._lock:
            waiting = [server for server in self._servers.values() if server.answers]
        for server in waiting:
            self._serve(server, selectors.EVENT_WRITE)

    def _send(self, server: _Server) -> None:
        """As much as it takes now. Raises OSError, BlockingIOError."""
        while True:
            with self._lock:
                if not server.answers:
                    break
                answer = server.answers[0]
                waiting = len(server.answers)
            try:
                server.connection.send(encode(answer))
            except BlockingIOError:
                if waiting > _MAX_WAITING_ANSWERS:
                    raise OSError(errno.ENOBUFS, "it does not read its answers") from None
                self._selector.modify(server.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, server)
                raise
            with self._lock:
                server.answers.popleft()
            if not isinstance(answer, Changed):
                server.given_up.pop(answer.id, None)
        self._selector.modify(server.connection, selectors.EVENT_READ, server)

    def _hang_up(self, server: _Server) -> None:
        with self._lock:
            self._servers.pop(server.connection, None)
        self._selector.unregister(server.connection)
        server.connection.close()
        for number in tuple(server.given_up):
            self._give_up(server, number)


def _peer_uid(connection: socket.socket) -> int:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return int(uid)
