"""Messages of a few words between processes on one node: one JSON object a packet, `op` says which dataclass it is.

Who speaks and who listens may be of different releases, since driver, holder and servers are updated one after the other. So
a field that the listener does not know is ignored, one that it misses has a default, and a message that it does not know is
`UnknownPacket`, which it may skip; everything else that is not exactly a message is a ValueError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, Protocol, cast

MAX_PACKET_BYTES = 64 << 10
"""No message is longer: `socket.recv` with this size has all of it. A guess; the longest there is lists a view's files."""
_MAX_NUMBER = 1 << 63
_VIEW = re.compile(r"[0-9a-f]{64}")


class Packet(Protocol):
    """A frozen dataclass with a name on the wire; its fields are of the types in `_READERS`."""

    op: ClassVar[str]


class UnknownPacket(ValueError):
    """A message of a newer release."""


def check_view(view: str) -> None:
    """Both conversations name views, and a view's id becomes a name in the store. Raises ValueError."""
    if not _VIEW.fullmatch(view):
        raise ValueError(f"not the id of a view: {view[:80]!r}")


class Codec:
    """The messages of one conversation."""

    def __init__(self, *sorts: type[Any]) -> None:
        self._sorts: dict[str, tuple[type[Any], tuple[Field[Any], ...]]] = {
            sort.op: (sort, fields(sort)) for sort in sorts
        }

    def decode(self, packet: bytes) -> Any:
        """The message. Raises ValueError that says what is wrong, UnknownPacket for an `op` that is not of this conversation."""
        try:
            record = json.loads(packet)
        except RecursionError as error:
            raise ValueError("a message nested too deep") from error
        op = record.get("op") if isinstance(record, dict) else None
        if not isinstance(op, str):
            raise ValueError(f"not a message: {packet[:80]!r}")  # noqa: TRY004 - the packet's value, whatever type JSON has
        if op not in self._sorts:
            raise UnknownPacket(f"unknown message {op[:40]!r}")
        sort, attributes = self._sorts[op]
        return sort(**{field.name: _read(record, field) for field in attributes if not _is_default(record, field)})


def encode(message: Packet) -> bytes:
    """The packet of a message."""
    values = {field.name: getattr(message, field.name) for field in fields(cast("Any", message))}
    return json.dumps({"op": message.op} | values, separators=(",", ":")).encode()


def _is_default(record: Mapping[str, Any], field: Field[Any]) -> bool:
    return field.name not in record and (field.default is not MISSING or field.default_factory is not MISSING)


def _read(record: Mapping[str, Any], field: Field[Any]) -> Any:
    where = f"{field.name} of {record['op']!r}"
    if field.name not in record:
        raise ValueError(f"{where} is missing")
    value = record[field.name]
    result = _READERS[str(field.type)](value)
    if result is None:
        raise ValueError(f"{where} is {str(value)[:80]!r}, not {field.type}")
    return result


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MAX_NUMBER else None


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value is not True and 0 <= value < _MAX_NUMBER else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _numbers(value: object) -> tuple[int, ...] | None:
    numbers = tuple(_number(item) for item in value) if isinstance(value, list) else (None,)
    return None if None in numbers else cast("tuple[int, ...]", numbers)


_READERS: Mapping[str, Callable[[object], Any]] = {
    "int": _number,
    "float": _seconds,
    "str": _text,
    "bool": _flag,
    "tuple[int, ...]": _numbers,
}
"""By the annotation's text: all are natural numbers, seconds, texts and flags."""
