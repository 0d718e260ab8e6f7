"""The process that keeps lazy views alive: `modelcsi fuse`, or started by the driver where nobody else starts it.

It has a copy of every view's /dev/fuse descriptor, so that the connection outlives each server, and of the view's secret in a
sealed memfd, which it never reads, so that a restarted driver can go on filling. It listens at `<root_dir>/fuse.sock` for the
driver and for orphans (`link`), and has the servers started and watched (`servers`). A lock beside the socket says that a
holder runs. SIGHUP replaces the program in place: descriptors stay, and the servers are replaced one after the other. SIGTERM
ends it once a driver has copies of what it holds; a driver that ends says so (`Part`), so that one of the two always stays.

One thread, nothing blocks, and few imports: it is small, and does so little that it has no reason to die.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from modelcsi.mount import wire
from modelcsi.mount.adapters import PASSTHROUGH
from modelcsi.mount.fusemount import abort, has_ended
from modelcsi.mount.lifetime import (
    LOCK_NAME,
    SERVING_NAME,
    SIGNALS,
    hide_memory,
    keep_from_children,
    listen_at,
    lock_holder,
    lock_serving,
    raise_limit_of_descriptors,
    read_state,
    replace_program,
)
from modelcsi.mount.lines import Line, Loop
from modelcsi.mount.link import SOCKET_NAME
from modelcsi.mount.peers import Peer, accept
from modelcsi.mount.servers import Role, ServerProcess, Servers, ServerSettings

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_IDLE_SECONDS = 5.0
"""Without a view, until the servers end, and a holder that the driver started: the next pod may come soon."""
_LEAVE_SECONDS = 20.0
"""After SIGTERM, for a driver to come that has copies of what is held: one that is replaced at the same time needs some seconds."""
_ORPHANS_SECONDS = 1.0
"""For servers of a killed holder to come back, before a driver is told what there is. They need milliseconds."""


@dataclass(frozen=True, slots=True)
class HolderSettings:
    """How a holder works."""

    root_dir: Path
    server_command: Callable[[str], Sequence[str]]
    """How a server of an adapter is started."""
    own_command: Sequence[str]
    """What this holder becomes when it replaces its program, but for `--resume N`."""
    ends_when_idle: bool = False
    """Some seconds after its last view."""
    give_up_seconds: float = 30.0
    """Without a server that works, until readers get errors instead of waiting."""


@dataclass(slots=True)
class _View:
    view: str
    adapter: str
    device: str
    serial: str
    fuse_fd: int | None
    secret_fd: int | None

    def to_serve(self) -> wire.Serve:
        return wire.Serve(self.view, self.device, self.serial)

    def to_list(self) -> wire.Held:
        common = (self.view, self.adapter, self.device, self.serial)
        return wire.Held(*common, has_descriptor=self.fuse_fd is not None, has_secret=self.secret_fd is not None)


class Holder:
    """`run` it once, on the main thread."""

    def __init__(self, settings: HolderSettings, resume_fd: int | None = None) -> None:
        """With `resume_fd` go on as the program that wrote it. Raises InvalidRequest if another holder runs, OSError."""
        self._settings = settings
        self._loop = Loop()
        self._views: dict[str, _View] = {}
        self._lost: dict[str, tuple[str, str]] = {}  # why, and the serial
        self._driver: Line | None = None
        self._has_copies = False  # the driver, of every descriptor
        self._leave_by: float | None = None
        self._asking: list[tuple[Line, wire.ListHeld]] = []
        self._ends = False
        self._must_resume = False
        self._is_used_since = time.monotonic()
        self._orphans_until = 0.0
        state = None if resume_fd is None else read_state(resume_fd)
        hide_memory()
        raise_limit_of_descriptors()
        if state is None:
            self._lock_fd = lock_holder(settings.root_dir / LOCK_NAME)
            self._serving_fd, has_orphans = lock_serving(settings.root_dir / SERVING_NAME)
            self._orphans_until = time.monotonic() + _ORPHANS_SECONDS if has_orphans else 0.0
            self._listener = listen_at(settings.root_dir / SOCKET_NAME)
        else:
            self._lock_fd, self._serving_fd = state["lock"], state["serving"]
            self._listener = socket.socket(fileno=state["listener"])
        of_servers = ServerSettings(settings.server_command, self._serving_fd, settings.give_up_seconds)
        self._servers = Servers(self._loop, self, of_servers)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), lambda _events: self._accept())
        self._watch_signals()
        if state is not None:
            self._resume(state)

    def run(self) -> int:
        """Until SIGTERM (a second one ends it at once), or until it is idle if it ends then; returns the exit status."""
        logger.info("the FUSE holder listens at %s", self._settings.root_dir / SOCKET_NAME)
        next_tick = time.monotonic()
        while not self._ends:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK_SECONDS
                self._tick(now)
            if self._must_resume and self._leave_by is None:
                self._replace_program()
            self._servers.look()
            self._loop.turn(self._patience(next_tick))
            self._leave_if_told()
        # The lock is still ours, so the socket is.
        (self._settings.root_dir / SOCKET_NAME).unlink(missing_ok=True)
        return 0

    # What `Servers` asks for.

    def descriptors(self) -> Iterator[tuple[wire.Serve, int]]:
        """Of the passthrough adapter's views: what a server is told, and the descriptor."""
        for held in self._views.values():
            if held.fuse_fd is not None:
                yield held.to_serve(), held.fuse_fd

    def end(self, view: str, why: str, serial: str | None = None) -> None:
        """Nobody serves the view any more: its readers get errors, and the driver is told."""
        held = self._views.get(view)
        if held is None or serial not in (None, held.serial):
            return
        if why:
            logger.error("view %s is lost: %s", view, why)
            self._abort(held)
        self._forget(held)
        self._lost[view] = why, held.serial
        self._tell_lost()

    def end_all(self, why: str) -> None:
        """The same for all views of the passthrough adapter."""
        for serve, _ in list(self.descriptors()):
            self.end(serve.view, why)

    # The listener.

    def _accept(self) -> None:
        accepted = accept(self._listener)
        if accepted is not None:
            Peer(self, self._loop, *accepted)

    def handle(self, peer: Peer, message: wire.FromPeer, descriptors: list[int]) -> None:
        """What a driver or an orphan says; what is left in `descriptors` is closed by the caller."""
        match message:
            case wire.Hold():
                self._use_driver(peer.line)
                peer.line.send(self._hold(message, descriptors))
            case wire.Release(view=view):
                self._use_driver(peer.line)
                self._lost.pop(view, None)
                held = self._views.get(view)
                if held is not None:
                    self._forget(held)
                peer.line.send(wire.Done())
            case wire.Part():
                self._use_driver(peer.line)
                self._has_copies = False
                peer.line.send(wire.Done())
            case wire.ListHeld():
                self._use_driver(peer.line)
                self._asking.append((peer.line, message))
                self._answer()
            case wire.Orphan(adapter=adapter):
                peer.server = ServerProcess(peer.pid, adapter, Role.ELDER, is_child=False)
                self._orphans_until = time.monotonic() + _ORPHANS_SECONDS / 10  # its views follow
                if adapter == PASSTHROUGH:
                    self._servers.adopt(peer.server, peer.line)
            case wire.Returned():
                self._take_back(peer, message, descriptors)
            case _:
                logger.warning("process %d says %s unasked", peer.pid, message.op)

    def hear(self, server: ServerProcess, packet: bytes, descriptors: list[int]) -> None:
        """What an orphan says once it is taken over."""
        self._servers.read(server, packet, descriptors)

    def _use_driver(self, line: Line) -> None:
        """The newest connection is the driver's: an older one is of a driver that was killed, or hangs."""
        if self._driver is not line:
            if self._driver is not None:
                self._driver.close()
            self._driver, self._has_copies = line, False

    def _hold(self, message: wire.Hold, descriptors: list[int]) -> wire.Done:
        if not descriptors:
            return wire.Done(ok=False, error="no secret came with the view")
        known = self._views.get(message.view)
        if known is not None and known.serial == message.serial:
            _close(known.secret_fd)
            known.secret_fd = descriptors.pop(0)
            return wire.Done()
        if len(descriptors) == 1:
            return wire.Done(ok=False, error=f"view {message.view} is not held, and no descriptor came with it")
        if known is not None:
            self._forget(known)
        held = _View(*(message.view, message.adapter, message.device, message.serial), None, descriptors.pop(0))
        self._views[held.view] = held
        self._lost.pop(held.view, None)
        self._is_used_since = time.monotonic()
        if held.adapter == PASSTHROUGH:
            held.fuse_fd = descriptors.pop(0)
            self._servers.serve(held.to_serve(), held.fuse_fd)
            return wire.Done()
        try:
            self._servers.serve_alone(held.to_serve(), descriptors[0])
        except OSError as error:
            self._forget(held)
            return wire.Done(ok=False, error=f"cannot start a server: {error.strerror}")
        return wire.Done()

    def _take_back(self, peer: Peer, message: wire.Returned, descriptors: list[int]) -> None:
        """A view that an orphan serves; the driver may have given it already."""
        if peer.server is None:
            return
        known = self._views.get(message.view)
        if known is None:
            known = _View(*(message.view, peer.server.adapter, message.device, message.serial), None, None)
            self._views[known.view] = known
            if message.has_descriptor and descriptors:
                known.fuse_fd = descriptors.pop(0)
            self._is_used_since = time.monotonic()
        if peer.server.adapter != PASSTHROUGH:
            peer.server.view, peer.server.role = message.view, Role.ACTIVE
            self._servers.adopt(peer.server, peer.line)

    def _answer(self) -> None:
        """Tell who asked for the list, once it is complete."""
        if time.monotonic() < self._orphans_until:
            return
        for line, asked in self._asking:
            for held in self._views.values():
                descriptors = [fd for fd in (held.secret_fd, held.fuse_fd) if fd is not None and asked.descriptors]
                line.send(held.to_list(), descriptors)
            for server in self._servers.all():
                views = 1 if server.view else len(self._views) if server.role is Role.ACTIVE else 0
                line.send(wire.Server(server.pid, server.adapter, server.role.value, views))
            line.send(wire.Done())
            self._has_copies |= asked.descriptors and line is self._driver
        self._asking.clear()
        self._tell_lost()

    def _tell_lost(self) -> None:
        """As soon as there is a driver."""
        if self._driver is not None and self._driver.is_open and not self._asking:
            for view, (why, serial) in self._lost.items():
                self._driver.send(wire.Lost(view, why, serial))
            self._lost.clear()

    def _forget(self, held: _View) -> None:
        del self._views[held.view]
        self._servers.drop(held.view)
        _close(held.fuse_fd)
        _close(held.secret_fd)
        self._is_used_since = time.monotonic()

    def _abort(self, held: _View) -> None:
        # Without a descriptor of ours the server's death is the connection's; and the number of one that has ended may be
        # another's by now.
        if held.fuse_fd is None or not held.device or has_ended(held.fuse_fd):
            return
        try:
            abort(held.device)
        except OSError as error:
            logger.error("the connection of view %s cannot be ended: %s", held.view, error)  # noqa: TRY400 - expected

    # Time and signals.

    def _tick(self, now: float) -> None:
        self._answer()
        self._end_those_without_mounts()
        self._servers.tick()
        if not self._views and now - self._is_used_since > _IDLE_SECONDS:
            self._servers.dismiss_all()
            self._ends = self._settings.ends_when_idle

    def _end_those_without_mounts(self) -> None:
        """A connection ends with its last mount, or when somebody aborts it.

        Asked now and then: with the descriptors in the epoll, each request of every reader would wake this process too.
        """
        poll = select.poll()
        by_descriptor = {descriptor: serve.view for serve, descriptor in self.descriptors()}
        for descriptor in by_descriptor:
            poll.register(descriptor, 0)
        for descriptor, _events in poll.poll(0):
            self.end(by_descriptor[descriptor], "")

    def _patience(self, next_tick: float) -> float | None:
        if not self._views and not self._servers.all() and not self._asking and not self._settings.ends_when_idle:
            return None
        soonest = self._servers.soonest()
        moment = next_tick if soonest is None else min(next_tick, soonest)
        return max(0.0, moment - time.monotonic())

    def _watch_signals(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._wakers = reader, writer
        self._loop.watch(reader.fileno(), lambda _events: self._read_signals(reader))
        for number in SIGNALS:
            signal.signal(number, _ignore)
        # Blocked while the program was replaced: an unhandled SIGHUP would have killed it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _read_signals(self, reader: socket.socket) -> None:
        for number in reader.recv(64):
            if number == signal.SIGHUP:
                self._must_resume = True
            elif number in SIGNALS:
                self._ends = self._leave_by is not None
                self._leave_by = time.monotonic() + _LEAVE_SECONDS

    def _leave_if_told(self) -> None:
        """With the last copy of a descriptor its connection ends: that is not ours to close while a driver may come."""
        if self._leave_by is None or self._ends:
            return
        driver = self._driver
        has_driver = driver is not None and driver.is_open and driver.is_flushed and self._has_copies
        is_late = time.monotonic() >= self._leave_by
        self._ends = has_driver or is_late or not any(self.descriptors())
        if is_late:
            logger.error("no driver came in %.0f s: the lazy views end with their FUSE holder", _LEAVE_SECONDS)

    # Another program in this process.

    def _replace_program(self) -> None:
        self._must_resume = False
        servers = [_state_of(server) for server in self._servers.all()]
        state = {
            "lock": self._lock_fd,
            "serving": self._serving_fd,
            "listener": self._listener.fileno(),
            "lost": self._lost,
            "views": [astuple(held) for held in self._views.values()],
            "servers": servers,
        }
        replace_program(self._settings.own_command, state, self._kept(line_fd for *_, line_fd in servers))

    def _kept(self, lines: Iterable[int]) -> list[int]:
        """The descriptors that outlive the program."""
        views = [fd for held in self._views.values() for fd in (held.fuse_fd, held.secret_fd)]
        own = [self._lock_fd, self._serving_fd, self._listener.fileno()]
        return [fd for fd in (*views, *own, *lines) if fd is not None and fd >= 0]

    def _resume(self, state: dict[str, Any]) -> None:
        self._lost = {view: (why, serial) for view, (why, serial) in state["lost"].items()}
        for record in state["views"]:
            held = _View(*record)
            self._views[held.view] = held
        keep_from_children(self._kept(line_fd for *_, line_fd in state["servers"]))
        for pid, adapter, role, is_child, view, line_fd in state["servers"]:
            server = ServerProcess(pid, adapter, Role(role), is_child=is_child, view=view)
            if server.view is None:
                server.role = Role.ELDER if server.role in {Role.ACTIVE, Role.ELDER} else Role.LEAVING
            self._servers.adopt(server, socket.socket(fileno=line_fd) if line_fd >= 0 else None)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The descriptor tells; a handler must exist for it to be written."""


def _state_of(server: ServerProcess) -> list[Any]:
    line_fd = server.line.fileno() if server.line is not None and server.line.is_open else -1
    return [server.pid, server.adapter, server.role.value, server.is_child, server.view, line_fd]


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
