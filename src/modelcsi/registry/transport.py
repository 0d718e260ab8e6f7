"""One HTTP request and its streamed answer; the only module that sees urllib3's exceptions.

Left to others: authentication, redirects, retries, and what a status means. Threads may share a transport; an answer is read
by one thread, and closing it from another ends a read that waits.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import SplitResult, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, InvalidRequest, ModelCsiError, RegistryUnavailable
from modelcsi.registry.causes import explain
from modelcsi.registry.connections import CheckedHTTPPool, CheckedHTTPSPool, HandshakeFailed, allowed_addresses
from modelcsi.registry.proxies import Proxy, ProxySettings
from modelcsi.registry.tls import TlsContexts, TlsSettings

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
_LEAST_SECONDS = 0.05
_KEPT_CONNECTIONS = 32
_KEPT_POOLS = 64
# A read gathers what arrives until it has what was asked for, but not for longer: at 1 B/s, 1 MiB takes twelve days, and
# nobody would see progress meanwhile. Guessed: long enough to fill 1 MiB at 20 MB/s.
_GATHER_SECONDS = 0.05


_Contexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a connection (per address, with its TLS handshake); for the whole head of the answer, and then for
    each next byte of its body, which has no total.
    """

    connect_seconds: float = CONNECT_SECONDS
    stall_seconds: float = STALL_SECONDS

    def within(self, deadline: Deadline) -> Timeouts:
        """The same, and none later than the deadline."""
        return Timeouts(deadline.within(self.connect_seconds), deadline.within(self.stall_seconds))


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an absolute URL. Neither the headers nor the query appear in its repr: both may be secret."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Iterable[bytes] | None = field(default=None, repr=False)
    """Pieces need a Content-Length header; without one they would be sent chunked, which some registries refuse."""
    tls: TlsSettings = TlsSettings()
    timeouts: Timeouts = Timeouts()


class Response(Protocol):
    """An answer whose body is still on the wire."""

    @property
    def status(self) -> int:
        """The status code."""

    def header(self, name: str) -> str:
        """The header's value, or empty; several lines are joined by commas."""

    def header_lines(self, name: str) -> tuple[str, ...]:
        """Each line of a header that may come several times."""

    def read(self, size: int) -> bytes:
        """1 to `size` bytes, b"" at the end of the body. Bytes that came before a failure are returned before it is raised.

        Raises RegistryUnavailable.
        """

    def close(self) -> None:
        """Give the connection back, or close it when the body was not read to its end. May be called again."""


class Transport(Protocol):
    """The lowest, swappable layer."""

    def request(self, request: Request) -> Response:
        """Send the request and return when the headers of the answer are there.

        Raises RegistryUnavailable, PolicyDenied (link-local address), CorruptContent (compressed although not asked for).
        """


class HttpTransport:
    """HTTP/1.1 by urllib3: one pool of kept connections per host, TLS settings and proxy."""

    def __init__(
        self, *, proxies: ProxySettings | None = None, ca_file: Path | None = None, user_agent: str = "modelcsi"
    ) -> None:
        self._lock = threading.Lock()  # guards _managers
        self._managers: dict[tuple[str, TlsSettings, Proxy | None], tuple[_Contexts, urllib3.PoolManager]] = {}
        self._proxies = proxies or ProxySettings()
        self._contexts = TlsContexts(ca_file)
        self._user_agent = user_agent
        # At DEBUG urllib3 logs each URL with its query, which in a redirect to an object store is a credential.
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def request(self, request: Request) -> Response:
        """Send the request and return when the headers of the answer are there."""
        url = _parse(request.url)
        where = url.netloc
        proxy = self._proxies.proxy_for(url)
        if proxy is not None:
            _refuse_literal_link_local(url)
        manager = self._manager(url.scheme, request.tls, proxy)
        with _translated(where, request.timeouts, proxy):
            raw = manager.urlopen(
                request.method,
                request.url,
                redirect=False,
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity", **request.headers},
                body=request.body,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=_urllib3_timeout(request.timeouts),
            )
        response = _HttpResponse(cast("urllib3.HTTPResponse", raw), where, request.timeouts, proxy)
        try:
            response.check_encoding()
        except ModelCsiError:
            response.close()
            raise
        return response

    def close(self) -> None:
        """Close the idle connections; answers still being read are left alone."""
        with self._lock:
            managers = [manager for _, manager in self._managers.values()]
            self._managers.clear()
        for manager in managers:
            manager.clear()

    def _manager(self, scheme: str, tls: TlsSettings, proxy: Proxy | None) -> urllib3.PoolManager:
        # Loading the system's roots takes 20 ms: not for plain HTTP, unless the proxy is spoken to over TLS.
        context = self._contexts.context(tls) if scheme == "https" else None
        is_proxy_secure = proxy is not None and proxy.url.startswith("https:")
        proxy_context = self._contexts.context(TlsSettings()) if is_proxy_secure else None
        key = (scheme, tls if scheme == "https" else TlsSettings(), proxy)
        with self._lock:
            known = self._managers.get(key)
            if known is not None and known[0] == (context, proxy_context):
                return known[1]
            # maxsize is how many idle connections are kept, not a limit.
            options: dict[str, Any] = {"maxsize": _KEPT_CONNECTIONS, "ssl_context": context}
            if proxy is None:
                manager = urllib3.PoolManager(_KEPT_POOLS, **options)
            else:
                authorization = urllib3.make_headers(proxy_basic_auth=proxy.credentials) if proxy.credentials else {}
                options |= {"proxy_headers": authorization, "proxy_ssl_context": proxy_context}
                manager = urllib3.ProxyManager(proxy.url, _KEPT_POOLS, **options)
            manager.pool_classes_by_scheme = {"http": CheckedHTTPPool, "https": CheckedHTTPSPool}
            self._managers[key] = ((context, proxy_context), manager)
        if known is not None:
            known[1].clear()  # a certificate was renewed: what is idle was made with the old one
        return manager


