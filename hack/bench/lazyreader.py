"""A program that reads files as loaders do, for hack/bench/lazy: one that is started, says so, and begins when it is told.

Its start and its imports are not measured. It takes orders, one JSON array a line, and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PIECE = 1 << 20
_PAGE = 4096
_KILL_PIECE = 64 << 10


def main() -> None:
    """Serve orders until the end of the input."""
    import safetensors.numpy  # noqa: F401, PLC0415 - numpy too: they take longer than many a case

    print("ready", flush=True)
    orders: dict[str, Callable[..., Any]] = {
        "range": read_range,
        "random": read_at_random,
        "load": load,
        "probe": probe,
        "open": open_all,
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(orders[name](*arguments)), flush=True)


def read_range(path: str, offset: int, size: int, truth: str, truth_offset: int) -> float:
    """Seconds to open a file and read a range of it; the bytes must be those of `truth`."""
    began = time.monotonic()
    descriptor = os.open(path, os.O_RDONLY)
    pieces = []
    while size:
        piece = os.pread(descriptor, min(size, _PIECE), offset)
        assert piece, f"{path} ends at {offset}"
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    seconds = time.monotonic() - began
    os.close(descriptor)
    read = b"".join(pieces)
    with open(truth, "rb") as file:
        assert read == os.pread(file.fileno(), len(read), truth_offset), f"wrong bytes in {path}"
    return seconds


def read_at_random(path: str, count: int) -> float:
    """GB/s of so many reads of 4 KiB, anywhere in a file."""
    descriptor = os.open(path, os.O_RDONLY)
    chance = random.Random(4)  # noqa: S311 - not a secret
    pages = os.fstat(descriptor).st_size // _PAGE
    offsets = [chance.randrange(pages) * _PAGE for _ in range(count)]
    began = time.monotonic()
    for offset in offsets:
        os.pread(descriptor, _PAGE, offset)
    seconds = time.monotonic() - began
    os.close(descriptor)
    return count * _PAGE / seconds / 1e9


def load(paths: list[str]) -> dict[str, Any]:
    """Load all tensors of safetensors files with the library; the seconds until the first one, and all of them, are here."""
    from safetensors import safe_open  # noqa: PLC0415 - imported by `main`

    began, first, size = time.monotonic(), 0.0, 0
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                size += file.get_tensor(name).nbytes
                first = first or time.monotonic() - began
    return {"first": first, "all": time.monotonic() - began, "bytes": size}


def open_all(paths: list[str]) -> int:
    """Open files, read of each, and keep them open."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        assert os.pread(descriptor, 4096, 0)
    return len(paths)


def probe(path: str, truth: str, spans: list[list[int]], until: str, seed: int) -> dict[str, Any]:
    """Read pieces of the spans (start, end, stride) of a file, past the page cache, until the file `until` exists.

    With a stride the span is read once, from its start, one piece a stride; else anywhere, again and again.
    """
    errors: list[str] = []
    longest, at, reads, wrong = 0.0, 0.0, 0, 0
    chance = random.Random(seed)  # noqa: S311 - not a secret
    walks = [iter(range(start, end - _KILL_PIECE, stride)) if stride else None for start, end, stride in spans]
    with open(truth, "rb") as file:
        while not Path(until).exists():
            number = chance.randrange(len(spans))
            walk, (start, end, _) = walks[number], spans[number]
            offset = chance.randrange(start, end - _KILL_PIECE) if walk is None else next(walk, None)
            if offset is None:
                break
            began = time.monotonic()
            try:
                found = _read_past_cache(path, offset)
            except OSError as error:
                errors.append(f"{path} at {offset}: {error}")
                continue
            (longest, at), reads = max((longest, at), (time.monotonic() - began, began)), reads + 1
            wrong += found != os.pread(file.fileno(), _KILL_PIECE, offset)
    return {"errors": errors, "wrong": wrong, "longest": longest, "at": at, "reads": reads}


def _read_past_cache(path: str, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        page = offset // mmap.PAGESIZE * mmap.PAGESIZE
        with mmap.mmap(-1, _KILL_PIECE + mmap.PAGESIZE) as buffer:
            got = os.preadv(descriptor, [buffer], page)
            return buffer[offset - page : min(got, offset - page + _KILL_PIECE)]
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
