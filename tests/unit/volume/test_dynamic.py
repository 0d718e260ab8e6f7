"""Dynamic volumes over a real store; mounts are only remembered, and who serves a socket is a note."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import AlreadyPublished, FinalError, InvalidRequest, MountFailed
from modelcsi.pull.patience import Patience
from modelcsi.registry.caller import Caller, Pod
from modelcsi.volume.dynamic import DynamicVolumes
from modelcsi.volume.dynamic_mounts import DynamicVolume
from modelcsi.volume.dynamic_status import MountRequest, parse_mount_request
from modelcsi.volume.spec import DynamicSpec, VolumeId, parse_spec
from tests.fakes.mounter import FakeMounts
from tests.unit.pull.conftest import FILES, tree_of
from tests.unit.volume.conftest import SERVICE, Driver

SECRET = {".dockerconfigjson": "{}"}


@dataclass
class Sockets:
    """Who serves; `failure` is raised instead."""

    served: dict[Path, DynamicVolume] = field(default_factory=dict)
    failure: Exception | None = None

    def serve(self, directory: Path, volume: DynamicVolume) -> Served:
        if self.failure is not None:
            raise self.failure
        self.served[directory] = volume
        return Served(self, directory)


@dataclass
class Served:
    sockets: Sockets
    directory: Path

    def stop(self) -> None:
        self.sockets.served.pop(self.directory, None)


@pytest.fixture
def sockets() -> Sockets:
    """The sockets of one process after the other."""
    return Sockets()


@pytest.fixture
def is_enabled() -> threading.Event:
    """Whether the administrator allows dynamic volumes."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def start(
    start_driver: Callable[..., Driver], mounts: FakeMounts, sockets: Sockets, is_enabled: threading.Event
) -> Callable[[], Driver]:
    """Starts a driver with dynamic volumes, as after a kill of the last one."""

    def make() -> Driver:
        sockets.served.clear()
        return start_driver(
            dynamic=lambda store, puller: DynamicVolumes(store, puller, mounts, sockets.serve, is_enabled.is_set)
        )

    return make


@pytest.fixture
def driver(start: Callable[[], Driver]) -> Driver:
    """The first process."""
    return start()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., DynamicSpec]:
    """Makes requests; the target's parent is there."""

    def made(volume_id: str = "csi-a", target: str = "target", secrets: Mapping[str, str] | None = None) -> DynamicSpec:
        (tmp_path / "pods").mkdir(exist_ok=True)
        caller = Caller(secrets or {}, Pod("default", "pod", "uid", "account"))
        return DynamicSpec(VolumeId(volume_id), str(tmp_path / "pods" / target), caller)

    return made


Make = Callable[..., DynamicSpec]


def publish(driver: Driver, spec: DynamicSpec) -> None:
    """As kubelet does."""
    driver.volumes.publish(spec, Deadline.after(10))


def left(driver: Driver) -> list[Path]:
    """Of dynamic volumes."""
    return list(driver.store.layout.dynamic_volumes.iterdir())


def test_a_volume_is_made_and_removed(driver: Driver, mounts: FakeMounts, sockets: Sockets, make: Make) -> None:
    """It is shown and served; a second publish brings newer credentials, an unpublish leaves nothing."""
    publish(driver, make())
    publish(driver, make(secrets=SECRET))
    (volume,) = sockets.served.values()
    shown = mounts.shown[make().target]
    driver.volumes.unpublish(make().volume_id, make().target)

    assert (volume.path, SECRET) == (shown, volume.caller.secrets)
    assert ({}, {}, []) == (mounts.shown, sockets.served, left(driver))


@pytest.mark.parametrize("failing", ["mount", "socket"])
def test_a_failed_publish_leaves_nothing(
    driver: Driver, mounts: FakeMounts, sockets: Sockets, make: Make, failing: str
) -> None:
    """No directory, no socket; the next attempt succeeds."""
    failure = MountFailed("the kernel refuses")
    if failing == "mount":
        mounts.failures.append(failure)
    else:
        sockets.failure = failure
    with pytest.raises(MountFailed):
        publish(driver, make())

    assert ([], {}) == (left(driver), sockets.served)
    sockets.failure = None
    publish(driver, make())
    assert 1 == len(sockets.served)


def test_ids_that_the_api_cannot_name(driver: Driver, make: Make) -> None:
    """Are refused when the volume is published, not when its pod mounts."""
    with pytest.raises(InvalidRequest):
        publish(driver, make("pv.with/slash"))

    assert [] == left(driver)


def test_a_target_is_one_volumes(driver: Driver, mounts: FakeMounts, make: Make) -> None:
    """Another volume id neither publishes over it nor takes it away."""
    publish(driver, make())
    with pytest.raises(AlreadyPublished):
        publish(driver, make("csi-b"))
    driver.volumes.unpublish(VolumeId("csi-b"), make().target)

    assert [make().target] == list(mounts.shown)


