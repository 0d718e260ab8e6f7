"""A blob, or a range of it, as it comes from the registry: exactly the bytes asked for, or an error.

The digest is not checked here: whoever collects the bytes of several streams does that. What is checked is everything the
answer says about length and range, because a wrong one would waste a download.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from modelcsi.errors import CorruptContent, RegistryUnavailable
from modelcsi.registry.transport import Response

_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
_UNSATISFIED_RANGE = re.compile(r"bytes\s+\*/([0-9]{1,19})", re.IGNORECASE)
_SKIP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes `start` to `end` (exclusive) of a blob of `size` bytes; `what` names the blob and its repository."""

    what: str
    start: int
    end: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= self.size:
            raise ValueError(f"bytes {self.start} to {self.end} of a blob of {self.size}")


class Stream(ABC):
    """Bytes in order, closed at the end of a `with`. One thread reads; another may `close`, which ends a read that waits."""

    honours_ranges: bool
    """Whether the server can serve parts."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """1 to `size` bytes, as many as arrive together; b"" exactly at the end of the span.

        Raises RegistryUnavailable when the connection breaks, stalls or ends early (what arrived before was returned),
        CorruptContent when the body is longer than the blob.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection back. May be called again, and by another thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class BlobStream(Stream):
    """The bytes of a span, as the answer brings them."""

    def __init__(self, response: Response | None, span: Span, *, is_range: bool, honours_ranges: bool = True) -> None:
        """`is_range`: the body starts at the span's start, else at 0. No response: the span is empty."""
        self.honours_ranges = honours_ranges
        self._response = response
        self._span = span
        self._skip = 0 if is_range else span.start
        self._missing = span.end - span.start
        # A chunked body names no length: only reading on tells whether it ends where the blob does.
        self._look_for_excess = (
            response is not None and not is_range and span.end == span.size and content_length(response) is None
        )

    def __repr__(self) -> str:
        return f"<BlobStream {self._span.what} {self._span.start}-{self._span.end}, {self._missing} bytes to come>"

    def read(self, size: int) -> bytes:
        """As `Stream.read`."""
        while self._skip:
            self._skip -= len(self._receive(min(self._skip, _SKIP_BYTES)))
        if not self._missing:
            self._end()
            return b""
        piece = self._receive(min(size, self._missing))
        self._missing -= len(piece)
        return piece

    def close(self) -> None:
        """As `Stream.close`."""
        if self._response is not None:
            self._response.close()

    def _receive(self, size: int) -> bytes:
        if self._response is None:
            raise RegistryUnavailable(f"the stream of {self._span.what} has no answer to read")
        try:
            piece = self._response.read(size)
        except RegistryUnavailable as error:
            raise RegistryUnavailable(f"{error.message} {self._so_far()}", hint=error.hint) from error
        if not piece:
            raise RegistryUnavailable(f"the answer ended {self._so_far()}")
        return piece

    def _end(self) -> None:
        if self._response is None:
            return
        if self._look_for_excess:
            self._look_for_excess = False
            if self._response.read(1):
                self._response.close()
                raise CorruptContent(
                    f"{self._span.what} is longer than the {self._span.size} bytes that its manifest says"
                )
        self._response.close()

    def _so_far(self) -> str:
        span = self._span
        return f"after {span.end - span.start - self._missing} of {span.end - span.start} bytes of {span.what}"


def open_stream(response: Response, span: Span, *, range_asked: bool) -> BlobStream:
    """The stream in an answer of status 200 or 206, after everything it says about itself was compared with the span.

    Raises CorruptContent, after closing the answer.
    """
    try:
        if response.status == 206:
            _check_range(response, span)
            return BlobStream(response, span, is_range=True)
        length = content_length(response)
        if length is not None and length != span.size:
            raise CorruptContent(f"{span.what} has {length} bytes in the registry, and {span.size} by its manifest")
    except CorruptContent:
        response.close()
        raise
    # distribution-spec, "Pulling blobs": a server may ignore Range, and sends the whole blob with a 200.
    return BlobStream(response, span, is_range=False, honours_ranges=not range_asked)


def unsatisfied_range(response: Response, span: Span) -> CorruptContent | RegistryUnavailable:
    """The error that a 416 is: the span is inside the blob by its manifest."""
    found = _UNSATISFIED_RANGE.match(response.header("Content-Range"))
    if found and int(found[1]) != span.size:
        return CorruptContent(f"{span.what} has {int(found[1])} bytes in the registry, and {span.size} by its manifest")
    return RegistryUnavailable(f"the registry refuses bytes {span.start} to {span.end} of {span.what} (416)")


def content_length(response: Response) -> int | None:
    """The length of the body, or None where the answer does not say (or says two things)."""
    text = response.header("Content-Length").strip()
    if response.header("Transfer-Encoding") or not re.fullmatch(r"[0-9]{1,19}", text):
        return None
    return int(text)


def is_first_byte(response: Response, size: int) -> bool:
    """Whether an answer of status 206 is the first byte of a blob of `size` bytes."""
    found = _CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
    return found is not None and found.groups() == ("0", "0", str(size))


def _check_range(response: Response, span: Span) -> None:
    text = response.header("Content-Range")
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found:
        raise CorruptContent(f"a range of {span.what} comes without a usable Content-Range ({text[:60]!r})")
    first, last = int(found[1]), int(found[2])
    # An end before ours is allowed (RFC 9110, 15.3.7): the stream then ends early, and the rest is asked for again.
    total_differs = found[3] != "*" and int(found[3]) != span.size
    length = content_length(response)
    if first != span.start or not first <= last < span.end or total_differs or length not in {None, last - first + 1}:
        raise CorruptContent(
            f"bytes {span.start} to {span.end - 1} of {span.what} ({span.size} bytes) were asked for, "
            f"and the registry sends {text[:60]!r} with Content-Length {length}"
        )
