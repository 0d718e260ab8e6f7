"""A throwaway CA, a client of the fakes, and servers that say exactly what a test tells them."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.reference import Reference
from modelcsi.registry.blob import Stream
from modelcsi.registry.client import Registry, Repository
from modelcsi.registry.credentials import ANONYMOUS, Credentials
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.registry import FakeRegistry

ClientFactory = Callable[..., Repository]
ALICE = Credentials("alice", "s3cret", source="the volume's secret")


@dataclass(frozen=True)
class Authority:
    """A CA and what it signed: a certificate for 127.0.0.1, localhost and registry.test, and a client's."""

    ca: Path
    certificate: Path
    key: Path

    def server_context(self, *, client_ca: Path | None = None) -> ssl.SSLContext:
        """For a server; with `client_ca` it wants a certificate of the client's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_authority(directory: Path) -> Authority:
    """Keys are of P-256: made in milliseconds."""
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    certificate, key, request = directory / "server.crt", directory / "server.key", directory / "server.csr"
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(
        "req", "-x509", *new_key, "-keyout", str(ca_key), "-out", str(ca), "-days", "2", "-subj", "/CN=Throwaway CA"
    )
    _openssl("req", *new_key, "-keyout", str(key), "-out", str(request), "-subj", "/CN=fake")
    names = directory / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test\n", encoding="ascii")
    signing = ("-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2", "-extfile", str(names))
    _openssl("x509", "-req", "-in", str(request), "-out", str(certificate), *signing)
    return Authority(ca, certificate, key)


def make_bytes(size: int) -> bytes:
    """Bytes that are not alike in any two places, the same in each run."""
    return hashlib.shake_128(b"tests").digest(size)


CONTENT = make_bytes(200_000)


def read_all(stream: Stream, size: int = 70_000) -> bytes:
    """All that the stream gives, read in pieces of `size` at the most; the stream is closed."""
    with stream:
        pieces = []
        while piece := stream.read(size):
            assert len(piece) <= size
            pieces.append(piece)
        assert stream.read(size) == b""
        return b"".join(pieces)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that tests trust."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def transport() -> Iterator[HttpTransport]:
    """A transport without proxies, one for all: loading the system's roots takes longer than most tests."""
    transport = HttpTransport()
    yield transport
    transport.close()


@pytest.fixture
def client(transport: HttpTransport) -> ClientFactory:
    """`client("host/repository:tag", credentials)` is that repository."""
    registry = Registry(transport, Hosts())

    def repository(reference: str, credentials: Credentials = ANONYMOUS) -> Repository:
        return registry.repository(Reference.parse(reference), credentials)

    return repository


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry whose m/x holds one blob; a test enters it."""
    registry = FakeRegistry()
    registry.content.add_blob("m/x", CONTENT)
    return registry


@pytest.fixture
def blob(registry: FakeRegistry) -> Descriptor:
    """That blob."""
    return registry.content.add_blob("m/x", CONTENT)


def refused_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class CannedServer:
    """Answers the n-th connection with the n-th bytes (the last again), and keeps what it received."""

    def __init__(self, *answers: bytes, hold: bool = False) -> None:
        """`hold`: leave the connection open after the answer."""
        self.received: list[bytes] = []
        self._answers = answers
        self._hold = hold
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for number in range(1000):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            with contextlib.suppress(OSError):
                self.received.append(connection.recv(65536))
                connection.sendall(self._answers[min(number, len(self._answers) - 1)])
                if not self._hold:
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in [self._listener, *self._open]:
            connection.close()


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes], str]]:
    """Makes servers that answer each request with a head, and then with a byte each 20 ms; the result is the host."""
    is_over = threading.Event()
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def drip(connection: socket.socket, head: bytes) -> None:
        with connection, contextlib.suppress(OSError):
            asked = connection.recv(65536)
            connection.sendall(head if asked[:1] in b"GHP" else b"")
            while asked[:1] in b"GHP" and not is_over.wait(0.02):
                connection.sendall(b" ")

    def serve(listener: socket.socket, head: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=drip, args=(listener.accept()[0], head), daemon=True)
                threads.append(thread)
                thread.start()

    def make(head: bytes) -> str:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=serve, args=(listeners[-1], head), daemon=True).start()
        return f"127.0.0.1:{listeners[-1].getsockname()[1]}"

    yield make
    is_over.set()
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(10)


@pytest.fixture
def canned() -> Iterator[Callable[..., CannedServer]]:
    """Makes canned servers."""
    servers: list[CannedServer] = []

    def make(*answers: bytes, hold: bool = False) -> CannedServer:
        servers.append(CannedServer(*answers, hold=hold))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
