"""The wire between the driver and a registry: it counts, slows down all connections together, breaks, and goes silent."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

_PIECE_BYTES = 64 << 10
_POLL_SECONDS = 0.05
_BURST_SECONDS = 0.01
"""A pause that was too long is made up for, or one connection would be slower than all together may be."""


class Wire:
    """Forwards TCP connections to `127.0.0.1:port`; a context manager. Its faults may be changed at any time."""

    def __init__(self, port: int, *, address: str = "127.0.0.1", listen_port: int = 0) -> None:
        """It listens at `address` on `listen_port`; 0 is any that is free."""
        self.bytes_per_second = 0
        """Of all connections together, from the registry to the driver; 0 is no limit."""
        self.is_silent = False
        """Accept connections, and answer nothing."""
        self._upstream = port
        self._address = address
        self._port = listen_port
        self._lock = threading.Lock()
        # Under the lock: what came from the registry; when the next piece may pass; the sockets that are open.
        self._delivered = 0
        self._free_at = 0.0
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.connect()

    @property
    def host(self) -> str:
        """The first part of a reference that leads over this wire."""
        return f"{self._address}:{self._port}"

    @property
    def delivered_bytes(self) -> int:
        """Bytes that came from the registry, headers included."""
        with self._lock:
            return self._delivered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()

    def connect(self) -> None:
        """Listen (again), always at the same port."""
        listener = socket.create_server((self._address, self._port), backlog=64)
        self._listener = listener
        self._port = listener.getsockname()[1]
        self._start(functools.partial(self._accept, listener))

    def cut(self) -> None:
        """Refuse connections from now on, and break those that are open: the registry is down."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)  # ends the accept
            listener.close()
        with self._lock:
            for side in self._open:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._start(functools.partial(self._serve, client))

    def _serve(self, client: socket.socket) -> None:
        with client, self._tracked(client):
            while self.is_silent and self._listener is not None:
                threading.Event().wait(_POLL_SECONDS)
            try:
                registry = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                return
            with registry, self._tracked(registry):
                upwards = self._start(functools.partial(_forward, client, registry))
                with contextlib.suppress(OSError):
                    while piece := registry.recv(_PIECE_BYTES):
                        self._account(len(piece))
                        client.sendall(piece)
                for side in (client, registry):
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)
                upwards.join()

    def _account(self, size: int) -> None:
        with self._lock:
            self._delivered += size
            if not self.bytes_per_second:
                return
            now = time.monotonic()
            self._free_at = max(now - _BURST_SECONDS, self._free_at) + size / self.bytes_per_second
            pause = max(0.0, self._free_at - now)
        threading.Event().wait(pause)

    @contextlib.contextmanager
    def _tracked(self, side: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(side)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(side)

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name="wire", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
