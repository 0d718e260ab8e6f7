"""The gRPC server of the CSI services: threads, limits, what is served. The life of its socket is in `socketfile`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from modelcsi.csi.controller import Controller
from modelcsi.csi.identity import Identity
from modelcsi.csi.interceptors import CallInterceptor, OperationMetrics
from modelcsi.csi.node import Node
from modelcsi.csi.pb import csi_pb2_grpc
from modelcsi.csi.socketfile import ServedSocket
from modelcsi.errors import InvalidRequest

_SPARE_THREADS = 16
"""Beside the publish slots (D1, measured: Probe answers in under 1 ms with every slot taken)."""
_QUICK_THREADS = 8
"""Of the spare threads, those that only calls which never wait may take."""
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024


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
        self._services = services
        self._pool = ThreadPoolExecutor(publish_slots + _SPARE_THREADS, thread_name_prefix="csi")
        # Threads and bounds are the process's: they stay when the server is made anew because its socket was removed.
        self._interceptor = CallInterceptor(metrics, working_calls=publish_slots + _SPARE_THREADS - _QUICK_THREADS)
        self._socket = ServedSocket(self.path, self._make_server, makes_directory=True)

    @property
    def trouble(self) -> str:
        """Why nobody can reach the driver at its path, as of a second ago; empty when they can."""
        return self._socket.trouble

    def start(self) -> None:
        """Listen and answer; returns when clients can connect, and keeps it so. Raises InvalidRequest if the path is
        somebody else's.
        """
        self._socket.ensure()
        self._socket.watch()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give those in flight `grace_seconds`, then cancel them; callers see UNAVAILABLE.

        Mounts stay. The socket goes first, and only if it is still ours, so that a successor can start meanwhile.
        """
        self._socket.stop(grace_seconds)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make_server(self) -> grpc.Server:
        server = grpc.server(
            self._pool,
            interceptors=[self._interceptor],
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ],
        )
        _register(server, self._services)
        return server


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
