"""The HTTP server below the fakes: TLS where a test wants it, connections that can be ended, bugs of handlers that come to light."""

from __future__ import annotations

import contextlib
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any


class FakeHttpServer(ThreadingHTTPServer):
    """A thread for each connection; serves between `start` and `stop`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
    ) -> None:
        self.accepted = 0
        """How many connections were made so far."""
        self._tls = tls
        self._bugs: list[BaseException] = []
        self._lock = threading.Lock()  # guards _open, _bugs and accepted
        self._open: set[socket] = set()
        super().__init__(address, handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,), name="fake-server", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> BaseException | None:
        """End all connections; the first exception of a handler that was not its client going away."""
        self.shutdown()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(2)
        self.server_close()
        self._thread.join()
        return self._bugs[0] if self._bugs else None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: the handshake, then requests until one of the two closes."""
        with self._lock:
            self.accepted += 1
            self._open.add(request)
        served = request
        try:
            if self._tls:
                served = self._tls.wrap_socket(request, server_side=True)
                with self._lock:
                    self._open.add(served)
            super().finish_request(served, client_address)
        finally:
            with self._lock:
                self._open -= {request, served}
            if served is not request:
                served.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what is no broken connection for `stop`."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            with self._lock:
                self._bugs.append(error)
