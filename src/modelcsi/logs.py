"""What a log line looks like, and what must never be in one.

Text for a person at a terminal, one JSON object a line otherwise. The fields bound by `bound` (rpc, volume, reference,
digest) are added to each record of the same thread or task, so that messages need not repeat them; a new thread starts
without fields and binds its own.

Nobody logs secrets; masking what looks like one (authorization values, userinfo and query strings of URLs: signed URLs are
credentials) is the second line of defence, for texts of libraries and tracebacks.
"""

from __future__ import annotations

import json as json_format
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

from modelcsi.errors import InvalidRequest

LEVELS = ("debug", "info", "warning", "error")
"""What `log_level` may be; `warn` is the same as `warning`."""

_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))

_CREDENTIALS = re.compile(
    r"\b((?i:authorization)\b['\"]?\s*[:=]\s*['\"]?)(?:[A-Za-z]+\s+)?[^\s'\",]+"
    # A capital or a digit, so that a sentence may speak of basic authentication.
    r"|\b((?i:bearer|basic)\s+)(?=\S*[A-Z0-9])[\w.~+/=-]{8,}"
)
_USERINFO = re.compile(r"(://)[^\s/@'\"]+@")
# A word with a question mark. It begins where a word does and gives nothing back: from each slash of a long one, an expression
# for the query alone would read to the end again, and nobody else runs meanwhile.
_ASKING = re.compile(r"(?<![^\s'\"<>])[^\s'\"<>?]*+\?[^\s'\"<>]*+")
_MASK = "***"

# One record is one line, whatever a registry or a pod author wrote into a name; tracebacks come after it.
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]}


def setup_logging(level: str, *, json: bool) -> None:
    """Send all records from `level` on to standard error, as JSON lines or as text. Raises InvalidRequest on another level."""
    name = level.strip().lower()
    name = "warning" if name == "warn" else name
    if name not in LEVELS:
        raise InvalidRequest(f"log level {level!r} is unknown", hint=f"one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    logging.basicConfig(level=name.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # At debug it writes each request with its query string; what matters of its failures is in our errors.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Within the block, each record carries `fields`, beside those bound outside."""
    token = _FIELDS.set(MappingProxyType({**_FIELDS.get(), **fields}))
    try:
        yield
    finally:
        _FIELDS.reset(token)


def masked(text: str) -> str:
    """`text` without what looks like a credential."""
    text = _CREDENTIALS.sub(lambda match: f"{match[1] or match[2]}{_MASK}", text)
    text = _USERINFO.sub(rf"\1{_MASK}@", text)
    return _ASKING.sub(_without_query, text)


def _without_query(word: re.Match[str]) -> str:
    """A path and what follows its question mark, which is a query if it sets something."""
    text = word[0]
    slash = text.find("/")
    mark = text.find("?", slash) if slash >= 0 else -1
    return f"{text[:mark]}?{_MASK}" if mark >= 0 and "=" in text[mark:] else text


class TextFormatter(logging.Formatter):
    """`09:15:02.123 INFO  message  rpc=NodePublishVolume volume=csi-… (modelcsi.csi.interceptors)`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={value}" for key, value in _FIELDS.get().items())
        line = f"{time} {record.levelname:<7} {record.getMessage()} {fields} ({record.name})".translate(_CONTROL)
        traceback = _traceback(self, record)
        return masked(f"{line}\n{traceback}" if traceback else line)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, message, logger, the bound fields, and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        traceback = _traceback(self, record)
        # Masked before encoding: quotes that JSON escapes would hide where a value ends.
        document = {
            **{key: masked(value) for key, value in _FIELDS.get().items()},
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": masked(record.getMessage()),
            "logger": record.name,
            **({"traceback": masked(traceback)} if traceback else {}),
        }
        return json_format.dumps(document)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return "\n".join([*parts, formatter.formatStack(record.stack_info)] if record.stack_info else parts)
