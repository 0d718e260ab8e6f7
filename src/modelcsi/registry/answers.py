"""What the status of an answer means to the caller, and what the registry says about it.

A registry's text is untrusted: bounded, printable ASCII only, and without the credentials it may repeat.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from modelcsi.deadline import Deadline
from modelcsi.errors import Forbidden, ModelCsiError, NotFound, RegistryUnavailable, Unauthenticated
from modelcsi.registry.docker_config import Credentials
from modelcsi.registry.transport import STALL_SECONDS, Response

REFUSALS = (Unauthenticated, Forbidden, NotFound)
"""What a host that works answers to those who may not see a thing, or where it is not: another's answer may differ."""
MAX_ERROR_BYTES = 16 << 10
_MAX_DETAIL = 200
_NEVER = Deadline.never()
# "Bearer eyJ…" and bare JWTs: some registries repeat the token that they refuse.
_TOKEN_LIKE = re.compile(r"(?i)(?:bearer|basic)\s+\S+|\bey[\w-]{6,}(?:\.[\w-]*)*")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was asked, of whom, and as whom: for messages."""

    what: str
    """The reference, or "blob sha256:… of registry/repository"."""
    host: str
    """Who answered: the endpoint, its token service, or the target of a redirect."""
    credentials: Credentials


def failure(response: Response, subject: Subject, detail: str = "") -> ModelCsiError:
    """The error that the status of `response` is; `detail` is what `read_detail` found."""
    status, host = response.status, subject.host
    said = f": {detail}" if detail else ""
    shown = subject.credentials.shown
    if status == 401:
        hint = "are they right, and does the repository exist?"
        if subject.credentials.is_anonymous:
            hint = (
                "is it private? then name a secret of type kubernetes.io/dockerconfigjson as nodePublishSecretRef; or the "
                "repository does not exist"
            )
        return Unauthenticated(f"{host} refuses {subject.what} {shown} (401){said}", hint=hint)
    if status == 403:
        return Forbidden(f"{host} forbids {subject.what} {shown} (403){said}", hint="grant them the right to pull")
    if status in {404, 410}:
        return NotFound(
            f"{subject.what} does not exist in {host} ({status}){said}",
            hint="check the name and the tag, or the secret if the repository is private",
        )
    waited = parse_retry_after(response.header("Retry-After"))
    later = f", and asks to come back in {waited:.0f} s" if waited is not None else ""
    reason = "limits the rate of requests" if status == 429 else "cannot serve" if status >= 500 else "does not serve"
    return RegistryUnavailable(f"{host} {reason} {subject.what} ({status}){said}{later}", retry_after_seconds=waited)


def read_detail(response: Response, credentials: Credentials, deadline: Deadline = _NEVER) -> str:
    """What the body of a failed answer says, without the `credentials` that it may repeat; and the end of that answer."""
    try:
        body = read_bounded(response, MAX_ERROR_BYTES, Deadline.after(deadline.within(STALL_SECONDS)))
    except ModelCsiError:
        body = b""  # the status is the news; that its explanation was cut short, or too slow, is not
    finally:
        response.close()
    # First as it came: half a password, or one in other letters, would not be found any more.
    said = credentials.redact(_detail_of(body))
    return _TOKEN_LIKE.sub("***", sanitise(said))[:_MAX_DETAIL]


def read_bounded(response: Response, limit: int, deadline: Deadline, what: str = "an answer") -> bytes:
    """The body, or its first `limit` bytes and at least one more when it is longer.

    Raises RegistryUnavailable, also when the deadline is over in the middle of it: a timeout is for one read, and a server
    that sends a byte now and then would never meet it.
    """
    pieces: list[bytes] = []
    total = 0
    while total <= limit and (piece := response.read(limit + 1 - total)):
        pieces.append(piece)
        total += len(piece)
        if deadline.is_over():
            raise RegistryUnavailable(f"{what} did not arrive in time")
    return b"".join(pieces)


def sanitise(text: str) -> str:
    """`text` as printable ASCII on one line."""
    return "".join(character if " " <= character <= "~" else "?" for character in " ".join(text[:4096].split()))


def parse_retry_after(value: str) -> float | None:
    """Seconds from now, of a number or an HTTP date; None for anything else."""
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]+)?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _detail_of(body: bytes) -> str:
    """distribution-spec: {"errors": [{code, message}]}; token services: {"error", "error_description"} or {"details"}."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else document
    if isinstance(first, str):
        return first
    if not isinstance(first, dict):
        return ""
    keys = ("code", "error", "message", "error_description", "details")
    return ": ".join(value for key in keys if isinstance(value := first.get(key), str) and value)
