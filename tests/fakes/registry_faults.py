"""What a fake registry saw, and what goes wrong in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass
class Faults:
    """What goes wrong. The defaults are a registry that works."""

    cut_every_bytes: int = 0
    """Each answer with a blob ends after so many bytes, although it promised more."""
    cut_with_reset: bool = False
    """Cut with RST instead of FIN; the bytes before it do arrive."""
    stall_after_bytes: int | None = None
    """After so many bytes of a blob, wait until `resume` is set."""
    resume: threading.Event = field(default_factory=threading.Event)
    bytes_per_second: int = 0
    """How fast each answer with a blob goes; 0 is as fast as it can."""
    bytes_per_second_in_all: int = 0
    """How fast all answers with blobs go together."""
    flip_bit_of: set[str] = field(default_factory=set)
    """Digests of blobs whose middle byte is wrong."""
    resize: dict[str, int] = field(default_factory=dict)
    """Digest -> by how many bytes the blob is too long, or too short when negative; the lengths in the headers agree."""
    ignores_ranges: bool = False
    """Answer a Range with 200 and the whole blob."""
    content_range: str = ""
    """A Content-Range header to send instead of the right one."""
    chunked: bool = False
    """Send blobs without a Content-Length."""
    content_encoding: str = ""
    """A Content-Encoding header on every 200 and 206."""
    redirect_blobs_to: str = ""
    """`http://host:port` of another registry: blobs are answered with a redirect to the same path there, signed."""
    redirect_loop: bool = False
    """Blobs are answered with a redirect to themselves."""
    manifest_bytes: bytes | None = None
    """What every manifest request gets instead of the manifest."""
    tells_digest: bool = True
    """Send Docker-Content-Digest with manifests."""
    refuse_head: int = 0
    """A status for every HEAD request."""
    challenge: str = ""
    """A WWW-Authenticate header to send instead of the right one."""
    token_seconds: int = 300
    """`expires_in` of tokens. They are good until `expire_tokens`, whatever this says."""

    _free_at: float = 0.0
    """When the line that all answers share has sent what it was given; under the lock."""
    _statuses: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def line_is_busy_for(self, size: int) -> float:
        """So many bytes are given to the line that all answers share; how long until it has sent them."""
        now = time.monotonic()
        with self._lock:
            self._free_at = max(now, self._free_at) + size / self.bytes_per_second_in_all
            return self._free_at - now

    def fail_next(self, status: int, *, times: int = 1, path: str = "", retry_after: str = "") -> None:
        """Answer the next requests whose path contains `path` with a status."""
        headers = {"Retry-After": retry_after} if retry_after else {}
        with self._lock:
            self._statuses += [(path, status, headers)] * times

    def take_status(self, path: str) -> tuple[int, dict[str, str]] | None:
        """The status for this request, taken off the list; None: serve it."""
        with self._lock:
            for number, (part, status, headers) in enumerate(self._statuses):
                if part in path:
                    del self._statuses[number]
                    return status, headers
        return None
