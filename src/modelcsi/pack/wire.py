"""The requests session of oras over this project's own transport, so that a push reaches registries exactly as a pull does.

Bodies go out in pieces; answers to uploads are small and are read whole, within a limit.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent
from modelcsi.oci.digest import Digest, Hasher
from modelcsi.registry.answers import MAX_ERROR_BYTES, read_bounded
from modelcsi.registry.hosts import Endpoint, Hosts
from modelcsi.registry.redirects import follow
from modelcsi.registry.transport import Request, Response, Timeouts, Transport

_PIECE_BYTES = 256 << 10
"""A piece must be taken by the network within the connect timeout (Python's sendall): at 10 s, 26 kB/s are enough."""
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HEADERS = (
    "Location", "Range", "OCI-Chunk-Min-Length", "WWW-Authenticate", "Docker-Content-Digest", "Retry-After", "Content-Type",
)  # fmt: skip
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


class Watcher(Protocol):
    """Who is told what a push sends, and may end it."""

    def count(self, size: int, *, is_sent: bool) -> None:
        """So many bytes more are there, sent now or before; a negative number were in vain."""

    def check(self, *, may_finish: bool) -> None:
        """Raises ShuttingDown to end the push; `may_finish` says that it can go on later where the present part ends."""


class BlobBody:
    """A blob on its way: read in pieces, hashed while it is sent, and never finished when it is damaged. One thread."""

    def __init__(self, path: Path, digest: Digest, size: int, watcher: Watcher) -> None:
        self.path = path
        self.digest = digest
        self.size = size
        self.position = 0
        """What the registry has of it, as far as is known."""
        self.sent = 0
        """What of that was sent here."""
        self._watcher = watcher
        self._hashed = [(0, digest.hasher())]
        """The state of the hash at some positions: a part that is sent again is not hashed from the blob's beginning."""

    def seek(self, position: int) -> None:
        """The registry has so many bytes, from the beginning."""
        moved = position - self.position
        if moved:
            self._watcher.count(moved, is_sent=False)
        self.position = position
        self.sent = max(0, self.sent + min(0, moved))

    def part(self, end: int, *, is_kept: bool) -> BlobPart:
        """The bytes from the position up to `end` as a request's body; `is_kept`: a push can go on later where it ends.

        Raises what the watcher raises: no request is begun for a push that ends.
        """
        self._watcher.check(may_finish=False)
        return BlobPart(self, self.position, end, is_kept=is_kept)

    def pieces(self, start: int, end: int, *, is_kept: bool) -> Iterator[bytes]:
        """These bytes. Raises CorruptContent before the blob's last one when the blob is not its digest."""
        self.seek(start)
        try:
            with self.path.open("rb", buffering=0) as file:
                hasher = self._hash_to(file, start)
                while self.position < end and (piece := file.read(min(_PIECE_BYTES, end - self.position))):
                    self._watcher.check(may_finish=is_kept)
                    hasher.update(piece)
                    if self.position + len(piece) == self.size:
                        self._check(hasher.hexdigest())
                    yield piece
                    self.position += len(piece)
                    self.sent += len(piece)
                    self._watcher.count(len(piece), is_sent=True)
        except OSError as error:
            raise CorruptContent(f"{self.path} cannot be read: {error.strerror}", hint="pack it again") from error
        if self.position < end:
            self._check("")
        self._hashed.append((end, hasher))

    def _hash_to(self, file: FileIO, start: int) -> Hasher:
        """The state of the hash at `start`, where the file is then, too."""
        known = [(position, hasher) for position, hasher in self._hashed if position <= start][-2:]
        self._hashed = known or [(0, self.digest.hasher())]
        position, hasher = self._hashed[-1]
        hasher = hasher.copy()
        file.seek(position)
        while position < start and (piece := file.read(min(_PIECE_BYTES, start - position))):
            hasher.update(piece)
            position += len(piece)
        if position > self._hashed[-1][0]:
            self._hashed.append((position, hasher.copy()))
        return hasher

    def _check(self, found: str) -> None:
        if found != self.digest.hex:
            raise CorruptContent(f"{self.path} is damaged: it has not the digest {self.digest}", hint="pack it again")


class BlobPart:
    """The body of one request; may be sent several times, and then begins anew."""

    def __init__(self, body: BlobBody, start: int, end: int, *, is_kept: bool) -> None:
        self._body = body
        self._start = start
        self._end = end
        self._is_kept = is_kept

    def __len__(self) -> int:
        """The size in bytes: requests makes the Content-Length of it."""
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        """Raises CorruptContent before the last byte of a blob that is damaged, and what a watcher raises."""
        return self._body.pieces(self._start, self._end, is_kept=self._is_kept)


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
