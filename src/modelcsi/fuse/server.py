"""One server process: the loop over its views' descriptors, the holder that gives and takes them, and the driver.

It keeps nothing that a successor would miss, so it may be killed at any time. Start-up is in every reader's way when it was:
nothing is imported here that is not needed, and a standby has all of it behind it when it is given its views.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from modelcsi.errors import StoreFull
from modelcsi.fuse.loop import EpollLoop
from modelcsi.fuse.opens import Opens
from modelcsi.fuse.passthrough import Common, Connection
from modelcsi.mount.link import HolderLink
from modelcsi.mount.wire import Drop, Leave, Resend, Serve
from modelcsi.store.layout import StoreLayout
from modelcsi.view.link import Link
from modelcsi.view.readahead import ReadAhead
from modelcsi.view.sources import Sources
from modelcsi.view.view import Surroundings, View

logger = logging.getLogger(__name__)

ADAPTER = "passthrough"
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
    """Serve what the holder hands over through `holder_fd` until it says so, or SIGTERM; the exit status.

    Requests that wait then are left as they are: the next server is sent them again.
    """
    gc.set_threshold(_YOUNG_OBJECTS)
    loop = EpollLoop()
    loop.stop_at(signal.SIGTERM, signal.SIGINT)
    server = Server(HolderLink(holder_fd, root_dir, ADAPTER), StoreLayout(root_dir), settings, loop)
    server.begin()
    loop.run()
    return 0


class Server:
    """The connections of one process. Satisfies `LinkObserver`."""

    def __init__(self, holder: HolderLink, layout: StoreLayout, settings: Settings, loop: EpollLoop) -> None:
        self._holder = holder
        self._loop = loop
        self._link = Link(layout.demand_socket, ADAPTER, loop, self)
        self._common = Common(loop, waits_at_open=settings.verify == "complete")
        self._around = Surroundings(
            *(layout, self._link, loop, count(1), Sources(), ReadAhead()),
            timeout_seconds=settings.read_timeout_seconds,
        )
        self._connections: dict[str, Connection] = {}

    def begin(self) -> None:
        """Say that we are there."""
        self._loop.watch(self._holder.fileno(), self._listen)
        self._link.connect()
        gc.freeze()  # modules live as long as the process: the collector need not look at them
        self._holder.ready()

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
        for message, fd in self._holder.take():
            match message, fd:
                case Serve(view=view), int():
                    self._serve(view, fd)
                case Drop(view=view), _:
                    self._drop(view)
                case Resend(), _:
                    for connection in tuple(self._connections.values()):
                        connection.resend()
                case Leave(), _:
                    self._loop.stop()
                    return

    def _serve(self, view_id: str, fd: int) -> None:
        self._drop(view_id)
        try:
            self._connections[view_id] = self._connect(view_id, fd)
        except (OSError, ValueError, StoreFull) as error:
            logger.warning("view %s cannot be served: %s", view_id, error)
            os.close(fd)
            self._holder.gone(view_id, str(error))
        else:
            self._holder.served(view_id)

    def _connect(self, view_id: str, fd: int) -> Connection:
        with ExitStack() as undo:
            view = View(view_id, self._around)
            undo.callback(view.close)
            opens = Opens(view.files.opens, view.tree.count)
            undo.callback(opens.close)
            connection = Connection(fd, view, opens, self._common, lambda why: self._lose(view_id, why))
            undo.pop_all()
            return connection

    def _drop(self, view_id: str) -> None:
        connection = self._connections.pop(view_id, None)
        if connection is not None:
            connection.close()

    def _lose(self, view_id: str, why: str) -> None:
        self._drop(view_id)
        self._holder.gone(view_id, why)
