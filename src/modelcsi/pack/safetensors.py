"""What the header of a safetensors file tells: the type and the shape of each tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAX_HEADER_BYTES = 32 << 20
"""Of one file; the format's own limit is 100 MB, and the largest that was met has 0.4."""
_MAX_DIMENSIONS = 16
_MAX_DIMENSION = 1 << 40


@dataclass(frozen=True, slots=True)
class SafetensorsHead:
    """What was understood; empty where nothing is told."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By name: the type as the format writes it (`BF16`), and the number of elements."""


def read_safetensors(path: Path, size: int) -> SafetensorsHead:
    """The header of a file of `size` bytes: 8 bytes of length, little-endian, and JSON. Empty when it is none or too large."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            value = json.loads(file.read(length)) if length <= min(_MAX_HEADER_BYTES, size) else None
    except (OSError, ValueError, RecursionError):
        return SafetensorsHead()
    if not isinstance(value, dict):
        return SafetensorsHead()
    metadata = value.pop("__metadata__", None)
    texts = metadata if isinstance(metadata, dict) else {}
    return SafetensorsHead(
        {key: text for key, text in texts.items() if isinstance(text, str)},
        {name: (tensor["dtype"], math.prod(tensor["shape"])) for name, tensor in value.items() if _is_tensor(tensor)},
    )


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        return False
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        return False
    return all(type(item) is int and 0 <= item < _MAX_DIMENSION for item in shape)
