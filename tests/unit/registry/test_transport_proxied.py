from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcsi.errors import RegistryUnavailable
from modelcsi.registry.proxies import ProxySettings
from modelcsi.registry.tls import TlsSettings
from modelcsi.registry.transport import HttpTransport, Request
from tests.fakes.registry import FakeRegistry
from tests.unit.registry.conftest import Authority, CannedServer, refused_port

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Canned = Callable[..., CannedServer]


def _ask(transport: HttpTransport, url: str, *authorities: Path) -> bytes:
    request = Request("GET", url, {"X-Test": "1"}, tls=TlsSettings(authorities))
    response = transport.request(request)
    try:
        return response.read(100)
    finally:
        response.close()


class _Connect(threading.Thread):
    """An HTTP proxy for one CONNECT, to a place of the test's choice."""

    def __init__(self, target: str, status: bytes = b"200 OK") -> None:
        super().__init__(daemon=True)
        self.received = b""
        self._target = target
        self._status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://proxyuser:proxypass@127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        with self._listener, self._listener.accept()[0] as near:
            self.received = near.recv(65536)
            near.sendall(b"HTTP/1.1 " + self._status + b"\r\n\r\n")
            if not self._status.startswith(b"200"):
                return
            host, _, port = self._target.partition(":")
            with socket.create_connection((host, int(port))) as far:
                back = threading.Thread(target=_copy, args=(far, near), daemon=True)
                back.start()
                _copy(near, far)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_https_goes_through_a_proxy_that_learns_only_the_host(authority: Authority) -> None:
    """The proxy sees its own password and a name; the registry sees no trace of the proxy's password."""
    with FakeRegistry(tls=authority.server_context()) as registry:
        proxy = _Connect(registry.host)
        proxy.start()
        transport = HttpTransport(proxies=ProxySettings.parse(proxy.url), ca_file=authority.ca)
        request = Request("GET", "https://registry.test/v2/", {"Authorization": "Bearer s3cret-token"})
        response = transport.request(request)
        response.close()
        transport.close()
        seen = registry.seen[0].headers

    assert proxy.received.startswith(b"CONNECT registry.test:443 ")
    assert b"proxy-authorization: Basic cHJveHl1c2VyOnByb3h5cGFzcw==" in proxy.received
    assert b"s3cret-token" not in proxy.received
    assert "Bearer s3cret-token" == seen["authorization"]
    assert "proxy-authorization" not in seen


def test_plain_http_goes_through_a_proxy_as_a_whole(canned: Canned) -> None:
    """There is no tunnel: the proxy is asked for the absolute URL."""
    server = canned(_OK)
    transport = HttpTransport(proxies=ProxySettings.parse(http=f"http://{server.host}"))
    body = _ask(transport, "http://registry.test/v2/")

    assert b"ok" == body
    assert server.received[0].startswith(b"GET http://registry.test/v2/ HTTP/1.1\r\n")


def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    """407, and the hint names the variables."""
    proxy = _Connect("", b"407 Proxy Authentication Required")
    proxy.start()
    transport = HttpTransport(proxies=ProxySettings.parse(proxy.url))
    with pytest.raises(RegistryUnavailable, match=r"does not lead to registry\.test: .*407") as caught:
        _ask(transport, "https://registry.test/v2/")

    assert "HTTPS_PROXY" in caught.value.hint
    assert "proxypass" not in str(caught.value)


def test_a_proxy_that_is_away_is_named() -> None:
    """It is the proxy that refuses, not the registry."""
    port = refused_port()
    transport = HttpTransport(proxies=ProxySettings.parse(f"http://127.0.0.1:{port}"))
    with pytest.raises(RegistryUnavailable, match=f"the proxy http://127.0.0.1:{port} does not lead to .*it refused"):
        _ask(transport, "https://registry.test/v2/")


def test_a_certificate_behind_a_proxy_is_verified(authority: Authority) -> None:
    """The tunnel changes nothing about trust."""
    with FakeRegistry(tls=authority.server_context()) as registry:
        proxy = _Connect(registry.host)
        proxy.start()
        transport = HttpTransport(proxies=ProxySettings.parse(proxy.url))
        with pytest.raises(RegistryUnavailable, match=r"the certificate of registry\.test is not trusted"):
            _ask(transport, "https://registry.test/v2/")
