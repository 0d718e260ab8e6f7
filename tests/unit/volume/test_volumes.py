from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import (
    AlreadyPublished,
    Busy,
    CorruptContent,
    FinalError,
    InvalidRequest,
    MountFailed,
    NotFound,
    OperationPending,
    PullPending,
    Unauthenticated,
)
from modelcsi.oci.digest import Digest
from modelcsi.store.records import MOUNTED, PENDING
from modelcsi.volume.spec import VolumeId, VolumeSpec
from tests.fakes.mounter import FakeMounts
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, secret, tree_of, wait_until
from tests.unit.volume.conftest import Driver, publish, unpublish

Make = Callable[..., VolumeSpec]
WEIGHTS = str(Digest.of(FILES["model.safetensors"]))


class Call:
    """A publish in a thread."""

    def __init__(self, driver: Driver, spec: VolumeSpec, seconds: float = 60) -> None:
        self.errors: list[Exception] = []
        self._arguments = (driver, spec, seconds)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            publish(*self._arguments)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.errors.append(error)

    def end(self) -> list[Exception]:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.errors


def states(driver: Driver) -> list[str]:
    """Of all publications."""
    return [record.state for record in driver.store.records.publications()]


def leases(driver: Driver) -> int:
    """On all artifacts."""
    return sum(artifact.leases for artifact in driver.store.records.artifacts())


def stall(registry: FakeRegistry) -> None:
    """Let it go silent after a MiB."""
    registry.faults.stall_after_bytes = 1 << 20


def resume(registry: FakeRegistry) -> None:
    """Let it go on."""
    registry.faults.stall_after_bytes = None
    registry.faults.resume.set()


