"""A server's line to the holder, and how one server takes over from another.

Two rules keep every request of every reader. (1) Requests that a server has read are lost with it, until somebody asks the
kernel to send them again: so after a process that may have read any is gone, a server that is alive sends NOTIFY_RESEND, for
each view. (2) Two servers at one descriptor harm nobody: the kernel gives each request to one of them, and an answer to one
that was sent again meanwhile is ENOENT to its writer, no more. So a successor may come too early, never too late.

    server dies              the holder sees its pidfd, gives all views to the standby (`Serve`), which resends
    server is stuck          no word for four seconds: the holder kills it, then as above
    holder updates (SIGHUP)  same process, new program: it starts a new server, tells the old one to leave once the new one has
                             said that it is ready, and when the old process is gone gives all views to the new one
    holder dies              its standby ends, what serves becomes an orphan and serves on. It watches for a new
                             `<root_dir>/fuse.sock`, connects there (`Orphan`) and hands in its descriptors (`Returned`), so that
                             they are not lost even if the driver has died too. The new holder treats it as in an update
    ... and the orphan was   the new holder has the descriptors from the driver, and serves. When the orphan wakes, it may read
    stopped meanwhile        a request or two before it sees what happened; it hands itself in, is told to leave, and when its
                             connection ends the holder tells the present server to `Resend`

An orphan ends when its last view is gone, not after some time: while the driver still has copies of the descriptors, readers
whose server ended would wait for ever. A server of pyfuse3 cannot be replaced, so the new holder takes it over as it is, and
nobody but the server itself ever has a copy of its descriptor: its death must end the connection.

Used by a server's loop, on one thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from modelcsi.mount import wire
from modelcsi.mount.lines import receive, send
from modelcsi.packets import Packet, UnknownPacket

logger = logging.getLogger(__name__)

SOCKET_NAME = "fuse.sock"
"""Under `root_dir`: where the holder listens."""

Order = tuple[wire.Serve | wire.Drop | wire.Resend | wire.Leave, int | None]
"""What the holder wants, and of `Serve` the view's /dev/fuse descriptor, which is then the server's to close."""

_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80
_LIBC = ctypes.CDLL(None, use_errno=True)


class HolderLink:
    """Answers pings from `take`, so a loop that is stuck is noticed. Nothing here blocks."""

    def __init__(self, holder_fd: int, root_dir: Path, adapter: str = "passthrough") -> None:
        """`holder_fd` is the inherited end of the socket pair."""
        self._root = root_dir
        self._adapter = adapter
        self._views: dict[str, tuple[int, wire.Serve]] = {}
        self._watch_fd: int | None = None
        self._has_left = False
        self._bell_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rings when `Leave` comes from here
        self._epoll = select.epoll()
        self._epoll.register(self._bell_fd, select.EPOLLIN)
        self._socket: socket.socket | None = None
        self._use(socket.socket(fileno=holder_fd))

    def fileno(self) -> int:
        """One descriptor for the loop's epoll, for as long as the link lives: when it can be read, `take`."""
        return self._epoll.fileno()

    def ready(self) -> None:
        """Tell that the process has begun and can serve at once."""
        self._send(wire.Pong())

    def served(self, view: str) -> None:
        """Tell that the view of a `Serve` is served now."""
        self._send(wire.Served(view))

    def gone(self, view: str, why: str = "") -> None:
        """Tell that a view is not served any more: its last mount has gone, or why it cannot be."""
        _, serve = self._views.pop(view, (None, wire.Serve(view)))
        self._send(wire.Gone(view, why, serve.serial))
        self._leave_if_useless()

    def take(self) -> list[Order]:
        """What the holder wants now. After `Leave` the server closes nothing and answers nothing: it exits."""
        orders = list(self._orders())
        if self._has_left and not any(isinstance(message, wire.Leave) for message, _ in orders):
            orders.append((wire.Leave(), None))
        return orders

    def close(self) -> None:
        """Hang up."""
        self._epoll.close()
        os.close(self._bell_fd)
        if self._socket is not None:
            self._socket.close()
        if self._watch_fd is not None:
            os.close(self._watch_fd)

    def _orders(self) -> Iterator[Order]:
        if self._watch_fd is not None:
            self._return_home()
        while self._socket is not None:
            try:
                packet, descriptors = receive(self._socket)
            except BlockingIOError:
                return
            except OSError as error:
                logger.warning("the FUSE holder cannot be heard: %s", error)
                packet, descriptors = b"", []
            if not packet:
                self._become_orphan()
                continue
            for order in self._read(packet, descriptors):
                self._note(order)  # before the next packet, which may be the holder's end
                yield order

    def _read(self, packet: bytes, descriptors: list[int]) -> Iterator[Order]:
        try:
            message = wire.read_by_server(packet)
        except UnknownPacket as error:
            logger.info("%s from the FUSE holder is passed over", error)
        except ValueError as error:
            logger.warning("the FUSE holder said what cannot be read: %s", error)
        else:
            if isinstance(message, wire.Ping):
                self._send(wire.Pong())
            elif not isinstance(message, wire.Serve):
                yield message, None
            elif descriptors:
                yield message, descriptors.pop(0)
        for descriptor in descriptors:
            os.close(descriptor)

    def _note(self, order: Order) -> None:
        match order:
            case wire.Serve() as serve, int() as descriptor:
                self._views[serve.view] = descriptor, serve
            case wire.Drop(view=view), _:
                self._views.pop(view, None)
            case wire.Leave(), _:
                self._has_left = True

    def _become_orphan(self) -> None:
        """The holder is gone: wait for the next one, if there is anything to serve."""
        if self._socket is not None:
            self._epoll.unregister(self._socket)
            self._socket.close()
            self._socket = None
        self._leave_if_useless()
        if self._has_left:
            return
        logger.warning("the FUSE holder has gone: serving on, and waiting for the next one at %s", self._path)
        if self._watch_fd is None:
            self._watch_fd = _watch_directory(self._root)
            self._epoll.register(self._watch_fd, select.EPOLLIN)
        self._return_home()

    def _return_home(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._watch_fd or -1, 1 << 16):
                pass
        home = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            home.connect(str(self._path))
            send(home, wire.Orphan(os.getpid(), self._adapter))
            for view, (descriptor, serve) in self._views.items():
                has_descriptor = self._adapter != "pyfuse3"
                send(
                    home,
                    wire.Returned(view, serve.device, serve.serial, has_descriptor),
                    [descriptor] if has_descriptor else [],
                )
        except OSError as error:  # nobody there yet: the watch will tell
            logger.debug("no FUSE holder at %s: %s", self._path, error)
            home.close()
            return
        os.close(self._watch_fd or -1)  # which takes it out of the epoll
        self._watch_fd = None
        self._use(home)

    def _use(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._socket = line
        self._epoll.register(line, select.EPOLLIN)

    def _leave_if_useless(self) -> None:
        """An orphan, or what would become one, that serves nothing has no reason to be."""
        if self._socket is None and not self._views:
            self._has_left = True
            os.eventfd_write(self._bell_fd, 1)

    @property
    def _path(self) -> Path:
        return self._root / SOCKET_NAME

    def _send(self, message: Packet) -> None:
        if self._socket is None:
            return
        # A holder that is gone is noticed by `take`; one that does not read has many pongs to read already.
        with suppress(OSError):
            send(self._socket, message)


def _watch_directory(directory: Path) -> int:
    """A descriptor that can be read when a file has come to be in the directory."""
    watch_fd: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch_fd < 0 or _LIBC.inotify_add_watch(watch_fd, os.fsencode(directory), _IN_CREATE | _IN_MOVED_TO) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(directory))
    return watch_fd
