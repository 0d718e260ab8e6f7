"""The processes that serve: started, watched, replaced, by the rules that `link` tells.

Of the passthrough adapter one process serves all views and another waits, imported and ready, to take its place; pyfuse3 has
a process for each view, which nobody can replace. Processes of an earlier holder, and those from before an update, are
elders: they serve until a successor is ready. Part of the holder: one thread, nothing blocks.
"""

from __future__ import annotations

import enum
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from modelcsi.mount import wire
from modelcsi.mount.adapters import PASSTHROUGH, PYFUSE3
from modelcsi.mount.lines import Line, Loop
from modelcsi.packets import UnknownPacket

logger = logging.getLogger(__name__)

LINK_FD = 3
"""Where a server finds its end of the socket pair."""
_SERVING_FD = 4
_FIRST_FREE_FD = 10
_SILENT_SECONDS = 4.0
"""A server that says nothing for so long is stuck. Its loop answers pings between two requests, within milliseconds."""
_START_SECONDS = 15.0
"""For the first word of a new process; it takes 0.1 s on an idle machine."""
_LEAVE_SECONDS = 1.0
_DEATH_SECONDS = 2.0
_WORKING_SECONDS = 2.0
"""A server that has served for so long ends a series of crashes."""
_PROCESSES = 2
"""Of the passthrough adapter: one serves, one is ready to."""
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class Role(enum.Enum):
    """What a process is good for."""

    STARTING = "starting"
    STANDBY = "standby"
    ACTIVE = "active"
    ELDER = "elder"
    """Serves until another is ready."""
    LEAVING = "leaving"
    """Was told to leave."""
    FORSAKEN = "forsaken"
    """Should have ended and does not: of another pid namespace, or deep in the kernel. Nobody waits for it any more."""


class Views(Protocol):
    """What the holder keeps of views."""

    def descriptors(self) -> Iterable[tuple[wire.Serve, int]]:
        """Of the passthrough adapter's views: what a server is told, and the descriptor."""

    def end(self, view: str, why: str, serial: str | None = None) -> None:
        """The view cannot be served (or, with an empty `why`, needs not to be any more), if it still is that connection."""

    def end_all(self, why: str) -> None:
        """The same for all views of the passthrough adapter."""


