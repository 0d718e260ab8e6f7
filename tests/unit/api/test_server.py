from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from modelcsi.api.server import Answer, HttpServer, Request


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """The address of a server that answers every request with what it understood, and fails on /fail."""

    def respond(request: Request) -> Answer:
        if request.path == "/fail":
            raise KeyError(request.path)
        return Answer(200, f"{request.method} {request.path} {request.body.decode()}".encode())

    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(listener, respond)
    server.start()
    yield listener.getsockname()
    server.stop()


def _talk(address: tuple[str, int], sent: bytes) -> bytes:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        try:
            while received := connection.recv(65536):
                answer += received
        except ConnectionResetError:
            # The server ended with something unread, which is how it refuses what is too long.
            return answer
        return answer


def test_a_request_is_answered(server: tuple[str, int]) -> None:
    """Method, path without its query, and body arrive; the answer has a length and a type."""
    connection = http.client.HTTPConnection(*server, timeout=10)
    connection.request("POST", "/path?query", "body")
    response = connection.getresponse()

    assert (200, "text/plain; charset=utf-8") == (response.status, response.getheader("Content-Type"))
    assert b"POST /path body" == response.read()
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: 65537", b"413"),
        (b"Content-Length: -1", b"400"),
        (b"Content-Length: 1e3", b"400"),
        ("Content-Length: ²".encode(), b"400"),
        (b"Content-Length: " + b"9" * 5000, b"413"),
        (b"Transfer-Encoding: chunked", b"400"),
    ],
)
def test_bodies_are_bounded(server: tuple[str, int], headers: bytes, status: bytes) -> None:
    """A body that is too large, or of unknown length, is refused before it is read."""
    assert status == _talk(server, b"POST / HTTP/1.1\r\n" + headers + b"\r\n\r\n").split(b" ")[1]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: v\r\n" % number for number in range(200)) + b"\r\n",
        b"\x16\x03\x01 what is this\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
    ],
)
def test_requests_that_are_none_are_refused(server: tuple[str, int], sent: bytes) -> None:
    """Overlong lines, hundreds of headers, TLS and unknown methods get an error and an end."""
    refusal = _talk(server, sent)

    assert b"200" not in refusal.partition(b"\r\n")[0]
    assert b"GET / " in _talk(server, b"GET / HTTP/1.1\r\n\r\n")


def test_a_request_is_bounded_in_bytes(server: tuple[str, int]) -> None:
    """Sixteen clients with all the headers that the protocol allows would else take 100 MiB."""
    sent = b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: %s\r\n" % (number, b"v" * 60000) for number in range(90)) + b"\r\n"
    try:
        refusal = _talk(server, sent)
    except ConnectionError:
        refusal = b""

    assert b"" == refusal
    assert b"GET / " in _talk(server, b"GET / HTTP/1.1\r\n\r\n")


def test_a_request_is_bounded_in_time(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In all, not for each byte: one that drips is cut."""
    monkeypatch.setattr("modelcsi.api.server._REQUEST_SECONDS", 0.3)
    with socket.create_connection(server, timeout=10) as connection:
        connection.settimeout(0.1)
        received: bytes | None = None
        for _ in range(100):
            try:
                connection.sendall(b"x")
                received = connection.recv(1)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                received = b""
                break

    assert b"" == received


def test_a_bug_is_an_internal_error(server: tuple[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged with its traceback, told as 500 without it, and the server goes on."""
    with caplog.at_level(logging.ERROR):
        answer = _talk(server, b"GET /fail HTTP/1.1\r\n\r\n")

    assert (b"500", False) == (answer.split(b" ")[1], b"KeyError" in answer)
    assert "KeyError" in caplog.text


def test_silent_clients_block_nobody(server: tuple[str, int]) -> None:
    """Far more connections than are allowed, each with half a request, and a probe is still answered."""
    silent = [socket.create_connection(server, timeout=10) for _ in range(100)]
    for connection in silent:
        connection.sendall(b"GET / HT")
    answer = _talk(server, b"GET / HTTP/1.1\r\n\r\n")
    oldest = silent[0].recv(1000)
    silent[-1].sendall(b"TP/1.1\r\n\r\n")
    newest = silent[-1].recv(1000)
    for connection in silent:
        connection.close()

    assert answer.endswith(b"GET / ")
    assert (b"", b"HTTP/1.0 200 OK") == (oldest, newest.partition(b"\r\n")[0])


def test_stopping_cuts_what_is_open() -> None:
    """After stop nothing listens, and a client that was being read from is at its end."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    arrived = threading.Event()

    def respond(_: Request) -> Answer:
        arrived.set()
        return Answer(200, b"")

    server = HttpServer(listener, respond)
    server.start()
    silent = socket.create_connection(address, timeout=10)
    _talk(address, b"GET / HTTP/1.1\r\n\r\n")
    server.stop()

    assert (True, b"") == (arrived.is_set(), silent.recv(1))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    silent.close()


def test_work_is_not_cut_to_make_place() -> None:
    """When every connection is worked for, the next one is turned away; then there is place again."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    working, done = threading.Semaphore(0), threading.Event()

    def respond(_: Request) -> Answer:
        working.release()
        done.wait(10)
        return Answer(204, b"")

    server = HttpServer(listener, respond, max_connections=2)
    server.start()
    busy = [socket.create_connection(address, timeout=10) for _ in range(2)]
    for connection in busy:
        connection.sendall(b"DELETE / HTTP/1.1\r\n\r\n")
        assert working.acquire(timeout=10)
    turned_away = _talk(address, b"DELETE / HTTP/1.1\r\n\r\n")
    done.set()
    answers = [connection.recv(1000).partition(b"\r\n")[0] for connection in busy]
    for connection in busy:
        connection.close()
    server.stop()

    assert (b"", [b"HTTP/1.0 204 No Content"] * 2) == (turned_away, answers)


def test_servers_share_a_room() -> None:
    """Together they have no more connections than it lets in, and give the place back."""
    room, arrived, done = threading.Semaphore(1), threading.Event(), threading.Event()

    def respond(_: Request) -> Answer:
        arrived.set()
        done.wait(10)
        return Answer(200, b"ok")

    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    servers = [HttpServer(listener, respond, room=room) for listener in listeners]
    for server in servers:
        server.start()
    first, second = (listener.getsockname() for listener in listeners)
    with socket.create_connection(first, timeout=10) as sitting:
        sitting.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert arrived.wait(10)
        full = _talk(second, b"GET / HTTP/1.1\r\n\r\n")
        done.set()
        while sitting.recv(1000):
            pass
    assert room.acquire(timeout=10)
    room.release()
    free = _talk(second, b"GET / HTTP/1.1\r\n\r\n")
    for server in servers:
        server.stop()

    assert (b"", True) == (full, free.endswith(b"ok"))
