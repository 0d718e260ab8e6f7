"""Processes that do one thing with a mount, and waiting for what happens elsewhere."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Look again and again."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        threading.Event().wait(0.01)


@contextmanager
def child_that(program: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process with `os`, `sys`, and its arguments in `sys.argv`; it says "ready" before it does it."""
    command = [
        sys.executable,
        "-c",
        f"import os, sys, mmap\nprint('ready', flush=True)\n{program}",
        *map(str, arguments),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()
