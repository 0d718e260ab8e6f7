"""`/metrics`, `/metrics/detail`, `/healthz` and `/readyz` on the configured addresses.

`/healthz` says that the process serves, nothing more: a probe that failed for a registry or a full disk would have kubelet kill
the driver, which mends neither. `/metrics/detail` names the models of all pods, so it is told to the node itself, that is on
loopback; to others only where the administrator says so.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

from modelcsi.api.server import Answer, HttpServer, Request
from modelcsi.config.address import TcpAddress
from modelcsi.errors import InvalidRequest
from modelcsi.metrics import Metrics


class MetricsServer:
    """Serves metrics and health; `readiness` says why the driver is not ready, None when it is."""

    def __init__(
        self,
        addresses: Sequence[TcpAddress],
        metrics: Metrics,
        readiness: Callable[[], str | None],
        shows_detail: Callable[[], bool] = lambda: False,
    ) -> None:
        """`shows_detail` is whether others than the node itself may see the names of models."""
        self._wanted = tuple(addresses)
        self._metrics = metrics
        self._readiness = readiness
        self._shows_detail = shows_detail
        self._servers: dict[TcpAddress, HttpServer] = {}

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        """Where it listens, with the ports that the kernel chose for 0."""
        return tuple(self._servers)

    def start(self) -> None:
        """Listen on every address, on equal ones once.

        Raises InvalidRequest, listening on none, if one of them cannot be had.
        """
        try:
            for address in dict.fromkeys(self._wanted):
                listener = _listen(address)
                bound = TcpAddress(*listener.getsockname()[:2])
                self._servers[bound] = HttpServer(listener, self.respond)
        except InvalidRequest:
            self.stop()
            raise
        for server in self._servers.values():
            server.start()

    def stop(self) -> None:
        """Listen no more."""
        for server in self._servers.values():
            server.stop()
        self._servers = {}

    def respond(self, request: Request) -> Answer:
        """What a request gets; in any thread."""
        respond = {
            "/metrics": lambda: Answer(200, self._metrics.exposition(), Metrics.CONTENT_TYPE),
            "/metrics/detail": lambda: self._detail(request.reached_at),
            "/healthz": lambda: Answer(200, b"ok\n"),
            "/readyz": self._ready,
        }.get(request.path)
        if respond is None:
            return Answer(404, b"there are /metrics, /metrics/detail, /healthz and /readyz\n")
        if request.method != "GET":
            return Answer(405, b"GET only\n")
        return respond()

    def _detail(self, reached_at: str) -> Answer:
        if not (ipaddress.ip_address(reached_at).is_loopback or self._shows_detail()):
            return Answer(403, b"names of models are told on 127.0.0.1 only; metrics_detail: true tells them here\n")
        return Answer(200, self._metrics.detail_exposition(), Metrics.CONTENT_TYPE)

    def _ready(self) -> Answer:
        reason = self._readiness()
        return Answer(200, b"ok\n") if reason is None else Answer(503, f"not ready: {reason}\n".encode())


def _listen(address: TcpAddress) -> socket.socket:
    host = address.host or "0.0.0.0"  # noqa: S104 (an address without a host asks for it)
    try:
        # The first answer decides; a name with addresses of both families is the administrator's to make clear.
        family, _, _, _, sockaddr = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(sockaddr, family=family, backlog=128)
    except OSError as error:
        hint = "is another program, or another driver, using it?"
        raise InvalidRequest(f"cannot listen on {address}: {error.strerror or error}", hint=hint) from error
