"""Lazy views without a registry: a driver that fills an ingest at command, and answers on the demand socket."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.oci.digest import Digest
from modelcsi.packets import MAX_PACKET_BYTES, Packet, encode
from modelcsi.store.chunks import CHUNK_BYTES, ChunkMap
from modelcsi.store.layout import StoreLayout
from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.plan import PlannedEntry, ViewPlan, plan_of, write_plan
from modelcsi.view.wire import Ahead, Cancel, Changed, Failed, Here, Want, read_by_driver

HOST = "registry.example.com"
VIEW = "0123456789abcdef" * 4


def content_of(name: str, size: int) -> bytes:
    """Bytes that nothing else has."""
    return random.Random(name).randbytes(size)  # noqa: S311 - not for secrets


@dataclass
class LazyFile:
    """A raw layer of one file, as it arrives."""

    path: str
    content: bytes
    mode: int = 0o444
    mtime_ns: int | None = 1_700_000_000_000_000_007
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        self.digest = Digest.of(self.content)

    def entry(self) -> PlannedEntry:
        """As the plan has it."""
        entry = FileEntry(*(self.path, EntryType.FILE, len(self.content), self.mode, self.mtime_ns), layer=self.digest)
        return PlannedEntry(entry, 0)


class LazyStore:
    """The driver's side of one view: what a pull would write, when the test says so."""

    def __init__(
        self, root: Path, files: Sequence[LazyFile], others: Sequence[PlannedEntry] = (), view: str = VIEW
    ) -> None:
        self.layout = StoreLayout(root)
        files_of_view = self.layout.lazy_view(view)
        for directory in (*self.layout.directories(), files_of_view.directory):
            directory.mkdir(exist_ok=True)
        self.view = view
        head = {"view": view, "reference": "r", "manifest": "m", "host": HOST}
        self.plan: ViewPlan = plan_of(head, [*(file.entry() for file in files), *others])
        write_plan(self.plan, files_of_view.plan)
        self.fill = FillMap(files_of_view.fill, len(self.plan.entries), is_writer=True)
        self.files = {file.path: file for file in files}
        self.numbers = {planned.entry.path: number for number, planned in enumerate(self.plan.entries)}
        self._maps: dict[str, tuple[int, ChunkMap]] = {}

    def begin(self, path: str) -> None:
        """The layer is being fetched, and may be read where it is marked."""
        file = self.files[path]
        directory = self.layout.ingest(file.digest, HOST)
        directory.mkdir(parents=True, exist_ok=True)
        chunks = ChunkMap(directory / "chunks", len(file.content))
        fd = os.open(directory / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, len(file.content))
        self._maps[path] = (fd, chunks)
        self.fill.put(self.numbers[path], FileState.ARRIVING)

    def arrive(self, path: str, chunk: int) -> None:
        """A chunk's bytes are written and marked."""
        if path not in self._maps:
            self.begin(path)
        fd, chunks = self._maps[path]
        start = chunk * CHUNK_BYTES
        os.pwrite(fd, self.files[path].content[start : start + CHUNK_BYTES], start)
        chunks.mark(chunk)

    def chunks(self, path: str) -> range:
        """All chunks of a file."""
        return range(-(-len(self.files[path].content) // CHUNK_BYTES))

    def complete(self, path: str) -> None:
        """All of it is here, verified and renamed to its final place."""
        file = self.files[path]
        for chunk in self.chunks(path):
            self.arrive(path, chunk)
        if not file.content:
            return
        fd, chunks = self._maps.pop(path)
        os.fchmod(fd, 0o444)
        os.close(fd)
        chunks.close()
        (self.layout.ingest(file.digest, HOST) / "data").rename(self.layout.blob(file.digest))
        self.fill.put(self.numbers[path], FileState.COMPLETE)

    def begin_again(self, path: str, state: FileState = FileState.WAITING) -> None:
        """What arrived was wrong, and is thrown away."""
        self.fill.begin_again(self.numbers[path], state)
        self.drop(path)

    def drop(self, path: str) -> None:
        """The same, and nobody is told."""
        fd, chunks = self._maps.pop(path)
        os.close(fd)
        chunks.close()
        directory = self.layout.ingest(self.files[path].digest, HOST)
        (directory / "data").unlink()
        (directory / "chunks").unlink()


class LazyDriver:
    """Listens on the demand socket in a thread. Wants are answered when their bytes are there; `serves` makes them so."""

    def __init__(self, *stores: LazyStore, serves: bool = True) -> None:
        self._stores = {store.view: store for store in stores}
        self._lock = threading.Lock()  # guards what follows
        self.serves = serves
        self.said: list[Packet] = []
        self._wants: dict[tuple[int, int], tuple[socket.socket, Want]] = {}
        path = stores[0].layout.demand_socket
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends = socket.socketpair()
        self._connections: dict[int, socket.socket] = {}
        self._thread = threading.Thread(target=self._run, name="lazy driver")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As a driver that is killed."""
        self._ends[1].close()
        self._thread.join()
        self._ends[0].close()
        self._listener.close()
        for connection in self._connections.values():
            connection.close()

    def look_again(self) -> None:
        """Answer what is there by now."""
        with self._lock:
            for key, (connection, want) in tuple(self._wants.items()):
                if self._is_here(want):
                    del self._wants[key]
                    _tell(connection, Here(want.id))

    def serve_from_now(self) -> None:
        """Have what is wanted arrive at once."""
        with self._lock:
            self.serves = True
            for _, want in self._wants.values():
                self._fetch(want)
        self.look_again()

    def fail(self, errno: int) -> None:
        """Answer all wants so."""
        with self._lock:
            for connection, want in self._wants.values():
                _tell(connection, Failed(want.id, errno, "as the test says"))
            self._wants.clear()

    def tell_changed(self, view: str, *files: int) -> None:
        """To every server."""
        for connection in self._connections.values():
            _tell(connection, Changed(view, files))

    def wants(self) -> list[Want]:
        """Those not answered yet."""
        with self._lock:
            return [want for _, want in self._wants.values()]

    def asked(self) -> list[Want]:
        """All that were ever said."""
        with self._lock:
            return [message for message in self.said if isinstance(message, Want)]

    def hints(self) -> list[Ahead]:
        """All that were ever said."""
        with self._lock:
            return [message for message in self.said if isinstance(message, Ahead)]

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._ends[0], select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._ends[0].fileno():
                    return
                if fd == self._listener.fileno():
                    connection, _ = self._listener.accept()
                    self._connections[connection.fileno()] = connection
                    poll.register(connection, select.POLLIN)
                    continue
                connection = self._connections[fd]
                try:
                    packet = connection.recv(MAX_PACKET_BYTES)
                except ConnectionError:
                    packet = b""
                if not packet:
                    poll.unregister(fd)
                    self._forget(fd)
                    continue
                self._hear(connection, packet)

    def _forget(self, fd: int) -> None:
        with self._lock:
            for key in [key for key in self._wants if key[0] == fd]:
                del self._wants[key]
        self._connections.pop(fd).close()

    def _hear(self, connection: socket.socket, packet: bytes) -> None:
        message = read_by_driver(packet)
        with self._lock:
            self.said.append(message)
            if isinstance(message, Cancel):
                self._wants.pop((connection.fileno(), message.id), None)
            elif isinstance(message, Want):
                if self.serves:
                    self._fetch(message)
                if self._is_here(message):
                    _tell(connection, Here(message.id))
                else:
                    self._wants[connection.fileno(), message.id] = (connection, message)

    def _fetch(self, want: Want) -> None:
        store = self._stores[want.view]
        path = store.plan.entries[want.file].entry.path
        if store.fill.state(want.file) is FileState.COMPLETE:
            return
        if want.verified:
            store.complete(path)
            return
        for chunk in range(want.start // CHUNK_BYTES, -(-want.end // CHUNK_BYTES)):
            store.arrive(path, chunk)

    def _is_here(self, want: Want) -> bool:
        store = self._stores[want.view]
        state = store.fill.state(want.file)
        if state is FileState.COMPLETE:
            return True
        if want.verified or state is not FileState.ARRIVING:
            return False
        path = store.plan.entries[want.file].entry.path
        runs = store._maps[path][1].runs()
        return all(present for start, end, present in runs if start < want.end and end > want.start)


def _tell(connection: socket.socket, message: Packet) -> None:
    with suppress(ConnectionError):  # a server that was killed
        connection.send(encode(message))
