"""Lazy volumes without a kernel: a real store, puller and registry; mounts and holder are only remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcsi.errors import AlreadyPublished, MountFailed, StoreFull
from modelcsi.oci.digest import Digest
from modelcsi.pull.patience import Patience
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.registry.caller import Pod
from modelcsi.store.records import MOUNTED, PublicationRecord
from modelcsi.view.wire import ToServer, Want
from modelcsi.volume import lazy as lazy_volumes
from modelcsi.volume.announcements import Announcement
from modelcsi.volume.lazy import LazyVolumes
from modelcsi.volume.spec import VolumeId, VolumeSpec
from modelcsi.volume.volumes import Pods
from tests.fakes.mounter import FakeLazyMounts, FakeMounts
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, wait_until
from tests.unit.volume.conftest import Driver, publish, unpublish

POD = {
    "csi.storage.k8s.io/pod.name": "chat",
    "csi.storage.k8s.io/pod.namespace": "team",
    "csi.storage.k8s.io/pod.uid": "1",
}
WEIGHTS = FILES["model.safetensors"]


class Heard:
    """What pods are told."""

    def __init__(self) -> None:
        self.announcements: list[Announcement] = []

    def announce(self, pod: Pod, announcement: Announcement) -> None:
        self.announcements.append(announcement)

    @property
    def reasons(self) -> list[str]:
        return [announcement.reason for announcement in self.announcements]


@pytest.fixture
def heard() -> Heard:
    """All pods' events."""
    return Heard()


@pytest.fixture
def lazy_mounts() -> FakeLazyMounts:
    """The kernel and the holder."""
    return FakeLazyMounts()


@pytest.fixture
def start(start_driver: Callable[..., Driver], lazy_mounts: FakeLazyMounts, heard: Heard) -> Callable[[], Driver]:
    """Starts a driver with lazy volumes; a second one as after a kill of the first."""

    def begin() -> Driver:
        driver = start_driver(pods=Pods(heard))
        volumes = driver.volumes
        volumes.lazy = LazyVolumes(driver.store, driver.puller, lazy_mounts, volumes.announcements)
        volumes.restore()
        return driver

    return begin


@pytest.fixture
def driver(start: Callable[[], Driver]) -> Driver:
    """The first process."""
    return start()


@pytest.fixture
def stalled(fake: FakeRegistry) -> Iterator[FakeRegistry]:
    """A registry whose blobs end after 1 MiB until it is resumed."""
    fake.faults.stall_after_bytes = 1 << 20
    yield fake
    fake.faults.resume.set()


def lazily(spec: Callable[..., VolumeSpec], target: str = "target", **attributes: Any) -> VolumeSpec:
    """A lazy volume of the model."""
    return spec(f"volume-{target}", target, mountMode="lazy", **POD, **attributes)


def lazy(driver: Driver) -> LazyVolumes:
    """The driver's."""
    assert driver.volumes.lazy is not None
    return driver.volumes.lazy


def file_of(driver: Driver, view: str, path: str) -> int:
    """The number of a file in a view's plan."""
    from modelcsi.view.plan import read_plan  # noqa: PLC0415 - only here

    entries = read_plan(driver.store.layout.lazy_view(view).plan).entries
    return next(number for number, planned in enumerate(entries) if planned.entry.path == path)


def test_a_lazy_volume_is_mounted_before_it_is_complete(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts, heard: Heard
) -> None:
    """The publish returns while the registry stalls; the pod is told when all of it is here."""
    publish(driver, lazily(spec))
    (view,) = lazy_mounts.shown.values()
    told = list(heard.reasons)
    stalled.faults.resume.set()
    wait_until(lambda: "Pulled" in heard.reasons)

    assert ["Pulling", "Mounted"] == told
    assert [True] == [row["is_complete"] for row in lazy(driver).rows()]
    assert view in lazy_mounts.held


