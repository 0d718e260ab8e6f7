"""What the head of a GGUF file tells: its metadata and the shapes of its tensors (ggml, docs/gguf.md), versions 1 to 3.

A file may lie about every length. So strings that nobody asks for are passed over and not read, and what goes beyond the file
or one of the limits below makes the whole head unknown: memory is bounded by what is kept, time by the items that are walked.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_MAX_ITEMS = 1 << 21
"""Keys, tensors and elements of arrays of strings, all together: vocabularies have up to 0.3 million tokens, and merges."""
_MAX_TEXT_BYTES = 4096
"""Of a key, a name or a value that is kept; longer values (chat templates) are passed over."""
_MAX_NAMES = 1 << 16
"""Tensors, and keys; the most that were met are some thousands."""
_MAX_DIMENSIONS = 8
_MAX_DIMENSION = 1 << 40

_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS",
    31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufHead:
    """What was understood; empty where nothing is told."""

    metadata: Mapping[str, str | int | float] = field(default_factory=dict)
    """The values that are one string or one number."""
    tensors: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By name: the type, empty for one that is not known here, and the number of elements."""

    def text(self, key: str) -> str:
        """A string of the metadata."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    @property
    def file_type(self) -> str:
        """The scheme by which most tensors were written, such as `Q4_K_M` or `F16`."""
        number = self.metadata.get("general.file_type")
        named = _FILE_TYPES.get(number, "") if isinstance(number, int) else ""
        return named or self.main_type

    @property
    def main_type(self) -> str:
        """The type of most elements."""
        counts: Counter[str] = Counter()
        for kind, count in self.tensors.values():
            counts[kind] += count
        return counts.most_common(1)[0][0] if counts else ""


class _NotUnderstood(ValueError):
    """The file is not what its name says, or more than is read."""


def read_gguf(path: Path, size: int) -> GgufHead:
    """The head of a file of `size` bytes; an empty one when it is no GGUF, is cut short, or exceeds a limit."""
    try:
        with path.open("rb") as file:
            return _read(_Reader(file, size))
    except (OSError, _NotUnderstood):
        return GgufHead()


class _Reader:
    """Values one after the other, never beyond the end that was told."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._items = _MAX_ITEMS
        self.order = "<"
        self.length = "Q"
        """The format of lengths and counts: 32 bits in version 1."""

    def take(self, size: int) -> bytes:
        self._left -= size
        data = self._file.read(size) if self._left >= 0 else b""
        if len(data) != size:
            raise _NotUnderstood
        return data

    def skip(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _NotUnderstood
        self._file.seek(size, 1)

    def number(self, form: str) -> int | float:
        value: int | float = struct.unpack(self.order + form, self.take(struct.calcsize(f"={form}")))[0]
        return value

    def whole(self, form: str) -> int:
        return int(self.number(form))

    def count(self) -> int:
        """How many items follow; each of them is paid for."""
        value = self.whole(self.length)
        self._items -= value
        if self._items < 0:
            raise _NotUnderstood
        return value

    def text(self) -> str:
        """A short string; empty for a longer one."""
        size = self.whole(self.length)
        if size > _MAX_TEXT_BYTES:
            self.skip(size)
            return ""
        return self.take(size).decode("utf-8", "replace")


def _read(reader: _Reader) -> GgufHead:
    if reader.take(4) != _MAGIC:
        raise _NotUnderstood
    head = reader.take(4)
    if head[:2] == b"\0\0":  # a small number, so this is its high half: version 3 may be big-endian
        reader.order = ">"
    version = int.from_bytes(head, "little" if reader.order == "<" else "big")
    if version not in {1, 2, 3}:
        raise _NotUnderstood
    reader.length = "I" if version == 1 else "Q"
    tensor_count, value_count = reader.count(), reader.count()
    if max(tensor_count, value_count) > _MAX_NAMES:
        raise _NotUnderstood
    metadata: dict[str, str | int | float] = {}
    for _ in range(value_count):
        key = reader.text()
        value = _value(reader, reader.whole("I"))
        if value is not None and key:
            metadata[key] = value
    tensors: dict[str, tuple[str, int]] = {}
    for _ in range(tensor_count):
        name = reader.text()
        tensors[name] = _tensor(reader)
    return GgufHead(metadata, tensors)


def _value(reader: _Reader, kind: int) -> str | int | float | None:
    """The next value; None for an array or a number that is none, which are passed over."""
    if kind == _STRING:
        return reader.text()
    if kind == _ARRAY:
        _skip_array(reader)
        return None
    if kind not in _FORMATS:
        raise _NotUnderstood
    value = reader.number(_FORMATS[kind])
    return value if math.isfinite(value) else None


def _skip_array(reader: _Reader) -> None:
    kind = reader.whole("I")
    if kind == _STRING:
        for _ in range(reader.count()):
            reader.skip(reader.whole(reader.length))
    elif kind in _FORMATS:
        reader.skip(reader.whole(reader.length) * struct.calcsize(f"={_FORMATS[kind]}"))
    else:  # arrays of arrays are allowed, and nobody has written one
        raise _NotUnderstood


def _tensor(reader: _Reader) -> tuple[str, int]:
    dimensions = reader.whole("I")
    if dimensions > _MAX_DIMENSIONS:
        raise _NotUnderstood
    shape = [reader.whole(reader.length) for _ in range(dimensions)]
    kind = _TENSOR_TYPES.get(reader.whole("I"), "")
    reader.skip(8)  # where its bytes are
    if any(size > _MAX_DIMENSION for size in shape):
        raise _NotUnderstood
    return kind, math.prod(shape)
