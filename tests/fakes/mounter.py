"""Mounts that are only remembered, for tests without root: a target is a directory, and what it shows is written down."""

from __future__ import annotations

import os
from pathlib import Path

from modelcsi.errors import InvalidRequest, RollbackFailed
from modelcsi.mount.table import Mount


class FakeMounts:
    """One kernel: it outlives the drivers that use it."""

    def __init__(self) -> None:
        self.shown: dict[str, Path] = {}
        """Target -> the directory that is mounted there."""
        self.binds: list[str] = []
        self.unmounts: list[str] = []
        self.failures: list[Exception] = []
        """Raised by the next binds, one each."""

    def bind_read_only(self, source_fd: int, target: str) -> None:
        self.binds.append(target)
        if self.failures:
            raise self.failures.pop(0)
        source = Path(os.readlink(f"/proc/self/fd/{source_fd}"))
        if self.shown.get(target, source) != source:
            raise RollbackFailed(f"something else is mounted at {target}")
        if not Path(target).parent.is_dir():
            raise InvalidRequest(f"the parent directory of the target {target} does not exist")
        Path(target).mkdir(exist_ok=True)
        self.shown[target] = source

    def unmount(self, target: str) -> None:
        self.unmounts.append(target)
        self.shown.pop(target, None)
        if Path(target).exists():
            if any(Path(target).iterdir()):
                raise RollbackFailed(f"{target} holds files of its own")
            Path(target).rmdir()

    def shows(self, target: str, directory: Path) -> bool:
        return self.shown.get(target) == directory

    def table(self) -> tuple[Mount, ...]:
        options = frozenset({"ro", "nosuid", "nodev"})
        return tuple(
            Mount(number, 1, "8:1", str(source), target, options, "ext4", "/dev/vda")
            for number, (target, source) in enumerate(self.shown.items(), start=100)
        )

    def reboot(self) -> None:
        """All mounts are gone; the directories stay."""
        self.shown.clear()


class FakeLazyMounts:
    """Lazy mounts of the same kind, and the holder that outlives the drivers."""

    def __init__(self) -> None:
        self.reason = ""
        """Why there are none on this node."""
        self.shown: dict[str, str] = {}
        """Target -> the view that is mounted there."""
        self.held: dict[str, bytes] = {}
        """The secret of each view that is served."""
        self.failures: list[Exception] = []
        """Raised by the next mounts, one each."""
        self.connections: dict[str, int] = {}
        """How many each view has had: the mounts of those before the last are dead."""
        self._made_by: dict[str, int] = {}

    def why_not(self) -> str:
        return self.reason

    def attach(self, view: str, target: str, secret: bytes) -> None:
        self._mount(view, target)
        self.held[view] = secret
        self.connections[view] = self.connections.get(view, 0) + 1
        self._made_by[target] = self.connections[view]

    def clone(self, view: str, target: str) -> None:
        self._mount(view, target)
        self._made_by[target] = self.connections[view]

    def entrust(self, view: str, secret: bytes) -> None:
        self.held[view] = secret

    def is_alive(self, view: str) -> bool:
        return view in self.held

    def make_way(self, target: str) -> None:
        if target in self.shown and not self.shows(target, self.shown[target]):
            self.unmount(target)

    def shows(self, target: str, view: str) -> bool:
        is_present = self._made_by.get(target) == self.connections.get(view)
        return self.shown.get(target) == view and self.is_alive(view) and is_present

    def unmount(self, target: str) -> None:
        self.shown.pop(target, None)
        if Path(target).exists():
            Path(target).rmdir()

    def targets(self) -> dict[str, str]:
        return dict(self.shown)

    def release(self, view: str) -> None:
        self.held.pop(view, None)

    def secrets(self) -> dict[str, bytes]:
        return dict(self.held)

    def _mount(self, view: str, target: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        Path(target).mkdir(exist_ok=True)
        self.shown[target] = view
