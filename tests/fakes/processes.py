"""Processes of a test that nobody waits for: told by the directory on their command line."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_of(root: Path) -> list[int]:
    """All that live and have the directory, or something in it, in an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(root).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if not is_gone(pid)]


def kill_all_of(root: Path) -> None:
    """None is left, though one may start another until it is dead itself."""
    while pids := processes_of(root):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