@dataclass(eq=False, slots=True)
class ServerProcess:
    """One process; `view` is the one of a pyfuse3 server."""

    pid: int
    adapter: str
    role: Role
    is_child: bool
    view: str | None = None
    line: Line | None = None
    pidfd: int | None = None
    unserved: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    """When its role began; of an active server, when it had served all."""
    heard: float = field(default_factory=time.monotonic)
    killed_at: float | None = None
    """By us; a process in the middle of a disk's time-out dies later."""

    def is_serving(self) -> bool:
        """Whether it may read requests."""
        return self.role in {Role.ACTIVE, Role.ELDER, Role.LEAVING, Role.FORSAKEN}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How servers are started and kept."""

    command: Callable[[str], Sequence[str]]
    """How a server of an adapter is started."""
    serving_fd: int
    """Children keep it open until they end."""
    give_up_seconds: float
    """Without a server that works, until readers get errors instead of waiting."""


class Servers:
    """All processes; `look` after every change, and twice a second."""

    def __init__(self, loop: Loop, views: Views, settings: ServerSettings) -> None:
        self._loop = loop
        self._views = views
        self._settings = settings
        self._all: list[ServerProcess] = []
        self._failures = 0
        self._troubled_since: float | None = None  # the first of a series of crashes
        self._unserved_since: float | None = None  # no server has answered for all views
        self._paused_until = 0.0

    def all(self) -> tuple[ServerProcess, ...]:
        """Those that live."""
        return tuple(self._all)

    def serve(self, serve: wire.Serve, fuse_fd: int) -> None:
        """A new view of the passthrough adapter."""
        active = self._active()
        if active is not None:
            self._give(active, serve, fuse_fd)
        self.look()

    def serve_alone(self, serve: wire.Serve, fuse_fd: int) -> None:
        """A new view of pyfuse3; the caller closes `fuse_fd` and has no copy. Raises OSError."""
        server = self._start(PYFUSE3, serve.view)
        server.unserved.add(serve.view)
        if server.line is not None:
            server.line.send(serve, [fuse_fd])

    def drop(self, view: str) -> None:
        """The view is released."""
        for server in self.all():
            server.unserved.discard(view)
            if server.view == view:
                self._dismiss(server)
            elif server.view is None and server.is_serving() and server.line is not None:
                server.line.send(wire.Drop(view))
        self.look()

    def adopt(self, server: ServerProcess, connection: socket.socket | Line | None) -> None:
        """A process of an earlier holder, or of the program before an update."""
        if isinstance(connection, Line):
            server.line = connection
        elif connection is not None:
            server.line = Line(self._loop, connection, lambda packet, fds: self.read(server, packet, fds))
        with suppress(OSError):  # gone, or not of this pid namespace
            if server.pid > 0:
                server.pidfd = os.pidfd_open(server.pid)
                self._loop.watch(server.pidfd, lambda _events: self._reap(server))
        self._all.append(server)
        if server.role is Role.LEAVING:
            server.role = Role.ELDER
            self._dismiss(server)
        self.look()

    def dismiss_all(self) -> None:
        """Nothing is to be served."""
        for server in self.all():
            self._dismiss(server)

    def look(self) -> None:
        """Start, promote and dismiss processes until all is as it should be."""
        has_views = any(True for _ in self._views.descriptors())
        ours = [server for server in self._all if server.view is None and server.adapter == PASSTHROUGH]
        standby = next((server for server in ours if server.role is Role.STANDBY), None)
        active = self._active()
        if active is not None or standby is not None:
            for server in ours:
                if server.role is Role.ELDER:
                    self._dismiss(server)
        # An elder that can be seen to end is waited for; whatever else still lives is followed by a `Resend`.
        is_waiting = any(server.role is Role.LEAVING for server in ours)
        if has_views and active is None and standby is not None and not is_waiting:
            self._promote(standby)
        coming = sum(server.role in {Role.STARTING, Role.STANDBY, Role.ACTIVE} for server in ours)
        if has_views and coming < _PROCESSES and time.monotonic() >= self._paused_until:
            self._try_start()

    def tick(self) -> None:
        """Ping all, kill who is stuck, and give up what cannot be served."""
        now = time.monotonic()
        for server in self.all():
            self._check(server, now)
        active = self._active()
        if active is not None and not active.unserved and now - active.since > _WORKING_SECONDS:
            self._troubled_since = None
            if any(server.role is Role.STANDBY for server in self._all):
                self._failures = 0
        since = min(filter(None, (self._troubled_since, self._unserved_since)), default=now)
        if now - since > self._settings.give_up_seconds:
            self._troubled_since = self._unserved_since = None
            self._views.end_all(f"no server could be kept alive for {self._settings.give_up_seconds:g} s")
        self.look()

    def soonest(self) -> float | None:
        """The moment of the monotonic clock at which `look` or `tick` has something to do before its time."""
        moments = [one.since + _LEAVE_SECONDS for one in self._all if one.role is Role.LEAVING and not one.killed_at]
        if self._paused_until > time.monotonic():
            moments.append(self._paused_until)
        return min(moments, default=None)

    def read(self, server: ServerProcess, packet: bytes, descriptors: list[int]) -> None:
        """What a server says; nothing when it hung up."""
        for descriptor in descriptors:
            os.close(descriptor)
        if not packet:
            if server.pidfd is None:
                self._ended(server, "has gone")
            return  # else its pidfd tells when it is dead; if it only hung up it will be silent, and killed
        server.heard = time.monotonic()
        try:
            message = wire.read_by_holder(packet)
        except UnknownPacket as error:
            logger.info("%s from server %d is passed over", error, server.pid)
            return
        except ValueError as error:
            logger.warning("server %d said what cannot be read: %s", server.pid, error)
            return
        match message:
            case wire.Pong() if server.role is Role.STARTING:
                server.role = Role.STANDBY if server.view is None else Role.ACTIVE
                self.look()
            case wire.Served(view=view) if server.role is Role.ACTIVE:
                server.unserved.discard(view)
                server.since = time.monotonic()
                if not server.unserved:
                    self._unserved_since = None
            case wire.Gone(view=view, why=why, serial=serial) if server.role in {Role.ACTIVE, Role.ELDER}:
                server.unserved.discard(view)
                self._views.end(view, why, serial)

    def _active(self) -> ServerProcess | None:
        return next((one for one in self._all if one.view is None and one.role is Role.ACTIVE), None)

    def _promote(self, server: ServerProcess) -> None:
        server.role, server.since = Role.ACTIVE, time.monotonic()
        for serve, fuse_fd in self._views.descriptors():
            self._give(server, serve, fuse_fd)
        logger.info("server %d serves %d views", server.pid, len(server.unserved))

    def _check(self, server: ServerProcess, now: float) -> None:
        limit = _START_SECONDS if server.role is Role.STARTING else _SILENT_SECONDS
        if server.role is Role.FORSAKEN:
            return
        if server.killed_at is not None:
            if now - server.killed_at > _DEATH_SECONDS:
                self._forsake(server)
        elif server.role is Role.LEAVING:
            if now - server.since > _LEAVE_SECONDS:
                self._kill(server, "does not leave")
        elif now - server.heard > limit:
            self._kill(server, f"has said nothing for {limit:.0f} s")
        elif server.line is not None and server.role is not Role.STARTING:
            server.line.send(wire.Ping())

    def _give(self, server: ServerProcess, serve: wire.Serve, fuse_fd: int) -> None:
        self._unserved_since = self._unserved_since or time.monotonic()
        server.unserved.add(serve.view)
        if server.line is not None:
            server.line.send(serve, [fuse_fd])

    def _try_start(self) -> None:
        try:
            self._start(PASSTHROUGH, None)
        except OSError as error:  # no memory, no processes left
            logger.warning("cannot start a FUSE server: %s", error)
            self._fail()
        else:
            self.look()

    def _start(self, adapter: str, view: str | None) -> ServerProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # Not at its final number already, where dup2 would leave close-on-exec set.
            source = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
            try:
                pid = self._spawn(list(self._settings.command(adapter)), source)
            finally:
                os.close(source)
                theirs.close()
        except BaseException:
            ours.close()
            raise
        server = ServerProcess(pid, adapter, Role.STARTING, is_child=True, view=view)
        self.adopt(server, ours)
        return server

    def _spawn(self, command: list[str], link_fd: int) -> int:
        """In its own session: signals of a terminal or for a group are not for it."""
        actions = [
            (os.POSIX_SPAWN_DUP2, link_fd, LINK_FD),
            (os.POSIX_SPAWN_DUP2, self._settings.serving_fd, _SERVING_FD),
        ]
        return os.posix_spawn(
            command[0], command, os.environ, file_actions=actions, setsid=True, setsigmask=[], setsigdef=_SIGNALS
        )

    def _dismiss(self, server: ServerProcess) -> None:
        if server.role in {Role.LEAVING, Role.FORSAKEN}:
            return
        server.role, server.since = Role.LEAVING, time.monotonic()
        if server.line is not None:
            server.line.send(wire.Leave())

    def _kill(self, server: ServerProcess, why: str) -> None:
        logger.warning("FUSE server %d %s: it is killed", server.pid, why)
        server.killed_at = time.monotonic()
        if server.pidfd is not None:
            signal.pidfd_send_signal(server.pidfd, signal.SIGKILL)
        else:
            self._forsake(server)

    def _forsake(self, server: ServerProcess) -> None:
        server.role = Role.FORSAKEN
        self.look()

    def _reap(self, server: ServerProcess) -> None:
        if not server.is_child:
            self._ended(server, "has gone")
            return
        _, status = os.waitpid(server.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        # Somebody else's SIGKILL says nothing about the program.
        was_sent = code == -signal.SIGKILL and server.killed_at is None
        self._ended(server, how, is_failure=not was_sent)

    def _ended(self, server: ServerProcess, how: str, *, is_failure: bool = False) -> None:
        """The process is no more: it answers nothing, and what it had read is to be read again."""
        self._all.remove(server)
        if server.pidfd is not None:
            self._loop.forget(server.pidfd)
            os.close(server.pidfd)
        if server.line is not None:
            server.line.close()
        if server.role is not Role.LEAVING:
            logger.warning("FUSE server %d (%s) %s", server.pid, server.role.value, how)
        if server.view is not None:
            if server.role is not Role.LEAVING:
                self._views.end(server.view, f"its server {how}")
            return
        active = self._active()
        if active is not None and active.line is not None and server.is_serving():
            active.line.send(wire.Resend())
        if server.role is Role.ACTIVE:
            self._unserved_since = self._unserved_since or time.monotonic()
        if is_failure and server.role in {Role.ACTIVE, Role.STARTING, Role.STANDBY}:
            self._fail()
        self.look()

    def _fail(self) -> None:
        """The first failure costs no time; a series of them is slowed down."""
        now = time.monotonic()
        if self._active() is None:
            self._troubled_since = self._troubled_since or now
        if self._failures:
            pause = _FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10)
            self._paused_until = now + min(pause, _LONGEST_PAUSE_SECONDS)
        self._failures += 1


_SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE]
"""That a server begins with as a program usually does."""


def program() -> tuple[str, ...]:
    """How this program is started again: its script is beside the interpreter, so that a process can be told by its name."""
    script = os.path.join(os.path.dirname(sys.executable), "modelcsi")
    return (sys.executable, script) if os.path.exists(script) else (sys.executable, "-m", "modelcsi.cli.main")
