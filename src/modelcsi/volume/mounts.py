"""What volumes need of mounts: `mount.mounter.Mounter`, or a test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from modelcsi.mount.table import Mount


class Mounts(Protocol):
    """The methods are described where they are done, in `mount/mounter.py`."""

    def bind_read_only(self, source_fd: int, target: str) -> None:
        """Show a directory at the target."""

    def unmount(self, target: str) -> None:
        """Take away what is there."""

    def shows(self, target: str, directory: Path) -> bool:
        """Whether the directory is what one sees at the target."""

    def table(self) -> tuple[Mount, ...]:
        """All mounts that there are."""
