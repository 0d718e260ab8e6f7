"""Who connects to the holder: the driver, or a server whose holder has died. Used by `holder`."""

from __future__ import annotations

import logging
import os
import socket
import struct
from typing import Protocol

from modelcsi.mount import wire
from modelcsi.mount.lines import Line, Loop
from modelcsi.mount.servers import ServerProcess
from modelcsi.packets import UnknownPacket

logger = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")


class Listener(Protocol):
    """The holder."""

    def handle(self, peer: Peer, message: wire.FromPeer, descriptors: list[int]) -> None:
        """What somebody says; what is left in `descriptors` is closed afterwards."""

    def hear(self, server: ServerProcess, packet: bytes, descriptors: list[int]) -> None:
        """What an orphan says once it is taken over."""


def accept(listener: socket.socket) -> tuple[socket.socket, int] | None:
    """A new connection and the process at its other end; None if that is not ours to talk to, or gone again."""
    try:
        connection, _ = listener.accept()
    except OSError as error:  # gone again, or no descriptors left
        logger.debug("nobody to accept: %s", error)
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid != os.geteuid():
        logger.warning("process %d of user %d is refused", pid, uid)
        connection.close()
        return None
    return connection, pid


class Peer:
    """One connection; `server` is set once an orphan has said that it is one."""

    def __init__(self, holder: Listener, loop: Loop, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.server: ServerProcess | None = None
        self._holder = holder
        self.line = Line(loop, connection, self._read)

    def _read(self, packet: bytes, descriptors: list[int]) -> None:
        if not packet:
            if self.server is not None:
                self._holder.hear(self.server, packet, descriptors)
            return
        try:
            message = wire.read_from_peer(packet)
            if self.server is not None and not isinstance(message, wire.Returned):
                self._holder.hear(self.server, packet, [])
            else:
                self._holder.handle(self, message, descriptors)
        except UnknownPacket as error:
            logger.warning("process %d: %s", self.pid, error)
            self.line.send(wire.Done(ok=False, error=str(error)))
        except ValueError as error:
            logger.warning("process %d said what cannot be read: %s", self.pid, error)
            self.line.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
