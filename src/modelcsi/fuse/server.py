"""One server process: an epoll loop over the descriptors of its views, the holder and the driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration's `fuse:` says to a server."""

    verify: str = "range"
    """`range`, or `complete`: opening a file waits until it is verified."""
    read_timeout_seconds: float = 300.0
    """How long a read waits before EIO."""
    read_ahead_kb: int = 4096
    """Of the kernel, for each mount."""


def serve(holder_fd: int, root_dir: Path, settings: Settings) -> int:
    """Serve what the holder hands over through `holder_fd` until it hangs up or SIGTERM; returns the exit status."""
    del holder_fd, root_dir, settings
    return 0
