"""A gRPC server that stays reachable at its path: the whole life of a socket file of ours.

C-core unlinks, when it stops, whatever then has the path it bound; the end of an old instance would take away the socket of
its successor, and kubelet would hang until somebody notices. So a server binds in a directory of its own, and the socket is
renamed to its real place once the server answers: what appears there is always ready, and is removed only by the one it
belongs to. kubelet's watcher sees the rename as a creation, and nothing whose name starts with a dot.

A listener cannot be given a second file, so when the file is gone, whoever removed it, a new server is made, and the old one
ends what it has in hand. What lives at the path and is not ours is left alone until it is dead. One thread looks once a
second; see docs/adr/0016.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc

from modelcsi.errors import InvalidRequest

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""A guess: kubelet's own watcher reconciles each second; a stat costs microseconds."""
_RETIRE_SECONDS = 150.0
"""What a call on a lost socket may still take: kubelet gives a publish 120 s."""
_CONNECT_TIMEOUT_SECONDS = 1.0
_MAX_SOCKET_PATH_BYTES = 107
"""sun_path, without its NUL."""
_BINDING_NAME = ".xxxxxx/.s"
"""What counts against sun_path while the socket is made."""

_Inode = tuple[int, int]


class ServedSocket:
    """`ensure` makes it, `watch` keeps it, `stop` ends it for good; any thread may call. Access is root's: mode 0600."""

    def __init__(self, path: Path, make_server: Callable[[], grpc.Server], *, makes_directory: bool) -> None:
        check_socket_path(path)
        check_socket_path(path.parent / _BINDING_NAME)
        self.path = path
        self._make_server = make_server
        self._makes_directory = makes_directory
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"socket {path.name}", daemon=True)
        self._lock = threading.Lock()  # guards all that follows
        self._server: grpc.Server | None = None
        self._retired: list[tuple[grpc.Server, threading.Event]] = []
        self._inode: _Inode | None = None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why nobody can reach the server at its path, as of the last look; empty when they can."""
        return self._trouble

    def ensure(self) -> None:
        """Returning normally means that clients can connect at the path, unless `stop` was called.

        Raises InvalidRequest if the path is somebody else's, or if no socket can be made there.
        """
        with self._lock:
            if self._ended.is_set():
                return
            try:
                if self._inode is None or _inode_of(self.path) != self._inode:
                    self._serve()
            except OSError as error:
                raise InvalidRequest(
                    f"cannot serve at {self.path}: {error.strerror}",
                    hint=f"the driver must be able to create files in {self.path.parent}",
                ) from error

    def look(self) -> None:
        """`ensure`; a failure is logged once and kept as `trouble`, since the next look may succeed."""
        try:
            self.ensure()
        except InvalidRequest as error:
            if self._trouble != str(error):
                logger.warning("%s; it is tried again each second", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    def watch(self) -> None:
        """Look once a second from now on."""
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        """Remove the socket if it is still ours; refuse new calls, give those in flight `grace_seconds`, then cancel them."""
        self._ended.set()
        with self._lock:
            if self._inode is not None and _inode_of(self.path) == self._inode:
                self.path.unlink(missing_ok=True)
            servers = [server for server, _ in self._retired]
            if self._server is not None:
                servers.append(self._server)
            # The smaller grace counts for one that has retired before (grpc.Server.stop).
            ends = [server.stop(grace_seconds) for server in servers]
        for end in ends:
            end.wait()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # a thread's main: what is a bug today must not cost the node its driver tomorrow
                logger.exception("looking after %s failed", self.path)

    def _serve(self) -> None:
        self._claim()
        server = self._make_server()
        try:
            self._inode = _listen(server, self.path)
        except BaseException:
            server.stop(None)
            raise
        if self._server is not None:
            logger.warning("%s was removed or replaced by somebody else; it is served again", self.path)
            self._retired = [(old, end) for old, end in self._retired if not end.is_set()]
            self._retired.append((self._server, self._server.stop(_RETIRE_SECONDS)))
        self._server = server

    def _claim(self) -> None:
        """Check that there is a directory, made if it is ours (0700), and that the rename replaces nothing alive."""
        directory = self.path.parent
        if self._makes_directory:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(directory)
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise InvalidRequest(f"{self.path} exists and is not a socket", hint="remove it")
        if _has_listener(self.path):
            raise InvalidRequest(
                f"another process serves {self.path}", hint="only one driver, or registrar, may run for a socket"
            )


def check_socket_path(path: Path) -> None:
    """Raise InvalidRequest if the kernel takes no socket path of this length; its own word would be EINVAL."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise InvalidRequest(f"the socket path {path} is too long", hint=f"at most {_MAX_SOCKET_PATH_BYTES} bytes")


def _listen(server: grpc.Server, path: Path) -> _Inode:
    """Start `server` on a socket that nobody else can reach yet, then give it its name.

    A directory of 0700, because C-core offers no mode, and a mask would be the process's: a pull that creates a file at that
    moment would show it to root alone. A kill between these lines leaves a dot directory that nobody reads.
    """
    nursery = path.with_name(
        f".{secrets.token_hex(3)}"
    )  # random: a successor in another container may have the same pid
    nursery.mkdir(mode=0o700)
    bound = nursery / ".s"
    try:
        try:
            server.add_insecure_port(f"unix:{bound}")
        except RuntimeError as error:  # grpc's only word for every failure of bind(2) and listen(2)
            raise InvalidRequest(f"gRPC cannot listen in {path.parent}", hint="the log above has its reason") from error
        server.start()
        bound.chmod(0o600)
        inode = _inode_of(bound)
        assert inode is not None, "the server has just bound it"
        bound.rename(path)
        return inode
    finally:
        with suppress(FileNotFoundError):  # the whole directory may have been removed meanwhile
            bound.unlink(missing_ok=True)
            nursery.rmdir()


def _check_directory(directory: Path) -> None:
    try:
        links = directory.stat().st_nlink
    except FileNotFoundError:
        raise InvalidRequest(
            f"{directory} does not exist", hint="kubelet makes it; is it mounted into the driver's container?"
        ) from None
    if links == 0:  # a mount keeps showing the removed directory, and nothing can be created there
        raise InvalidRequest(
            f"{directory} was removed while it was mounted here", hint="restart the driver's container"
        )


def _has_listener(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (TimeoutError, BlockingIOError):  # its backlog is full
            return True
    return True


def _inode_of(path: Path) -> _Inode | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
