"""What a start finds, and makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelcsi.errors import AlreadyPublished, PullPending
from modelcsi.oci.digest import Digest
from modelcsi.store.records import MOUNTED, PENDING
from modelcsi.volume.spec import VolumeSpec
from tests.examples import serve
from tests.fakes.mounter import FakeMounts
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, tree_of
from tests.unit.volume.conftest import Driver, publish, unpublish

Make = Callable[..., VolumeSpec]
Start = Callable[..., Driver]


def rows(driver: Driver) -> list[tuple[str, str]]:
    """Volume ids and states."""
    return [(record.volume_id, record.state) for record in driver.store.records.publications()]


def lose_database(driver: Driver) -> None:
    """The process is killed, and the file is gone."""
    driver.kill()
    for path in driver.store.layout.root.glob("state.db*"):
        path.unlink()


def test_a_mounted_volume(
    driver: Driver, start_driver: Start, mounts: FakeMounts, fake: FakeRegistry, spec: Make
) -> None:
    """Is mounted after a restart, kept, and published again without the registry."""
    publish(driver, spec())
    again = start_driver()
    found = rows(again)
    again.store.collector.prune()
    requests = len(fake.seen)
    publish(again, spec())

    assert ([("volume", MOUNTED)], requests) == (found, len(fake.seen))
    assert FILES == tree_of(mounts.shown[spec().target])


def test_a_kill_between_mount_and_record(driver: Driver, start_driver: Start, mounts: FakeMounts, spec: Make) -> None:
    """Case 1: the row says PENDING, the mount is there: it is completed."""
    publish(driver, spec())
    (row,) = driver.store.records.publications()
    driver.store.records.put_publication(replace(row, state=PENDING, view=""))
    again = start_driver()
    found = rows(again)
    publish(again, spec())

    assert ([("volume", MOUNTED)], 1) == (found, len(mounts.binds))


def test_a_lost_database(
    driver: Driver, start_driver: Start, mounts: FakeMounts, fake: FakeRegistry, spec: Make
) -> None:
    """Case 2: the mount is adopted; its content is known, kept, and not fetched again."""
    publish(driver, spec())
    lose_database(driver)
    again = start_driver()
    adopted = rows(again)
    again.store.collector.prune()
    gets = fake.blob_gets.total()
    publish(again, spec())

    assert ([("", MOUNTED)], [("volume", MOUNTED)]) == (adopted, rows(again))
    assert (FILES, gets) == (tree_of(mounts.shown[spec().target]), fake.blob_gets.total())


def test_unpublishing_an_adopted_mount(driver: Driver, start_driver: Start, mounts: FakeMounts, spec: Make) -> None:
    """Any volume id is right for it."""
    publish(driver, spec())
    lose_database(driver)
    again = start_driver()
    unpublish(again, spec())

    assert ([], {}) == (rows(again), mounts.shown)


def test_another_wish_at_an_adopted_mount(driver: Driver, start_driver: Start, mounts: FakeMounts, spec: Make) -> None:
    """What is mounted is not what is asked for."""
    publish(driver, spec())
    lose_database(driver)
    again = start_driver()
    with pytest.raises(AlreadyPublished):
        publish(again, spec(excludeModelWeights="true"))

    assert [("", MOUNTED)] == rows(again)


def test_stats_of_an_adopted_mount(driver: Driver, start_driver: Start, spec: Make) -> None:
    """They are told from the view's own record."""
    publish(driver, spec())
    lose_database(driver)
    again = start_driver()

    assert sum(map(len, FILES.values())) == again.volumes.stats(spec().volume_id, spec().target).total_bytes


def test_a_reboot(driver: Driver, start_driver: Start, mounts: FakeMounts, fake: FakeRegistry, spec: Make) -> None:
    """Case 3: the row is PENDING; the caller comes back and gets the same model without a download."""
    publish(driver, spec())
    mounts.reboot()
    again = start_driver()
    found = rows(again)
    requests = len(fake.seen)
    publish(again, spec())

    assert ([("volume", PENDING)], requests, [("volume", MOUNTED)]) == (found, len(fake.seen), rows(again))


