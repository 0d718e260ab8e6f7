"""A process that reads a mount without end and compares with the originals; says at its end what it saw, as JSON.

usage: reader.py MOUNT ORIGINALS SEED NAME...
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

_LARGEST = 300_000


def main() -> None:
    """Read until SIGTERM."""
    mount, originals, seed, *names = sys.argv[1:]
    is_ending: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: is_ending.append(True))
    choose = random.Random(seed)  # noqa: S311 - not for secrets
    content = {name: (Path(originals) / name).read_bytes() for name in names}
    seen, errors, longest = Counter[str](), [], 0.0
    handles: list[tuple[str, int]] = []
    while not is_ending:
        began = time.monotonic()
        try:
            _step(choose, Path(mount), content, handles, seen)
        except OSError as error:
            errors.append(str(error))
        longest = max(longest, time.monotonic() - began)
    sys.stdout.write(json.dumps({**seen, "errors": errors, "longest": longest}))


def _step(
    choose: random.Random,
    mount: Path,
    content: dict[str, bytes],
    handles: list[tuple[str, int]],
    counter: Counter[str],
) -> None:
    """Open or close something now and then, look at names, and read a range in one of three ways."""
    if len(handles) < 6 or choose.random() < 0.1:
        name = choose.choice(list(content))
        handles.append((name, os.open(mount / name, os.O_RDONLY)))
    if len(handles) > 12 or choose.random() < 0.05:
        os.close(handles.pop(choose.randrange(len(handles)))[1])
    if choose.random() < 0.02:
        os.posix_fadvise(handles[0][1], 0, 0, os.POSIX_FADV_DONTNEED)
    if choose.random() < 0.02:
        assert set(content) <= set(os.listdir(mount))
    name, fd = choose.choice(handles)
    expected = content[name]
    start = choose.randrange(len(expected))
    end = min(len(expected), start + choose.randrange(1, _LARGEST))
    if choose.random() < 0.3:
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
            seen = mapped[start:end]
    else:
        seen = os.pread(fd, end - start, start)
    counter["reads"] += 1
    counter["wrong"] += seen != expected[start:end]


if __name__ == "__main__":
    main()
