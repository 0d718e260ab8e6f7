"""What the driver keeps of the views that a holder has for it, and the holder that a driver starts itself.

Used by `daemons`.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.mount import wire
from modelcsi.mount.fusemount import has_ended

logger = logging.getLogger(__name__)

_BEGIN_SECONDS = 10.0
"""For a new holder to listen; it takes 0.1 s on an idle machine."""


@dataclass(frozen=True, slots=True)
class Held:
    """A lazy view that is served."""

    view: str
    adapter: str
    device: str
    """`major:minor` of its mounts."""
    secret: bytes | None = field(repr=False)
    """None if driver and holder died together: then the view's credentials are known to nobody, until it is renewed."""
    serial: str
    """Of the connection, for the holder and us."""

    def to_hold(self) -> wire.Hold:
        """What the holder is told."""
        return wire.Hold(self.view, self.adapter, self.device, self.serial)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server's process."""

    pid: int
    adapter: str
    role: str
    """`starting`, `standby`, `active`, or how a process is called that is being replaced."""
    views: int


@dataclass(slots=True)
class Parked:
    """A view, and our copies of what the holder has of it."""

    held: Held
    fuse_fd: int | None

    def is_alive(self) -> bool:
        """Whether its connection has not ended, as far as we can tell."""
        return self.fuse_fd is None or not has_ended(self.fuse_fd)

    def close(self) -> None:
        """Close our copy."""
        if self.fuse_fd is not None:
            os.close(self.fuse_fd)


@dataclass(slots=True)
class Task:
    """Work for the thread; it is done once there is a holder."""

    message: wire.FromDriver
    descriptors: list[int]
    done: queue.SimpleQueue[str]
    """Gets the error, empty when there is none."""
    is_cancelled: bool = False

    def close(self) -> None:
        """Close what was to be sent."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class OwnHolder:
    """The process that this driver starts, if it is the driver's to start one; it outlives the driver. Used by one thread."""

    def __init__(self, command: Sequence[str] | None) -> None:
        self._command = command
        self._pid: int | None = None
        self._since = 0.0

    @property
    def is_ours_to_start(self) -> bool:
        """Whether there is a command."""
        return self._command is not None

    def ensure(self) -> bool:
        """Start it unless it runs; one that does not come to listen is killed, and started at the next call.

        The answer: it has been started, and not come to listen yet.
        """
        if self._command is None:
            return False
        if self._is_running():
            return self._since < math.inf
        try:
            # In its own session: signals of a terminal or for a group are not for it.
            self._pid = os.posix_spawn(
                *(self._command[0], list(self._command), os.environ),
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                setsid=True,
            )
        except OSError as error:
            logger.error("cannot start the FUSE holder: %s", error)  # noqa: TRY400 - expected
        else:
            self._since = time.monotonic()
            logger.info("the FUSE holder is started: process %d", self._pid)
        return self._pid is not None

    def note_listening(self) -> None:
        """It has begun; what becomes of it later is not for `ensure` to judge."""
        self._since = math.inf

    def _is_running(self) -> bool:
        if self._pid is None:
            return False
        is_late = time.monotonic() - self._since > _BEGIN_SECONDS
        if is_late:
            logger.warning("the FUSE holder %d does not listen: it is killed", self._pid)
            os.kill(self._pid, signal.SIGKILL)
        pid, status = os.waitpid(self._pid, 0 if is_late else os.WNOHANG)
        if pid:
            logger.warning("the FUSE holder %d ended with status %d", pid, os.waitstatus_to_exitcode(status))
            self._pid = None
        return self._pid is not None


def are_served(path: Path) -> bool:
    """Whether any server lives: each has a shared lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
