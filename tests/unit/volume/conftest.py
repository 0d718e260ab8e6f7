"""Volumes over a real store, a real puller and a fake registry; mounts are only remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelcsi.deadline import Deadline
from modelcsi.pull.puller import Puller, PullLimits
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain
from modelcsi.store.store import Store
from modelcsi.volume.dynamic import DynamicVolumes
from modelcsi.volume.slots import PublishSlots
from modelcsi.volume.spec import VolumeId, VolumeSpec, parse_spec
from modelcsi.volume.volumes import NOBODY_ASKED, Pods, Volumes
from tests.fakes.mounter import FakeMounts
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, client, fake, private, transport

__all__ = ["client", "fake", "private", "transport"]

SERVICE = "model.csi.modelpack.org"


@pytest.fixture
def mounts() -> FakeMounts:
    """The kernel."""
    return FakeMounts()


@dataclass
class Driver:
    """One process of the driver."""

    store: Store
    puller: Puller
    volumes: Volumes
    is_running: bool = field(default=True)

    def kill(self) -> None:
        """End without tidying up; only threads of this very test process must go."""
        self.puller.stop(Deadline.after(10))
        self.store.close()
        self.is_running = False


@pytest.fixture
def start_driver(tmp_path: Path, client: Registry, mounts: FakeMounts) -> Iterator[Callable[..., Driver]]:
    """Starts a driver on the node's store, as after a kill of the last one."""
    drivers: list[Driver] = []

    def start(
        slots: int = 8, dynamic: Callable[[Store, Puller], DynamicVolumes] | None = None, pods: Pods = NOBODY_ASKED
    ) -> Driver:
        for driver in drivers:
            if driver.is_running:
                driver.kill()
        store = Store(tmp_path / "root")
        puller = Puller(store, client, Keychain(None), PullLimits())
        volumes = Volumes(
            *(store, puller, mounts, PublishSlots(slots)), pods=pods, dynamic=dynamic and dynamic(store, puller)
        )
        volumes.restore()
        drivers.append(Driver(store, puller, volumes))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.is_running:
            driver.kill()


@pytest.fixture
def driver(start_driver: Callable[..., Driver]) -> Driver:
    """The first process."""
    return start_driver()


@pytest.fixture
def reference(fake: FakeRegistry) -> str:
    """A model of three files in a registry that everybody may read."""
    fake.content.push("models/tiny", "v1", FILES)
    return f"{fake.host}/models/tiny:v1"


@pytest.fixture
def spec(tmp_path: Path, reference: str) -> Callable[..., VolumeSpec]:
    """Makes requests for that model; the target's parent is there, as kubelet makes it."""

    def make(
        volume_id: str = "volume",
        target: str = "target",
        secrets: Mapping[str, str] | None = None,
        **attributes: str,
    ) -> VolumeSpec:
        (tmp_path / "pods").mkdir(exist_ok=True)
        attributes = {"modelRef": reference, **attributes}
        parsed = parse_spec(volume_id, str(tmp_path / "pods" / target), attributes, secrets or {}, SERVICE)
        assert isinstance(parsed, VolumeSpec)
        return parsed

    return make


def publish(driver: Driver, spec: VolumeSpec, seconds: float = 60) -> None:
    """As kubelet does, in `seconds`."""
    driver.volumes.publish(spec, Deadline.after(seconds))


def unpublish(driver: Driver, spec: VolumeSpec) -> None:
    """As kubelet does."""
    driver.volumes.unpublish(VolumeId(spec.volume_id), spec.target)