def test_a_published_volume(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """The model is at the target, and there is a row and a lease."""
    publish(driver, spec())

    assert FILES == tree_of(mounts.shown[spec().target])
    assert ([MOUNTED], 1) == (states(driver), leases(driver))


def test_publishing_again(driver: Driver, mounts: FakeMounts, fake: FakeRegistry, spec: Make) -> None:
    """Is fine and does nothing; the registry may be gone."""
    publish(driver, spec())
    requests = len(fake.seen)
    publish(driver, spec())

    assert (1, requests, [MOUNTED]) == (len(mounts.binds), len(fake.seen), states(driver))


def test_unpublishing(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """Nothing is left but the cache; again is fine."""
    publish(driver, spec())
    for _ in range(2):
        unpublish(driver, spec())

    assert ({}, False, [], 0) == (mounts.shown, Path(spec().target).exists(), states(driver), leases(driver))
    assert 1 == len(driver.store.records.artifacts())


def test_a_rollout_downloads_nothing(driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """The last pod goes, a new one comes."""
    publish(driver, spec())
    unpublish(driver, spec())
    requests = len(fake.seen)
    publish(driver, spec("another", "another"))

    assert requests == len(fake.seen)


def test_one_volume_in_two_pods(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """The first unpublish leaves the second alone."""
    one, two = spec("pv", "one"), spec("pv", "two")
    publish(driver, one)
    publish(driver, two)
    unpublish(driver, one)

    assert ([two.target], [MOUNTED], 1) == (list(mounts.shown), states(driver), leases(driver))


@pytest.mark.parametrize("other", [{"excludeModelWeights": "true"}, {"pullPolicy": "Always"}, {"volume_id": "other"}])
def test_other_arguments(driver: Driver, mounts: FakeMounts, spec: Make, other: dict[str, str]) -> None:
    """A mounted volume does not change; what is mounted stays."""
    publish(driver, spec())
    with pytest.raises(AlreadyPublished):
        publish(driver, spec(**other))

    assert ([MOUNTED], [spec().target], 1) == (states(driver), list(mounts.shown), leases(driver))


def test_other_arguments_of_a_volume_that_waits(
    driver: Driver, fake: FakeRegistry, mounts: FakeMounts, spec: Make
) -> None:
    """Nothing is mounted yet: the new wish counts, and nobody wants the old pull any more."""
    stall(fake)
    with pytest.raises(PullPending):
        publish(driver, spec(), seconds=0.4)
    publish(driver, spec(excludeFilePatterns='["*.safetensors"]'))
    wait_until(lambda: not driver.puller.running())

    assert {"config.json", "tokenizer/vocab.txt"} == set(tree_of(mounts.shown[spec().target]))


def test_unpublishing_another_volume(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """What is mounted there for somebody else stays."""
    publish(driver, spec())
    driver.volumes.unpublish(VolumeId("other"), spec().target)

    assert ([MOUNTED], [spec().target]) == (states(driver), list(mounts.shown))


def test_unpublishing_what_no_record_knows(driver: Driver, mounts: FakeMounts, tmp_path: Path) -> None:
    """The kernel is trusted, not the rows."""
    target = tmp_path / "target"
    target.mkdir()
    mounts.shown[str(target)] = tmp_path
    driver.volumes.unpublish(VolumeId("lost"), str(target))

    assert ({}, False) == (mounts.shown, target.exists())


def test_a_short_call_waits_half_its_time(driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """Several calls, one download; the answer says how far it is."""
    stall(fake)
    for _ in range(2):
        with pytest.raises(PullPending, match=r"pulling .*/models/tiny:v1: \d+% \("):
            publish(driver, spec(), seconds=1.0)
    pending = (states(driver), leases(driver))
    resume(fake)
    publish(driver, spec())

    assert (([PENDING], 1), [MOUNTED]) == (pending, states(driver))
    assert {1} == set(fake.blob_gets.values())


def test_two_calls_at_one_target(driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """The second is told that another one works there."""
    stall(fake)
    first = Call(driver, spec())
    wait_until(lambda: bool(driver.puller.running()))
    with pytest.raises(OperationPending):
        publish(driver, spec())
    resume(fake)

    assert ([], [MOUNTED]) == (first.end(), states(driver))


def test_unpublish_sends_a_waiting_publish_away(
    driver: Driver, fake: FakeRegistry, mounts: FakeMounts, spec: Make
) -> None:
    """At once; nothing is left, and the pull stops."""
    stall(fake)
    waiting = Call(driver, spec())
    wait_until(lambda: bool(driver.puller.running()))
    unpublish(driver, spec())
    errors = waiting.end()
    wait_until(lambda: not driver.puller.running())

    assert [PullPending] == [type(error) for error in errors]
    assert ([], 0, {}) == (states(driver), leases(driver), mounts.shown)


def test_shutting_down_sends_everybody_away(driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """Their rows stay: they come back to the next process."""
    stall(fake)
    calls = [Call(driver, spec(f"v{number}", f"t{number}")) for number in range(3)]
    wait_until(lambda: [len(status.owners) for status in driver.puller.running()] == [3])
    driver.volumes.shut_down()

    assert [PullPending] * 3 == [type(error) for call in calls for error in call.end()]
    assert [PENDING] * 3 == states(driver)


@pytest.mark.parametrize("how", ["missing", "corrupt", "secret"])
def test_a_final_error_leaves_nothing(
    driver: Driver, fake: FakeRegistry, mounts: FakeMounts, spec: Make, how: str
) -> None:
    """No row, no lease, no job, no directory: kubelet never comes back for it."""
    if how == "missing":
        expected: type[FinalError] = NotFound
        fake.content.manifests["models/tiny"].clear()
    elif how == "corrupt":
        expected = CorruptContent
        fake.faults.flip_bit_of.add(WEIGHTS)
    else:
        expected = InvalidRequest
    with pytest.raises(expected):
        publish(driver, spec(secrets={"what": "ever"} if how == "secret" else {}))
    wait_until(lambda: not driver.puller.running())

    assert ([], 0, {}, False) == (states(driver), leases(driver), mounts.shown, Path(spec().target).exists())


def test_a_refused_credential_leaves_nothing(driver: Driver, private: FakeRegistry, spec: Make) -> None:
    """Also where the model is on the node."""
    private.content.push("models/secret", "v1", FILES)
    model = f"{private.host}/models/secret:v1"
    publish(driver, spec("good", "good", secret(private, "alice", "s3cret"), modelRef=model))
    with pytest.raises(Unauthenticated):
        publish(driver, spec("bad", "bad", secret(private, "alice", "wrong"), modelRef=model))

    assert [("good", MOUNTED)] == [(row.volume_id, row.state) for row in driver.store.records.publications()]


def test_a_transient_error_keeps_the_row(driver: Driver, mounts: FakeMounts, fake: FakeRegistry, spec: Make) -> None:
    """And the lease: the next call goes on where this one stopped, with the same digest."""
    mounts.failures.append(MountFailed("out of memory"))
    with pytest.raises(MountFailed):
        publish(driver, spec())
    pending = (states(driver), leases(driver))
    fake.content.push("models/tiny", "v1", {"new": b"1"})
    publish(driver, spec())

    assert (([PENDING], 1), FILES) == (pending, tree_of(mounts.shown[spec().target]))


def test_a_bug_leaves_nothing(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """Its answer is final to kubelet, so what it left is taken away."""
    mounts.failures.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        publish(driver, spec())

    assert ([], 0, [spec().target]) == (states(driver), leases(driver), mounts.unmounts)


def test_a_volume_that_vanished_is_mounted_again(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """Somebody unmounted it: the same call repairs it."""
    publish(driver, spec())
    mounts.shown.clear()
    publish(driver, spec())

    assert ([spec().target], [MOUNTED]) == (list(mounts.shown), states(driver))


def test_slots(start_driver: Callable[..., Driver], fake: FakeRegistry, spec: Make, reference: str) -> None:
    """When all are taken, the one that waited longest for a pull makes place; a cached model is never refused."""
    driver = start_driver(slots=2)
    publish(driver, spec("cached", "cached"))
    fake.content.push("models/big", "v1", {"model": bytes(3 << 20)})
    stall(fake)
    model = reference.replace("tiny", "big")
    waiting = []
    for number in range(2):
        waiting.append(Call(driver, spec(f"w{number}", f"w{number}", modelRef=model)))
        wait_until(lambda: [len(status.owners) for status in driver.puller.running()] == [len(waiting)])
    publish(driver, spec("second", "second"))
    first = [type(error) for error in waiting[0].end()]
    is_second_waiting = waiting[1].thread.is_alive()
    resume(fake)

    assert ([PullPending], True, []) == (first, is_second_waiting, waiting[1].end())


def test_busy(start_driver: Callable[..., Driver], spec: Make) -> None:
    """Beyond the slots, where nobody waits for a pull."""
    driver = start_driver(slots=1)
    with driver.volumes._slots.enter(), pytest.raises(Busy):
        publish(driver, spec())

    assert [] == states(driver)


def test_whoever_does_not_come_back(driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """Is given up after ten minutes, and the pull stops; who was here lately is not."""
    stall(fake)
    for name in ("gone", "back"):
        with pytest.raises(PullPending):
            publish(driver, spec(name, name), seconds=0.2)
    driver.volumes.expire()
    before = len(states(driver))
    owner = next(row.owner for row in driver.store.records.publications() if row.volume_id == "gone")
    driver.volumes._seen[owner] -= 601
    driver.volumes.expire()

    assert (2, ["back"]) == (before, [row.volume_id for row in driver.store.records.publications()])
    assert [1] == [len(status.owners) for status in driver.puller.running()]


def test_a_call_under_way_does_not_expire(driver: Driver, fake: FakeRegistry, spec: Make) -> None:
    """However long ago it began."""
    stall(fake)
    call = Call(driver, spec())
    wait_until(lambda: bool(driver.puller.running()))
    for owner in driver.volumes._seen:
        driver.volumes._seen[owner] -= 601
    driver.volumes.expire()
    resume(fake)

    assert ([], [MOUNTED]) == (call.end(), states(driver))


def test_a_mounted_volume_does_not_expire(driver: Driver, spec: Make) -> None:
    """It ends at unpublish only."""
    publish(driver, spec())
    driver.volumes._seen[driver.store.records.publications()[0].owner] = -1e9
    driver.volumes.expire()

    assert [MOUNTED] == states(driver)


def test_stats(driver: Driver, mounts: FakeMounts, spec: Make) -> None:
    """Size and number of files are the model's; a vanished mount is abnormal."""
    publish(driver, spec())
    well = driver.volumes.stats(VolumeId("volume"), spec().target)
    mounts.shown.clear()
    ill = driver.volumes.stats(VolumeId("volume"), spec().target)

    size = sum(map(len, FILES.values()))
    assert (size, size, 0, 4, False) == (
        well.total_bytes,
        well.used_bytes,
        well.available_bytes,
        well.total_inodes,
        well.abnormal,
    )
    assert (True, "not mounted") == (ill.abnormal, "not mounted" if "is not mounted" in ill.message else ill.message)


def test_stats_of_what_is_not_there(driver: Driver, spec: Make) -> None:
    """Another volume, another path, a volume that still waits."""
    publish(driver, spec())
    for volume_id, path in (("other", spec().target), ("volume", "/elsewhere")):
        with pytest.raises(NotFound, match="is not published at"):
            driver.volumes.stats(VolumeId(volume_id), path)


def test_calls_without_any_deadline(driver: Driver, spec: Make) -> None:
    """They work like kubelet's."""
    driver.volumes.publish(spec(), Deadline.never())

    assert [MOUNTED] == states(driver)
