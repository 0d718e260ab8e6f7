from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelcsi.pack.gguf import GgufHead, read_gguf
from tests.unit.pack.conftest import gguf

METADATA: dict[str, str | int | float | bool | list[str] | list[int]] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "tokenizer.ggml.tokens": ["<s>", "é", ""],
    "tokenizer.ggml.scores": [1, 2, 3],
    "tokenizer.chat_template": "x" * 10_000,
    "llama.rope.scale": 0.5,
    "general.quantized": True,
}
TENSORS = {"token_embd.weight": ([32, 100], 12), "output_norm.weight": ([32], 0), "scalar": ([], 1)}
WHOLE = gguf(METADATA, TENSORS)
_COUNTS = struct.Struct("<4sIQQ")


def read(directory: Path, content: bytes, size: int | None = None) -> GgufHead:
    """What is understood of a file."""
    path = directory / "model.gguf"
    path.write_bytes(content)
    return read_gguf(path, len(content) if size is None else size)


@pytest.mark.parametrize(("version", "order"), [(1, "<"), (2, "<"), (3, "<"), (3, ">")])
def test_every_version_is_read(tmp_path: Path, version: int, order: str) -> None:
    """Version 1 has short lengths, version 3 may be big-endian; what follows the head is weights and is not looked at."""
    head = read(tmp_path, gguf(METADATA, TENSORS, version=version, order=order) + bytes(100))

    assert {
        "token_embd.weight": ("Q4_K", 3200),
        "output_norm.weight": ("F32", 32),
        "scalar": ("F16", 1),
    } == head.tensors
    assert ("llama", 0.5, "") == (
        head.text("general.architecture"),
        head.metadata["llama.rope.scale"],
        head.text("tokenizer.chat_template"),
    )
    assert ("Q4_K_M", "Q4_K") == (head.file_type, head.main_type)


def test_file_type_is_else_that_of_the_tensors(tmp_path: Path) -> None:
    """Some files do not tell it, or tell a number that came later."""
    assert "Q8_0" == read(tmp_path, gguf({}, {"a": ([64], 8)})).file_type
    assert "Q8_0" == read(tmp_path, gguf({"general.file_type": 9999}, {"a": ([64], 8)})).file_type


def test_head_that_is_cut_short_tells_nothing(tmp_path: Path) -> None:
    """Wherever the file ends."""
    heads = {size: read(tmp_path, WHOLE[:size]) for size in range(0, len(WHOLE), 7)}

    assert dict.fromkeys(heads, GgufHead()) == heads


def test_nothing_beyond_the_told_size_is_read(tmp_path: Path) -> None:
    """A file that grows meanwhile is what it was when the directory was walked."""
    assert GgufHead() == read(tmp_path, WHOLE, len(WHOLE) - 1)


HOSTILE = {
    "other magic": b"GGML" + WHOLE[4:],
    "unknown version": b"GGUF" + struct.pack("<I", 4) + WHOLE[8:],
    "2^60 tensors": _COUNTS.pack(b"GGUF", 3, 1 << 60, 0),
    "more tensors than are kept": _COUNTS.pack(b"GGUF", 3, (1 << 16) + 1, 0) + bytes(3 << 20),
    "2^60 values": _COUNTS.pack(b"GGUF", 3, 0, 1 << 60),
    "key of 2^60 bytes": _COUNTS.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 60) + bytes(100),
    "key of 2^64-1 bytes": _COUNTS.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", (1 << 64) - 1) + bytes(100),
    "array of 2^60 strings": _COUNTS.pack(b"GGUF", 3, 0, 1)
    + struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 1 << 60)
    + bytes(100),
    "array of 2^61 doubles": _COUNTS.pack(b"GGUF", 3, 0, 1)
    + struct.pack("<Q1sIIQ", 1, b"a", 9, 12, 1 << 61)
    + bytes(100),
    "arrays in arrays": _COUNTS.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 9, 1 << 30) + bytes(100),
    "unknown type": _COUNTS.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 13) + bytes(100),
    "9 dimensions": gguf({}, {"a": ([1] * 9, 0)}),
    "huge dimensions": gguf({}, {"a": ([1 << 63] * 8, 0)}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_head_tells_nothing(tmp_path: Path, content: bytes) -> None:
    """Lengths that are lies are noticed before anything is done by them."""
    assert GgufHead() == read(tmp_path, content)


def test_endless_head_ends(tmp_path: Path) -> None:
    """A sparse file of 1 TB that holds as many values as the limits allow, each of them empty strings without end."""
    path = tmp_path / "model.gguf"
    path.write_bytes(_COUNTS.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 8, (1 << 21) - 1))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    began = time.monotonic()

    assert {} == read_gguf(path, 1 << 40).metadata
    assert time.monotonic() - began < 60  # 1.5 s measured; without a limit it were days


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300, deadline=None
)
@given(st.data())
def test_any_change_of_a_file_is_survived(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes are other ones, the reader answers with what it understood, or nothing."""
    content = bytearray(WHOLE)
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8)
    ):
        content[position] = value
    head = read(tmp_path, bytes(content))

    assert all(0 <= count for _, count in head.tensors.values())
    assert all(isinstance(value, str | int | float) for value in head.metadata.values())
