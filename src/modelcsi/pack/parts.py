"""A blob in several requests (distribution-spec, "Pushing a blob in chunks"), so that an interrupted push goes on inside it.

How far the registry got is asked of it. distribution answers that only where one request had ended and the next not begun: it
signs the position into the location, and finds other bytes after one that was cut. So parts are small, and Ctrl-C waits for
their end. Registries that refuse parts (some refuse the second one, or any that is large) get the blob in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from modelcsi.errors import ModelCsiError, RegistryUnavailable
from modelcsi.pack.uploads import UploadRecord
from modelcsi.pack.wire import Answer, BlobBody, BlobPart

PART_BYTES = 64 << 20
"""Guessed: a tenth of a second in a data centre, ten on a slow line; docker and containerd send everything as one."""
OCTETS: Mapping[str, str] = {"Content-Type": "application/octet-stream"}
_DONE = frozenset({200, 201, 202, 204})
_AGAIN = frozenset({401, 403, 408, 425, 429, 502, 503, 504})
"""Answers that say nothing about parts; 500 is not among them: some fail over what they do not support."""
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


class Conversation(Protocol):
    """What is asked of a registry's client."""

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: BlobPart | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, whatever its status."""

    def begin_upload(self, what: str) -> tuple[str, Answer]:
        """The URL of a new upload, and the answer that named it."""

    def following(self, url: str, answer: Answer) -> str:
        """The URL that an answer leads to; `url` when to none. Raises PolicyDenied, RegistryUnavailable."""

    def complete(self, url: str, digest: str, body: BlobPart | bytes) -> Answer:
        """The last request of an upload."""

    def refusal(self, answer: Answer, what: str) -> ModelCsiError:
        """The error that an answer is."""


class PartwiseUpload:
    """One attempt at one blob."""

    def __init__(self, client: Conversation, body: BlobBody, record: UploadRecord, part_bytes: int, what: str) -> None:
        self._client = client
        self._body = body
        self._record = record
        self._part_bytes = part_bytes
        self._what = what
        self._is_resumed = False

    def run(self) -> Answer | None:
        """The answer that says the blob is there; None when the registry wants no parts.

        Raises what the client raises, and RegistryUnavailable when an upload got lost: the next attempt begins anew.
        """
        url = self._resumed() or self._begun()
        while self._body.position < self._body.size:
            start = self._body.position
            end = min(start + self._part_bytes, self._body.size)
            headers = {**OCTETS, "Content-Range": f"{start}-{end - 1}"}
            answer = self._client.do_request(url, "PATCH", self._body.part(end, is_kept=True), headers)
            if answer.status not in _DONE:
                return self._give_up(answer)
            url = self._client.following(url, answer)
            self._seek(answer, start)
            self._record.save(url)
        answer = self._client.complete(url, str(self._body.digest), b"")
        if answer.status not in _DONE:
            return self._give_up(answer)
        self._record.forget()
        return answer

    def _resumed(self) -> str:
        """Where the upload of an earlier attempt goes on; empty where there is none, or the registry has lost it."""
        url = self._checked(self._record.location, Answer()) if self._record.location else ""
        if not url:
            self._record.forget()
            return ""
        try:
            answer = self._client.do_request(url, "GET")
        except RegistryUnavailable:
            # The registry was asked for the blob just before, and answered: it is the location that is unreachable.
            self._record.fail()
            raise
        if answer.status in _AGAIN:
            raise self._client.refusal(answer, self._what)
        following = self._checked(url, answer)
        kept = _kept_bytes(answer)
        if answer.status not in _DONE or not following or kept is None or kept > self._body.size:
            self._record.forget()
            return ""
        self._body.seek(kept)
        self._is_resumed = True
        return following

    def _checked(self, url: str, answer: Answer) -> str:
        """Where to go; empty when that is not allowed: records and registries change."""
        try:
            return self._client.following(url, answer)
        except ModelCsiError:
            return ""

    def _begun(self) -> str:
        self._body.seek(0)
        url, answer = self._client.begin_upload(self._what)
        least = answer.header("OCI-Chunk-Min-Length")
        if least.isascii() and least.isdigit():
            self._part_bytes = max(self._part_bytes, int(least[:12]))
        return url

    def _seek(self, answer: Answer, start: int) -> None:
        """The registry may have taken less than the whole part."""
        kept = _kept_bytes(answer)
        if kept is None or kept == self._body.position:
            return
        if not start < kept < self._body.position:
            self._record.forget()
            raise RegistryUnavailable(f"the registry has lost count of {self._what}")
        self._body.seek(kept)

    def _give_up(self, answer: Answer) -> Answer | None:
        """None when it may be for the parts; else raises what the answer means."""
        if answer.status in _AGAIN:
            raise self._client.refusal(answer, self._what)
        self._record.forget()
        if self._is_resumed:
            raise RegistryUnavailable(f"the registry has lost {self._what} ({answer.status})")
        return None


def _kept_bytes(answer: Answer) -> int | None:
    """How much of a blob an answer says is there; None when it does not say."""
    match = _RANGE.fullmatch(answer.header("Range").strip())
    last = int(match[1]) if match else -1
    # distribution writes 0-0 for nothing; nobody sends one byte.
    return last + 1 if last > 0 else 0 if match else None