def test_a_caller_that_does_not_come_back_after_a_reboot(
    driver: Driver, start_driver: Start, mounts: FakeMounts, spec: Make
) -> None:
    """Its lease ends in time."""
    publish(driver, spec())
    mounts.reboot()
    again = start_driver()
    (row,) = again.store.records.publications()
    again.volumes._seen[row.owner] -= 601
    again.volumes.expire()

    assert ([], frozenset()) == (rows(again), again.store.records.owners(again.store.records.artifacts()[0].manifest))


def test_a_caller_that_cannot_come_back_after_a_reboot(
    driver: Driver, start_driver: Start, mounts: FakeMounts, spec: Make
) -> None:
    """Where kubelet's directory of the volume is gone, its lease ends at once; others have their ten minutes."""
    gone, back = (spec(name, f"of-{name}/mount") for name in ("gone", "back"))
    for wanted in (gone, back):
        Path(wanted.target).parent.mkdir()
        publish(driver, wanted)
    mounts.reboot()
    shutil.rmtree(Path(gone.target).parent)
    again = start_driver()
    again.volumes.expire()

    assert [("back", PENDING)] == rows(again)


def test_a_pull_that_was_killed(
    driver: Driver, start_driver: Start, mounts: FakeMounts, fake: FakeRegistry, spec: Make
) -> None:
    """The row waits for its caller, and what was received is not fetched again."""
    fake.faults.stall_after_bytes = 2 << 20
    with pytest.raises(PullPending):
        publish(driver, spec(), seconds=0.6)
    again = start_driver()
    found = rows(again)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    publish(again, spec())

    assert ([("volume", PENDING)], FILES) == (found, tree_of(mounts.shown[spec().target]))
    assert fake.bytes_served.total() < 1.2 * sum(map(len, FILES.values()))


def test_mounts_of_others_are_left_alone(
    driver: Driver, start_driver: Start, mounts: FakeMounts, tmp_path: Path
) -> None:
    """Another store's view of any name, and anything else."""
    foreign = tmp_path / "other" / "views" / ("0" * 64)
    foreign.mkdir(parents=True)
    mounts.shown |= {"/foreign": foreign, "/data": tmp_path}
    again = start_driver()

    assert ([], 2) == (rows(again), len(mounts.shown))


@pytest.mark.parametrize("example", ["olot-index", "kitops-modelkit-tar"])
def test_documents_after_the_database_was_lost(
    driver: Driver, start_driver: Start, fake: FakeRegistry, spec: Make, example: str
) -> None:
    """What led to an artifact is known as its content again, and needs no second delivery."""
    serve(fake.content, "examples", example)
    publish(driver, spec(modelRef=f"{fake.host}/examples:{example}"))
    (before,) = driver.store.records.artifacts()
    contents = set(driver.store.records.contents(before.manifest))
    documents = set(driver.store.content.digests()) & contents - {before.manifest}
    lose_database(driver)
    again = start_driver()
    again.store.collector.prune()
    (after,) = again.store.records.artifacts()
    manifests, blobs = fake.manifest_requests, fake.blob_gets.copy()
    publish(again, spec(target="other", modelRef=f"{fake.host}/examples:{example}", pullPolicy="Always"))

    assert (before.manifest, contents) == (after.manifest, set(again.store.records.contents(after.manifest)))
    assert documents <= set(again.store.content.digests())
    assert (blobs, manifests + 1) == (fake.blob_gets, fake.manifest_requests)


def test_a_start_with_nothing(driver: Driver) -> None:
    """Nothing is made of it."""
    assert [] == rows(driver)


def test_a_manifest_that_is_not_understood(driver: Driver, start_driver: Start) -> None:
    """It is left to the collector."""
    driver.kill()
    for content in (b"not JSON", b'{"schemaVersion": 2, "manifests": []}'):
        driver.store.content.keep_manifest(Digest.of(content), content)
    again = start_driver()

    assert [] == again.store.records.artifacts()


def test_another_name_at_an_adopted_mount(driver: Driver, start_driver: Start, fake: FakeRegistry, spec: Make) -> None:
    """Two tags may mean one artifact, whose view remembers only the first that built it."""
    publish(driver, spec())
    fake.content.push("models/tiny", "other", FILES)
    lose_database(driver)
    again = start_driver()
    publish(again, spec(modelRef=f"{fake.host}/models/tiny:other"))

    assert {MOUNTED} == {state for _, state in rows(again)}