def test_one_id_at_two_targets(driver: Driver, sockets: Sockets, make: Make, reference: str) -> None:
    """A PersistentVolume in two pods is two volumes: what one mounts the other does not see."""
    publish(driver, make("pv", "one"))
    publish(driver, make("pv", "two"))
    one, two = sockets.served.values()
    one.mount(_request(reference), Patience(Deadline.after(20)))
    driver.volumes.unpublish(VolumeId("pv"), make("pv", "two").target)

    assert (["m"], []) == ([mount.mount_id for mount in one.mounts()], two.mounts())
    assert FILES == tree_of(one.path / "models" / "m" / "model")


def test_start_after_a_kill(
    driver: Driver, start: Callable[[], Driver], sockets: Sockets, make: Make, reference: str, mounts: FakeMounts
) -> None:
    """Mounted volumes are served with their mounts and their pod, without its secrets; others are removed."""
    publish(driver, make(secrets=SECRET))
    publish(driver, make("csi-b", "unmounted"))
    next(iter(sockets.served.values())).mount(_request(reference), Patience(Deadline.after(20)))
    del mounts.shown[make("csi-b", "unmounted").target]
    driver.kill()
    successor = start()
    (volume,) = sockets.served.values()

    assert (Caller(pod=make().caller.pod), ["m"]) == (volume.caller, [mount.mount_id for mount in volume.mounts()])
    assert 2 == len(left(successor))
    assert 1 == sum(artifact.leases for artifact in successor.store.records.artifacts())


def test_start_with_damaged_records(
    driver: Driver, start: Callable[[], Driver], sockets: Sockets, make: Make, reference: str
) -> None:
    """A mount whose record says nothing is removed, and a volume's own is enough to remove it by."""
    publish(driver, make())
    (volume,) = sockets.served.values()
    volume.mount(_request(reference), Patience(Deadline.after(20)))
    (volume.path / "models" / "m" / "status.json").write_text("{}")
    driver.kill()
    successor = start()
    (volume,) = sockets.served.values()
    names = list((volume.path / "models").iterdir())
    driver.store.layout.dynamic_record(volume.key).write_text('{"volume_id": 1}')
    successor.kill()
    last = start()

    assert ([], [], {}) == (names, left(last), sockets.served)


def test_stats(driver: Driver, sockets: Sockets, make: Make, reference: str, mounts: FakeMounts) -> None:
    """The sum of the models; abnormal when the mount has gone."""
    publish(driver, make())
    next(iter(sockets.served.values())).mount(_request(reference), Patience(Deadline.after(20)))
    stats = driver.volumes.stats(make().volume_id, make().target)
    mounts.shown.clear()
    broken = driver.volumes.stats(make().volume_id, make().target)

    assert (sum(map(len, FILES.values())), False) == (stats.used_bytes, stats.abnormal)
    assert broken.abnormal


def test_where_there_are_no_dynamic_volumes(start_driver: Callable[..., Driver], make: Make) -> None:
    """A volume without a model is an author's mistake."""
    with pytest.raises(InvalidRequest, match=r"no modelRef \(set volumeAttributes.modelRef"):
        publish(start_driver(), make())


def test_switched_off_under_a_volume(
    driver: Driver, is_enabled: threading.Event, make: Make, mounts: FakeMounts
) -> None:
    """kubelet publishes again what is there, and an error would make it forget the mount; a new volume is refused."""
    publish(driver, make())
    is_enabled.clear()
    publish(driver, make())
    with pytest.raises(InvalidRequest, match="no modelRef"):
        publish(driver, make("new", "new"))

    assert [make().target] == list(mounts.shown)


@pytest.mark.parametrize("attributes", [{}, {f"{SERVICE}/type": "image", "checkDiskQuota": "true"}])
def test_volumes_without_a_model(attributes: dict[str, str]) -> None:
    """Are dynamic, with the secrets and the pod of the request."""
    pod = {"csi.storage.k8s.io/pod.name": "pod", "csi.storage.k8s.io/pod.namespace": "default"}
    spec = parse_spec("id", "/target", attributes | pod, SECRET, SERVICE)

    assert isinstance(spec, DynamicSpec)
    assert (SECRET, "default/pod") == (spec.caller.secrets, str(spec.caller.pod))


@pytest.mark.parametrize("attributes", [{"modelref": "r/x:y"}, {"pullPolicy": "Never"}, {"excludeModelWeights": "1"}])
def test_what_is_no_dynamic_volume(attributes: dict[str, str]) -> None:
    """A misspelt model, or attributes of a model that is not there, are errors also where dynamic volumes are allowed."""
    with pytest.raises(FinalError):
        parse_spec("id", "/target", attributes, {}, SERVICE)


def _request(reference: str) -> MountRequest:
    return parse_mount_request(f'{{"mount_id": "m", "reference": "{reference}"}}'.encode())
