"""What of an answer is not its body (head, sizes of chunks, trailers): so many bytes and so many seconds in a row.

A socket's timeout is for one read, and http.client bounds one line: a server that sends a byte now and then, or interim
answers (100 Continue) without end, would hold its reader for ever.
"""

from __future__ import annotations

import http.client
import io
import socket
from typing import Any, cast

from modelcsi.deadline import Deadline

_MAX_BYTES = 64 << 10


class EndlessFraming(http.client.HTTPException):
    """There is too much of it, or it does not end in time; the text says which."""


class _Framed(io.BufferedIOBase):
    """What http.client reads an answer from: lines are bounded until bytes of the body come in between."""

    def __init__(self, stream: io.BufferedReader, connected: socket.socket) -> None:
        """`stream` reads from `connected`, whose timeout is for all lines in a row."""
        seconds = connected.gettimeout()
        assert seconds is not None, "a transport's connections have timeouts"
        self._socket = connected
        self._seconds = seconds
        self._stream = stream
        self._lines_bytes = 0
        self._deadline: Deadline | None = None  # set while lines are read

    def readline(self, limit: int | None = -1, /) -> bytes:
        """The next line, or its first `limit` bytes. Raises EndlessFraming, TimeoutError."""
        if self._deadline is None:
            self._lines_bytes, self._deadline = 0, Deadline.after(self._seconds)
        left = _MAX_BYTES + 1 if limit is None or limit < 0 else limit
        line = b""
        while left and not line.endswith(b"\n") and (buffered := self._peek(self._deadline)):
            piece = self._stream.read(min(buffered.find(b"\n") + 1 or len(buffered), left))
            line += piece
            left -= len(piece)
            self._lines_bytes += len(piece)
            if self._lines_bytes > _MAX_BYTES:
                raise EndlessFraming(f"answers with over {_MAX_BYTES} bytes of headers")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes of the body."""
        self._end_lines()
        return self._stream.read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """Bytes of the body, by one read at the most."""
        self._end_lines()
        return self._stream.read1(size)

    def readinto(self, buffer: Any, /) -> int:
        """Bytes of the body."""
        self._end_lines()
        return self._stream.readinto(buffer)

    def readable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """The socket stays open for its connection."""
        self._stream.close()
        super().close()

    def _peek(self, deadline: Deadline) -> bytes:
        """What is buffered, or comes by one read; empty at the end."""
        seconds = deadline.remaining_seconds()
        try:
            if not seconds:  # 0 would mean: do not block
                raise TimeoutError
            self._socket.settimeout(seconds)
            return self._stream.peek()
        except TimeoutError:
            if self._lines_bytes:
                raise EndlessFraming(f"was not done with its headers after {self._seconds:.3g} s") from None
            raise

    def _end_lines(self) -> None:
        if self._deadline is not None:
            self._deadline = None
            self._socket.settimeout(self._seconds)


class BoundedResponse(http.client.HTTPResponse):
    """An answer of which everything but the body is bounded."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        """The timeout of `sock` is for the whole head, and then for each read of the body."""
        super().__init__(sock, *arguments, **options)
        self.fp = cast("io.BufferedReader", _Framed(self.fp, sock))
