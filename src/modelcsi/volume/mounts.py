"""What volumes need of mounts: `mount.mounter.Mounter` and `mount.lazymounter.LazyMounter`, or a test's own."""

from __future__ import annotations

from collections.abc import Mapping
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


class LazyMounts(Protocol):
    """The methods are described where they are done, in `mount/lazymounter.py`."""

    def why_not(self) -> str:
        """Why this node has no lazy mounts; empty if it has."""

    def attach(self, view: str, target: str, secret: bytes) -> None:
        """Mount a view for the first time, and have it served."""

    def clone(self, view: str, target: str) -> None:
        """Show at another target what is mounted already."""

    def entrust(self, view: str, secret: bytes) -> None:
        """Have its credentials remembered in place of those before."""

    def is_alive(self, view: str) -> bool:
        """Whether its mounts are served."""

    def shows(self, target: str, view: str) -> bool:
        """Whether the target shows the view, and is served."""

    def make_way(self, target: str) -> None:
        """Take away a lazy mount that nobody serves."""

    def unmount(self, target: str) -> None:
        """Take away what is there, whatever state its server is in."""

    def targets(self) -> Mapping[str, str]:
        """The view at each target."""

    def release(self, view: str) -> None:
        """The last mount has gone."""

    def secrets(self) -> Mapping[str, bytes]:
        """What was entrusted of the views that are alive."""
