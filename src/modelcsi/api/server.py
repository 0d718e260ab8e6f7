"""A small HTTP server on one listening socket, for clients that may be slow or hostile.

One request for each connection, one thread for each connection, a bounded number of both: when it is reached the oldest
connection that is not worked for is cut, so that whoever sits on connections cannot keep kubelet's probes out; when all are
worked for, the new one is turned away. `http.server` parses the requests; its own ThreadingHTTPServer bounds neither
connections nor what one request takes in bytes and time.
"""

from __future__ import annotations

import http
import io
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, cast

from modelcsi.api.hangup import watched
from modelcsi.deadline import Deadline

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

# A guess, far above what a kubelet, a Prometheus and a person need.
_MAX_CONNECTIONS = 64
_MAX_BODY_BYTES = 64 << 10
_MAX_HEAD_BYTES = 16 << 10
"""Of request line and headers, beside a body; http.server alone would take 6 MiB."""
_MAX_LENGTH_DIGITS = 10
_REQUEST_SECONDS = 10.0
"""From the first byte that is waited for to the last of the request, and for each piece of the answer."""
_BACK_OFF_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    """Without the query."""
    body: bytes
    reached_at: str = ""
    """The address of this machine to which the client came; empty on a unix socket."""
    when_gone: Callable[[Callable[[], None]], AbstractContextManager[None]] = field(
        default=lambda _: nullcontext(), repr=False, compare=False
    )
    """A context that calls back, once and in another thread, if the client closes its end meanwhile (unix sockets only)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it is told."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class HttpServer:
    """Answers requests on `listener`, which it closes at `stop`; `respond` is called in many threads at once."""

    def __init__(
        self,
        listener: socket.socket,
        respond: Callable[[Request], Answer],
        *,
        max_connections: int = _MAX_CONNECTIONS,
        room: threading.Semaphore | None = None,
    ) -> None:
        """Servers with a common `room` have no more connections together than it lets in."""
        # _lock guards _connections, in the order of their arrival: whether `respond` works for them.
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, bool] = {}
        self._max_connections = max_connections
        self._room = room
        self._listener = listener
        self._respond = respond
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, cut those there are; returns at once."""
        self._stopped.set()
        # Wakes accept(), which close() alone does not.
        _shut_down(self._listener)
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                _shut_down(connection)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                # The end, a client that left again, or no descriptors: then others have to end first.
                logger.debug("no connection: %s", error)
                self._stopped.wait(_BACK_OFF_SECONDS)
                continue
            if self._admit(connection):
                threading.Thread(target=self._serve, args=(connection,), name="http-request", daemon=True).start()
            else:
                connection.close()

    def _admit(self, connection: socket.socket) -> bool:
        with self._lock:
            if len(self._connections) >= self._max_connections:
                oldest = next((other for other, is_worked_for in self._connections.items() if not is_worked_for), None)
                if oldest is None:
                    return False
                del self._connections[oldest]
                _shut_down(oldest)
            if self._room is not None and not self._room.acquire(blocking=False):
                return False
            self._connections[connection] = False
            return True

    def respond(self, connection: socket.socket, request: Request) -> Answer:
        """What the request gets; meanwhile the connection is not cut to make place."""
        with self._lock:
            if connection in self._connections:  # else it was cut
                self._connections[connection] = True
        try:
            return self._respond(request)
        finally:
            with self._lock:
                if connection in self._connections:
                    self._connections[connection] = False

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Exchange(connection, self)
        except OSError as error:
            logger.debug("a client went away: %s", error)
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()
            if self._room is not None:
                self._room.release()


class _Exchange(BaseHTTPRequestHandler):
    """Reads one request and writes its answer (HTTP/1.0, so the connection ends with it)."""

    timeout = _REQUEST_SECONDS
    server_version = "modelcsi"
    sys_version = ""
    server: HttpServer  # type: ignore[assignment]  # http.server only stores it

    def __init__(self, connection: socket.socket, server: HttpServer) -> None:
        super().__init__(connection, ("", 0), cast("None", server))  # type: ignore[arg-type]

    def setup(self) -> None:
        """Read through the bounds of a request."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Bounded(self.connection))

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer()

    def do_DELETE(self) -> None:
        """Answer a DELETE."""
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """http.server would write to standard error."""
        logger.debug(format, *args)

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            answer = Answer(400, b"a body needs a Content-Length\n")
        elif len(length) > _MAX_LENGTH_DIGITS or int(length) > _MAX_BODY_BYTES:
            answer = Answer(413, f"a body has at most {_MAX_BODY_BYTES} bytes\n".encode())
        else:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                return
            when_gone = partial(watched, self.connection)
            path = self.path.partition("?")[0]
            answer = self._respond(Request(self.command, path, body, _address(self.connection), when_gone))
        self.send_response(answer.status)
        if answer.status != http.HTTPStatus.NO_CONTENT:  # RFC 9110: it has no body, and no length of one
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _respond(self, request: Request) -> Answer:
        try:
            return self.server.respond(self.connection, request)
        except Exception:
            logger.exception("%s %s could not be answered", request.method, request.path)
            return Answer(500, b"an unexpected error: the driver's log says more\n")


class _Bounded(io.RawIOBase):
    """What a client sends, as long as it is one request's."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = _MAX_HEAD_BYTES + _MAX_BODY_BYTES
        self._deadline = Deadline.after(_REQUEST_SECONDS)

    def readable(self) -> bool:
        """As every file that is read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As every file that is read; raises OSError at the end of the bounds."""
        if not self._left or self._deadline.is_over():
            raise TimeoutError("a request takes too much or too long")
        self._connection.settimeout(self._deadline.remaining_seconds())
        try:
            count = self._connection.recv_into(buffer, min(self._left, len(memoryview(buffer))))
        finally:
            self._connection.settimeout(_REQUEST_SECONDS)  # of what is written
        self._left -= count
        return count


def _address(connection: socket.socket) -> str:
    return "" if connection.family == socket.AF_UNIX else str(connection.getsockname()[0])


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        # ENOTCONN: it was over already.
        logger.debug("a connection had ended: %s", error)