def test_views_of_too_many_files(
    driver: Driver,
    spec: Callable[..., VolumeSpec],
    lazy_mounts: FakeLazyMounts,
    mounts: FakeMounts,
    stalled: FakeRegistry,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No pod can make the server that all pods share grow for ever: what is too much is mounted when it is complete."""
    monkeypatch.setattr(lazy_volumes, "_MAX_ENTRIES", len(FILES) + 1)
    first, same, other = lazily(spec), lazily(spec, "same"), lazily(spec, "other", include="config.json")
    publish(driver, first)
    publish(driver, same)
    stalled.faults.resume.set()
    publish(driver, other)

    assert ({first.target, same.target}, [other.target]) == (set(lazy_mounts.shown), list(mounts.shown))
    assert "LazyUnavailable" in heard.reasons


def test_a_node_without_lazy_mounts(
    driver: Driver,
    spec: Callable[..., VolumeSpec],
    lazy_mounts: FakeLazyMounts,
    mounts: FakeMounts,
    heard: Heard,
    reference: str,
) -> None:
    """Where a node has no lazy mounts, a lazy volume is mounted when it is complete, and an Event says so."""
    lazy_mounts.reason = "kernel 4.18 is older than 6.9"
    volume = lazily(spec)
    publish(driver, volume)
    told = {announcement.reason: announcement for announcement in heard.announcements}

    assert ({}, [volume.target]) == (lazy_mounts.shown, list(mounts.shown))
    assert told["LazyUnavailable"].is_warning
    assert "kernel 4.18 is older than 6.9" in told["LazyUnavailable"].message


def test_pods_of_one_repository_share_a_view(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """It goes with the last of them, and its files with it."""
    volumes = [lazily(spec, name) for name in ("one", "two")]
    for volume in volumes:
        publish(driver, volume)
    views = set(lazy_mounts.shown.values())
    unpublish(driver, volumes[0])
    left = (len(lazy_mounts.held), len(list(driver.store.layout.mounts.iterdir())))
    unpublish(driver, volumes[1])

    assert 1 == len(views)
    assert (1, 1) == left
    assert ({}, {}, []) == (lazy_mounts.shown, lazy_mounts.held, list(driver.store.layout.mounts.iterdir()))
    assert ([], []) == (lazy(driver).rows(), driver.store.records.publications())


def test_another_repository_has_a_view_of_its_own(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """The same digest: what one repository delivers is not shown for another one, which may not have it."""
    stalled.content.push("models/copy", "v1", FILES)
    publish(driver, lazily(spec, "one"))
    publish(driver, lazily(spec, "two", modelRef=f"{stalled.host}/models/copy:v1"))

    assert 2 == len(set(lazy_mounts.shown.values()))


def test_what_is_here_is_a_bind(
    driver: Driver, spec: Callable[..., VolumeSpec], reference: str, lazy_mounts: FakeLazyMounts, mounts: FakeMounts
) -> None:
    """Nothing of a lazy view is made for it."""
    publish(driver, spec())
    volume = lazily(spec, "lazy")
    publish(driver, volume)

    assert ({}, []) == (lazy_mounts.shown, list(driver.store.layout.mounts.iterdir()))
    assert volume.target in mounts.shown


def test_a_published_volume_stays_as_it_is(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """Publishing again changes nothing, and another mode is another volume."""
    publish(driver, lazily(spec))
    before = dict(lazy_mounts.shown)
    publish(driver, lazily(spec))
    with pytest.raises(AlreadyPublished):
        publish(driver, spec("volume-target", "target", **POD))

    assert before == lazy_mounts.shown


def test_a_mount_that_fails_leaves_nothing(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """It is tried again; with the end of the pod all is gone."""
    lazy_mounts.failures.append(MountFailed("no"))
    volume = lazily(spec)
    with pytest.raises(MountFailed):
        publish(driver, volume)
    publish(driver, volume)
    shown = dict(lazy_mounts.shown)
    unpublish(driver, volume)

    assert [volume.target] == list(shown)
    assert [] == list(driver.store.layout.mounts.iterdir())
    wait_until(lambda: not driver.puller.running())


def test_servers_are_answered(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """When the bytes are here; about a view that is not mounted, at once with an error."""
    publish(driver, lazily(spec))
    (view,) = lazy_mounts.shown.values()
    file = file_of(driver, view, "model.safetensors")
    answers: list[Exception | None] = []
    lazy(driver).want(Want(1, view, file, len(WEIGHTS) - 10, len(WEIGHTS)), answers.append)
    is_waiting = not answers
    stalled.faults.resume.set()
    wait_until(lambda: bool(answers))
    lazy(driver).want(Want(2, "ab" * 32, 0, 0, 1), answers.append)

    assert is_waiting
    assert [None, "no such view is mounted"] == [answers[0], str(answers[1])]


def test_the_next_driver_goes_on(
    start: Callable[[], Driver], spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """With mount, plan and credentials as they were: what servers want is brought, and the volume can be unpublished."""
    first = start()
    volume = lazily(spec)
    publish(first, volume)
    shown = dict(lazy_mounts.shown)
    first.kill()
    second = start()
    answers: list[Exception | None] = []
    (view,) = shown.values()
    file = file_of(second, view, "model.safetensors")
    lazy(second).want(Want(1, view, file, 0, len(WEIGHTS)), answers.append)
    lazy(second).resume()
    stalled.faults.resume.set()
    wait_until(lambda: bool(answers))
    wait_until(lambda: lazy(second).rows()[0]["is_complete"])
    stats = second.volumes.stats(VolumeId(volume.volume_id), volume.target)
    states = [record.state for record in second.store.records.publications()]
    unpublish(second, volume)

    assert (shown, [None], ["MOUNTED"]) == (lazy_mounts.shown or shown, answers, states)
    assert (False, sum(map(len, FILES.values()))) == (stats.abnormal, stats.total_bytes)
    assert ({}, {}) == (lazy_mounts.shown, lazy_mounts.held)


def test_a_reboot_leaves_nothing_lazy(
    start: Callable[[], Driver], spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """Mounts, holder and servers are gone; so are the files of their views."""
    first = start()
    publish(first, lazily(spec))
    first.kill()
    lazy_mounts.shown.clear()
    lazy_mounts.held.clear()
    second = start()

    assert ([], []) == (list(second.store.layout.mounts.iterdir()), lazy(second).rows())
    assert ["PENDING"] == [record.state for record in second.store.records.publications()]


def test_a_mount_without_a_server_is_replaced(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts, heard: Heard
) -> None:
    """Server, holder and driver died at once: the volume is abnormal, and kubelet's next publish mounts it anew."""
    volume = lazily(spec)
    publish(driver, volume)
    (view,) = lazy_mounts.shown.values()
    lazy_mounts.held.clear()
    lazy(driver).lost(view, "it crashed")
    stats = driver.volumes.stats(VolumeId(volume.volume_id), volume.target)
    publish(driver, volume)

    assert stats.abnormal
    assert "Failed" in heard.reasons
    assert ({volume.target: view}, [view]) == (lazy_mounts.shown, list(lazy_mounts.held))


def test_a_complete_volume_that_loses_its_server_is_told(
    start: Callable[[], Driver], spec: Callable[..., VolumeSpec], lazy_mounts: FakeLazyMounts, heard: Heard
) -> None:
    """Its pod waits for nothing any more, and this driver may not be the one that mounted it: it is told all the same."""
    first = start()
    publish(first, lazily(spec))
    (view,) = lazy_mounts.shown.values()
    wait_until(lambda: "Pulled" in heard.reasons)
    first.kill()
    second = start()
    lazy_mounts.held.clear()
    lazy(second).lost(view, "it crashed")

    assert "Failed" == heard.reasons[-1]
    assert "delete the pod" in heard.announcements[-1].message


def test_each_dead_mount_is_replaced(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """Two pods had the view when it was lost: that one of them has it again does not mend the other's mount."""
    first, second = lazily(spec), lazily(spec, "second")
    publish(driver, first)
    publish(driver, second)
    (view,) = set(lazy_mounts.shown.values())
    lazy_mounts.held.clear()
    publish(driver, first)
    stats = driver.volumes.stats(VolumeId(second.volume_id), second.target)
    publish(driver, second)

    assert stats.abnormal
    assert lazy_mounts.shows(first.target, view)
    assert lazy_mounts.shows(second.target, view)


def test_the_disk_is_full_while_a_mount_is_recorded(
    driver: Driver,
    spec: Callable[..., VolumeSpec],
    stalled: FakeRegistry,
    lazy_mounts: FakeLazyMounts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kubelet's next publish finds the mount, also when all of the model has come meanwhile."""
    put = driver.store.records.put_publication

    def full(record: PublicationRecord) -> None:
        if record.state == MOUNTED:
            raise StoreFull("no space left")
        put(record)

    monkeypatch.setattr(driver.store.records, "put_publication", full)
    volume = lazily(spec)
    with pytest.raises(StoreFull):
        publish(driver, volume)
    stalled.faults.resume.set()
    wait_until(lambda: lazy(driver).rows()[0]["is_complete"] and not driver.puller.running())
    monkeypatch.undo()
    publish(driver, volume)
    (view,) = lazy_mounts.shown.values()

    assert [("MOUNTED", view)] == [(record.state, record.view) for record in driver.store.records.publications()]


def test_a_pod_goes_while_its_view_is_resumed(
    start: Callable[[], Driver],
    spec: Callable[..., VolumeSpec],
    stalled: FakeRegistry,
    lazy_mounts: FakeLazyMounts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is downloaded, leased or kept for it, although the registry answers only now."""
    first = start()
    volume = lazily(spec)
    publish(first, volume)
    first.kill()
    second = start()
    asked, may_answer, resolve = threading.Event(), threading.Event(), second.puller.resolve

    def slow(wish: Wish, patience: Patience) -> Resolved:
        found = resolve(wish, patience)
        asked.set()
        assert may_answer.wait(20)
        return found

    monkeypatch.setattr(second.puller, "resolve", slow)
    lazy(second).resume()
    assert asked.wait(20)
    unpublish(second, volume)
    may_answer.set()
    wait_until(lambda: not any(thread.name == "lazy-resume" for thread in threading.enumerate()))
    wait_until(lambda: not second.puller.running())

    assert [0] == [artifact.leases for artifact in second.store.records.artifacts()]
    assert ([], []) == (lazy(second).rows(), list(second.store.layout.mounts.iterdir()))


def test_secrets_stay_in_memory(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts, tmp_path: Path
) -> None:
    """What a pod brought is entrusted to the holder, and written nowhere."""
    publish(driver, lazily(spec, secrets={".dockerconfigjson": '{"auths": {"other.test": {"auth": "c2VjcmV0"}}}'}))
    (secret,) = lazy_mounts.held.values()
    written = b"".join(path.read_bytes() for path in driver.store.layout.mounts.rglob("*") if path.is_file())

    assert b"c2VjcmV0" in secret
    assert b"c2VjcmV0" not in written


def test_fresh_credentials_replace_old_ones(
    driver: Driver, spec: Callable[..., VolumeSpec], stalled: FakeRegistry, lazy_mounts: FakeLazyMounts
) -> None:
    """Where kubelet publishes again and again, filling goes on with what it brought last."""
    for name in (b"old", b"new", b"new"):
        publish(
            driver, lazily(spec, secrets={".dockerconfigjson": f'{{"auths": {{"other.test": "{name.decode()}"}}}}'})
        )
    (secret,) = lazy_mounts.held.values()

    assert (True, False) == (b"new" in secret, b"old" in secret)


def test_wrong_bytes_are_told(
    driver: Driver, spec: Callable[..., VolumeSpec], fake: FakeRegistry, reference: str, heard: Heard
) -> None:
    """To servers, to the pod, and by the volume's condition."""
    fake.faults.flip_bit_of.add(str(Digest.of(WEIGHTS)))
    told: list[ToServer] = []
    lazy(driver).tell = told.append
    volume = lazily(spec)
    publish(driver, volume)
    wait_until(lambda: "Failed" in heard.reasons)
    stats = driver.volumes.stats(VolumeId(volume.volume_id), volume.target)

    assert stats.abnormal
    assert {"Damaged", "Failed"} <= set(heard.reasons)
    assert told
