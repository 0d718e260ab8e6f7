"""The gRPC server on its unix socket: threads, limits, and the life of the socket file.

C-core unlinks, when it stops, whatever then has the path it bound; the end of an old instance would take away the socket of
its successor, and kubelet would hang until somebody notices. So it binds a path of its own, and the socket is renamed to its
real place once the server answers: what appears there is always ready, and is removed only by the one it belongs to.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from modelcsi.csi.controller import Controller
from modelcsi.csi.identity import Identity
from modelcsi.csi.interceptors import CallInterceptor, OperationMetrics
from modelcsi.csi.node import Node
from modelcsi.csi.pb import csi_pb2_grpc
from modelcsi.errors import InvalidRequest

_SPARE_THREADS = 16
"""Beside the publish slots (D1, measured: Probe answers in under 1 ms with every slot taken)."""
_QUICK_THREADS = 8
"""Of the spare threads, those that only calls which never wait may take."""
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_MAX_SOCKET_PATH_BYTES = 107
"""sun_path, without its NUL."""
_CONNECT_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """What one endpoint serves."""

    identity: Identity
    node: Node | None = None
    controller: Controller | None = None


class CsiServer:
    """Serves CSI on one unix socket. `start` and `stop` are called once each, by the thread that owns the process."""

    def __init__(self, endpoint: str, services: Services, metrics: OperationMetrics, *, publish_slots: int) -> None:
        self.path = parse_endpoint(endpoint)
        # Short, since it counts against sun_path too. Random: a successor in another container may have the same pid.
        self._bound_path = self.path.with_name(f".{secrets.token_hex(3)}.sock")
        if len(os.fsencode(self._bound_path)) > _MAX_SOCKET_PATH_BYTES:
            raise InvalidRequest(f"the socket path {self.path} is too long", hint="at most about 100 bytes")
        self._pool = ThreadPoolExecutor(publish_slots + _SPARE_THREADS, thread_name_prefix="csi")
        working_calls = publish_slots + _SPARE_THREADS - _QUICK_THREADS
        self._server = grpc.server(
            self._pool,
            interceptors=[CallInterceptor(metrics, working_calls=working_calls)],
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ],
        )
        _register(self._server, services)
        self._identity_of_socket: tuple[int, int] | None = None

    def start(self) -> None:
        """Listen and answer; returns when clients can connect. Raises InvalidRequest if the path is somebody else's."""
        _claim_directory(self.path)
        # The mask is the process's: a file that another thread creates now is only more private than it asked for.
        previous = os.umask(0o077)
        try:
            self._server.add_insecure_port(f"unix:{self._bound_path}")
        finally:
            os.umask(previous)
        self._server.start()
        self._bound_path.chmod(0o600)
        self._identity_of_socket = _inode_of(self._bound_path)
        self._bound_path.rename(self.path)

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give those in flight `grace_seconds`, then cancel them; callers see UNAVAILABLE.

        Mounts stay. The socket goes first, and only if it is still ours, so that a successor can start meanwhile.
        """
        if self._identity_of_socket is not None and _inode_of(self.path) == self._identity_of_socket:
            self.path.unlink(missing_ok=True)
        stopped: threading.Event = self._server.stop(grace_seconds)
        stopped.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


def parse_endpoint(endpoint: str) -> Path:
    """The socket's path in `unix:///…` or `unix:/…`. Raises InvalidRequest."""
    scheme, _, path = endpoint.partition(":")
    path = path.removeprefix("//")
    if scheme != "unix" or not Path(path).is_absolute() or path.endswith("/"):
        raise InvalidRequest(f"the endpoint {endpoint!r} is not a unix socket", hint="for example unix:///csi/csi.sock")
    return Path(path)


def _register(server: grpc.Server, services: Services) -> None:
    csi_pb2_grpc.add_IdentityServicer_to_server(services.identity, server)
    if services.node is not None:
        csi_pb2_grpc.add_NodeServicer_to_server(services.node, server)
    if services.controller is not None:
        csi_pb2_grpc.add_ControllerServicer_to_server(services.controller, server)


def _claim_directory(path: Path) -> None:
    """Make the directory (access to the socket is root's, so 0700) and check that the rename replaces nothing alive."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidRequest(f"{path} exists and is not a socket")
    if _has_listener(path):
        raise InvalidRequest(f"another process serves {path}", hint="only one driver may run for an endpoint")


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


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
