from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcsi.kube.client import KubeClient, Timeouts
from modelcsi.registry.caller import Pod
from tests.fakes.api_server import FakeApiServer

TRAIN = Pod("team", "train", "uid-1", "default")
QUICK = Timeouts(connect_seconds=1.0, silence_seconds=0.3, total_seconds=1.0)


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 1000.0

    def __call__(self) -> float:
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    """An API server without objects."""
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def client(server: FakeApiServer, tmp_path: Path) -> KubeClient:
    """A client of it, with short timeouts."""
    return KubeClient(server.kubeconfig(tmp_path / "kubeconfig"), QUICK)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()
