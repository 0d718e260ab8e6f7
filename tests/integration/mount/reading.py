"""Reads a file of `tiny_server` at random places until its input ends, then tells how that went as JSON."""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time

from tests.integration.mount.tiny_server import SIZE, content

_BYTES = 4096


def main(path: str) -> None:
    """Each failure is kept, and the longest wait."""
    errors: list[str] = []
    longest, reads = 0.0, 0
    descriptor = os.open(path, os.O_RDONLY)
    sys.stdout.write("reading\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        offset = random.randrange(SIZE - _BYTES)  # noqa: S311 - no secret
        began = time.monotonic()
        try:
            if os.pread(descriptor, _BYTES, offset) != content(offset, _BYTES):
                errors.append(f"wrong bytes at {offset}")
        except OSError as error:
            errors.append(str(error))
        longest, reads = max(longest, time.monotonic() - began), reads + 1
        if len(errors) > 10:
            break
    json.dump({"reads": reads, "longest": longest, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
