"""The requests session of oras over this project's own transport, so that a push reaches registries exactly as a pull does.

Bodies go out in pieces; answers to uploads are small and are read whole, within a limit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent
from modelcsi.oci.digest import Digest
from modelcsi.registry.answers import MAX_ERROR_BYTES, read_bounded
from modelcsi.registry.hosts import Endpoint, Hosts
from modelcsi.registry.redirects import follow
from modelcsi.registry.transport import Request, Response, Timeouts, Transport

_PIECE_BYTES = 256 << 10
"""A piece must be taken by the network within the connect timeout (Python's sendall): at 10 s, 26 kB/s are enough."""
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HEADERS = ("Location", "WWW-Authenticate", "Docker-Content-Digest", "Retry-After", "Content-Type")
"""All that an upload asks of an answer."""


class Answer(requests.Response):
    """An answer as requests has it, which is also a `registry.transport.Response`."""

    is_foreign = False
    """A redirect led to another host, which gave it."""

    @property
    def status(self) -> int:
        """The status code."""
        return self.status_code

    def header(self, name: str) -> str:
        """The header's value, or empty."""
        return self.headers.get(name, "")

    def header_lines(self, name: str) -> tuple[str, ...]:
        """The header's lines; several are joined."""
        return (self.header(name),) if self.header(name) else ()

    def read(self, size: int) -> bytes:
        """The next bytes of the body."""
        data: bytes = self.raw.read(size)
        return data


class TransportAdapter(BaseAdapter):
    """What requests calls for every request of a session."""

    def __init__(self, transport: Transport, hosts: Hosts, endpoint: Endpoint) -> None:
        """`endpoint` is the registry; what it leads to is spoken to with the TLS settings that `hosts` names."""
        super().__init__()
        self._transport = transport
        self._hosts = hosts
        self._endpoint = endpoint

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - the signature of requests
        timeout: object = None,
        verify: object = True,  # noqa: FBT002
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; TLS settings and proxies are the transport's, not the session's. Raises as the transport does."""
        del stream, verify, cert, proxies
        url, method = request.url or "", request.method or ""
        sent = Request(
            method,
            url,
            {name: str(value) for name, value in request.headers.items()},
            cast("bytes | Iterable[bytes] | None", request.body),  # the client sends nothing else
            self._hosts.tls_of(urlsplit(url).netloc, self._endpoint),
            timeout if isinstance(timeout, Timeouts) else Timeouts(),
        )
        if method not in _SAFE_METHODS:
            return _answer(request, sent, self._transport.request(sent))
        end = follow(self._transport, self._hosts, self._endpoint, sent, Deadline.never())
        return _answer(request, sent, end.response, is_foreign=end.is_foreign)

    def close(self) -> None:
        """The transport is its maker's to close."""


class BlobBody:
    """A blob as the body of a request: read in pieces, hashed while it is sent, and never finished when it is damaged."""

    def __init__(self, path: Path, digest: Digest, size: int, on_sent: Callable[[int], None]) -> None:
        """`on_sent` is told of each piece, and with a negative number that it was in vain."""
        self._path = path
        self._digest = digest
        self._size = size
        self._on_sent = on_sent
        self._sent = 0

    def __len__(self) -> int:
        """The size in bytes: requests makes the Content-Length of it."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """From the beginning, each time. Raises CorruptContent before the last byte when the blob is not its digest."""
        self.take_back()
        hasher = self._digest.hasher()
        try:
            with self._path.open("rb", buffering=0) as file:
                while piece := file.read(_PIECE_BYTES):
                    hasher.update(piece)
                    if self._sent + len(piece) >= self._size:
                        self._check(len(piece), hasher.hexdigest())
                    yield piece
                    self._sent += len(piece)
                    self._on_sent(len(piece))
        except OSError as error:
            raise CorruptContent(f"{self._path} cannot be read: {error.strerror}", hint="pack it again") from error

    def take_back(self) -> None:
        """What was sent so far did not help."""
        if self._sent:
            self._on_sent(-self._sent)
            self._sent = 0

    def _check(self, last: int, found: str) -> None:
        if self._sent + last != self._size or found != self._digest.hex:
            raise CorruptContent(f"{self._path} is damaged: it has not the digest {self._digest}", hint="pack it again")


def _answer(
    request: requests.PreparedRequest, sent: Request, response: Response, *, is_foreign: bool = False
) -> Answer:
    try:
        body = read_bounded(response, MAX_ERROR_BYTES, Deadline.after(sent.timeouts.stall_seconds))
    finally:
        response.close()
    answer = Answer()
    answer.status_code = response.status
    answer.url = request.url or ""
    answer.request = request
    answer.raw = io.BytesIO(body)
    answer.is_foreign = is_foreign
    answer.headers.update({name: value for name in _HEADERS if (value := response.header(name))})
    return answer