class _HttpResponse:
    def __init__(self, raw: urllib3.HTTPResponse, where: str, timeouts: Timeouts, proxy: Proxy | None) -> None:
        # http.client breaks when it is closed in the middle of a read, hence the lock around each use of _raw, with _is_closed.
        self._lock = threading.Lock()
        self._is_closed = False
        self._raw = raw
        self._where = where
        self._timeouts = timeouts
        self._proxy = proxy
        self._failure: ModelCsiError | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} from {self._where}>"

    @property
    def status(self) -> int:
        return self._raw.status

    def header(self, name: str) -> str:
        return self._raw.headers.get(name, "")

    def header_lines(self, name: str) -> tuple[str, ...]:
        return tuple(self._raw.headers.getlist(name))

    def check_encoding(self) -> None:
        encoding = self.header("Content-Encoding").strip().lower()
        if encoding not in {"", "identity"} and self.status < 300:
            # Decoding would change the digest, and is what makes decompression bombs work (moby #17595).
            raise CorruptContent(
                f"{self._where} answers with Content-Encoding {encoding[:40]!r}, and identity was asked for",
                hint="a proxy or the registry's web server compresses; switch that off there",
            )

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                with _translated(self._where, self._timeouts, self._proxy):
                    self._gather(size, pieces)
            except ModelCsiError as error:
                if not pieces:
                    raise
                self._failure = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _gather(self, size: int, pieces: list[bytes]) -> None:
        """Append what arrives to `pieces`; what is there when this raises did arrive."""
        # read1 and not read: of a connection that breaks, read(1 MiB) loses up to 1 MiB that did arrive; and measured on
        # loopback it is cheaper (0.56 against 0.70 CPU-s/GB, hash included), since what the kernel has at once is not
        # copied. Over TLS, which hands out 16 KiB at a time, it costs a little more.
        if self._is_closed:
            raise RegistryUnavailable(f"the connection to {self._where} was closed")
        end = 0.0
        while size:
            piece = self._raw.read1(size, decode_content=False)
            if not piece:
                return
            pieces.append(piece)
            size -= len(piece)
            now = time.monotonic()
            end = end or now + _GATHER_SECONDS
            if now >= end:
                return

    def close(self) -> None:
        if not self._raw.closed:
            # Closing a file descriptor does not wake a thread that reads from it; shutting the socket down does. Without
            # the lock, which that thread holds. It fails where the connection was given back already, which is fine.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._raw.shutdown()
        with self._lock:
            self._is_closed = True
            self._raw.close()


@contextlib.contextmanager
def _translated(where: str, timeouts: Timeouts, proxy: Proxy | None) -> Iterator[None]:
    try:
        yield
    except urllib3.exceptions.LocationParseError:
        # The text of this one is the URL, and its query may be a signature: it is not chained.
        raise RegistryUnavailable(f"{where} is part of a URL that cannot be used") from None
    except (HandshakeFailed, HTTPError, OSError) as error:
        raise explain(
            error, where, (timeouts.connect_seconds, timeouts.stall_seconds), proxy.url if proxy else ""
        ) from error
    except ValueError:
        # A TLS socket that another thread shut down; or a header that http.client refuses, whose value is the text of the
        # exception and may be a token: not chained either.
        raise RegistryUnavailable(f"the exchange with {where} was broken off") from None


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc:
        raise InvalidRequest("not the URL of a registry")
    return parts


def _refuse_literal_link_local(url: SplitResult) -> None:
    """Behind a proxy the name is resolved there; what can be checked here is an address in any spelling."""
    with contextlib.suppress(OSError, UnicodeError):  # a name
        allowed_addresses(url.hostname or "", url.port or 0, numeric_only=True)


def _urllib3_timeout(timeouts: Timeouts) -> urllib3.Timeout:
    return urllib3.Timeout(
        connect=max(timeouts.connect_seconds, _LEAST_SECONDS), read=max(timeouts.stall_seconds, _LEAST_SECONDS)
    )
