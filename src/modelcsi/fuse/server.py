"""One server process: the loop over its views' descriptors, the holder that gives and takes them, and the driver.

It keeps nothing that a successor would miss, so it may be killed at any time. Start-up is in every reader's way when it was:
nothing is imported here that is not needed, and a standby has all of it behind it when it is given its views.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from modelcsi.fuse.loop import EpollLoop
from modelcsi.fuse.opens import Opens
from modelcsi.fuse.passthrough import Common, Connection
from modelcsi.mount.wire import Drop, FromServer, Gone, Pong, Serve, read_by_server
from modelcsi.packets import MAX_PACKET_BYTES, UnknownPacket, encode
from modelcsi.store.layout import StoreLayout
from modelcsi.view.link import Link
from modelcsi.view.readahead import ReadAhead
from modelcsi.view.sources import Sources
from modelcsi.view.view import Surroundings, View

logger = logging.getLogger(__name__)

ADAPTER = "passthrough"
_LOOK_FOR_LOCK_SECONDS = 0.01
_YOUNG_OBJECTS = 50_000
"""Of Python's collector, in place of 700: a request makes no cycles, and plans are a hundred thousand objects to look at."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration's `fuse:` says to a server."""

    verify: str = "range"
    """`range`, or `complete`: opening a file waits until it is verified."""
    read_timeout_seconds: float = 300.0
    """How long a read waits before EIO."""


def serve(holder_fd: int, root_dir: Path, settings: Settings) -> int:
    """Serve what the holder hands over through `holder_fd` (SOCK_SEQPACKET) until it hangs up or SIGTERM; the exit status.

    Requests that wait then are left as they are: the next server is sent them again.
    """
    gc.set_threshold(_YOUNG_OBJECTS)
    loop = EpollLoop()
    loop.stop_at(signal.SIGTERM, signal.SIGINT)
    server = Server(socket.socket(fileno=holder_fd), StoreLayout(root_dir), settings, loop)
    server.begin()
    loop.run()
    server.close()
    return 0


class Server:
    """The connections of one process. Satisfies `LinkObserver`."""

    def __init__(self, holder: socket.socket, layout: StoreLayout, settings: Settings, loop: EpollLoop) -> None:
        self._holder = holder
        self._loop = loop
        self._link = Link(layout.demand_socket, ADAPTER, loop, self)
        self._common = Common(loop, waits_at_open=settings.verify == "complete")
        self._around = Surroundings(
            *(layout, self._link, loop, count(1), Sources(), ReadAhead()),
            timeout_seconds=settings.read_timeout_seconds,
        )
        self._connections: dict[str, Connection] = {}
        self._locked_out: dict[str, int] = {}  # views, and their descriptors, that another process still serves

    def begin(self) -> None:
        """Say that we are there."""
        self._holder.setblocking(False)
        self._loop.watch(self._holder.fileno(), self._listen)
        self._tell(Pong())
        self._link.connect()
        gc.freeze()  # modules live as long as the process: the collector need not look at them

    def close(self) -> None:
        """Leave everything to the next one."""
        for connection in self._connections.values():
            connection.close()
        for fd in self._locked_out.values():
            os.close(fd)
        self._link.close()
        self._holder.close()

    def changed(self, view: str, files: tuple[int, ...]) -> None:
        """The driver found bytes that were read to be wrong. Which files is in the fill map."""
        del files
        if view in self._connections:
            self._connections[view].changed()

    def connected(self) -> None:
        """The driver is there again."""
        for connection in tuple(self._connections.values()):
            connection.changed()
            connection.view.look_again()

    def _listen(self) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(self._holder, MAX_PACKET_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError:
            packet, fds = b"", []
        if not packet:
            self._loop.stop()
            return
        try:
            message = read_by_server(packet)
        except UnknownPacket as error:
            logger.debug("skipped: %s", error)
            _close_all(fds)
            return
        if isinstance(message, Serve) and fds:
            self._serve(message.view, fds[0])
        elif isinstance(message, Drop):
            self._drop(message.view)
        else:
            _close_all(fds)
            self._tell(Pong())

    def _serve(self, view_id: str, fd: int) -> None:
        self._drop(view_id)
        view: View | None = None
        opens: Opens | None = None
        try:
            view = View(view_id, self._around)
            opens = Opens(view.files.opens, view.tree.count)
            self._connections[view_id] = Connection(fd, view, opens, self._common, lambda why: self._lose(view_id, why))
        except BlockingIOError:  # our predecessor was killed and is not quite dead
            self._locked_out[view_id] = fd
            self._loop.call_at(self._loop.now() + _LOOK_FOR_LOCK_SECONDS, lambda: self._serve_again(view_id))
        except (OSError, ValueError) as error:
            os.close(fd)
            if opens is not None:
                opens.close()
            self._tell(Gone(view_id, str(error)))
        if view is not None and view_id not in self._connections:
            view.close()

    def _serve_again(self, view_id: str) -> None:
        fd = self._locked_out.pop(view_id, None)
        if fd is not None:
            self._serve(view_id, fd)

    def _drop(self, view_id: str) -> None:
        connection = self._connections.pop(view_id, None)
        if connection is not None:
            connection.close()
        fd = self._locked_out.pop(view_id, None)
        if fd is not None:
            os.close(fd)

    def _lose(self, view_id: str, why: str) -> None:
        self._drop(view_id)
        self._tell(Gone(view_id, why))

    def _tell(self, message: FromServer) -> None:
        try:
            self._holder.send(encode(message))
        except (
            BlockingIOError,
            ConnectionError,
        ) as error:  # it does not listen, or has gone: then so do we, at its EOF
            logger.debug("the holder was not told: %s", error)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
