"""A stand-in for the use cases of `modelcsi.volume`: remembers, waits and fails as it is told; nothing is mounted."""

from __future__ import annotations

import threading
from pathlib import Path

from modelcsi.deadline import Deadline
from modelcsi.errors import NotFound
from modelcsi.volume.spec import DynamicSpec, VolumeId, VolumeSpec
from modelcsi.volume.volumes import VolumeStats

STATS = VolumeStats(
    total_bytes=1000,
    used_bytes=400,
    available_bytes=600,
    total_inodes=100,
    used_inodes=4,
    available_inodes=96,
    abnormal=False,
    message="mounted",
)


class FakeVolumes:
    """Publishing is an empty directory; `failure` is raised by every call, `hold()` makes publishes wait."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.specs: list[VolumeSpec | DynamicSpec] = []
        self.deadlines: list[Deadline] = []
        self.published: set[tuple[str, str]] = set()
        self.waiting = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        """Let publishes wait from now on; each releases `waiting` once it does."""
        self._open.clear()

    def release(self) -> None:
        """Let all publishes go on."""
        self._open.set()

    def publish(self, spec: VolumeSpec | DynamicSpec, deadline: Deadline) -> None:
        self.specs.append(spec)
        self.deadlines.append(deadline)
        self._maybe_fail()
        self.waiting.release()
        self._open.wait()
        Path(spec.target).mkdir(exist_ok=True)
        self.published.add((spec.volume_id, spec.target))

    def unpublish(self, volume_id: VolumeId, target: str) -> None:
        self._maybe_fail()
        if (volume_id, target) in self.published:
            self.published.remove((volume_id, target))
            Path(target).rmdir()

    def stats(self, volume_id: VolumeId, path: str) -> VolumeStats:
        self._maybe_fail()
        if (volume_id, path) not in self.published:
            raise NotFound(f"volume {volume_id} is not at {path}")
        return STATS

    def _maybe_fail(self) -> None:
        if self.failure is not None:
            raise self.failure
