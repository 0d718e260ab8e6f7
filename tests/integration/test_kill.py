"""The driver dies: by kill -9 in the middle of its work, by SIGTERM while calls wait, and with its database lost."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.fakes.kubelet import NON_FINAL
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import eventually, mount_of
from tests.integration.models import MIB, Format, promised, push, random_files, shown
from tests.integration.wire import Wire

OK = grpc.StatusCode.OK
_SIZE = 32 * MIB


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
@pytest.mark.parametrize("kills", [1, 3])
def test_killed_pull_goes_on_where_it_was(
    make_driver: MakeDriver, registry: FakeRegistry, packed: Format, kills: int
) -> None:
    """kill -9 at half of a pull of 32 MB: at most 1.2 downloads in all; at each quarter, no more is lost by each kill."""
    driver = make_driver()
    registry.faults.bytes_per_second = 24_000_000
    model = push(registry.content, "kill/half", random_files(("half", packed), _SIZE // 2, _SIZE // 2), packed)
    volume = model.volume(registry.host, "half")
    for number in range(1, kills + 1):
        with ThreadPoolExecutor(1) as pool:
            publish = pool.submit(driver.kubelet.publish, volume)
            part = model.size_bytes * number // (kills + 1)
            eventually(functools.partial(_has_served, registry, part), "a part of it came")
            driver.kill()
            assert publish.result().code in NON_FINAL
        driver.start()
    answers = driver.kubelet.set_up(volume, within_seconds=30)

    assert OK == answers[-1].code
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert registry.bytes_served.total() <= (1 + 0.2 * kills) * model.size_bytes
    assert [] == list((driver.root_dir / "ingest").iterdir())


def test_volumes_outlive_the_driver(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Mounted volumes are readable while the driver is dead, and known to the next one; the registry is not asked."""
    driver = make_driver()
    model = push(registry.content, "kill/outlive", random_files("outlive", MIB))
    volume = model.volume(registry.host, "outlive")
    driver.kubelet.publish(volume)
    target = driver.kubelet.target(volume)
    driver.kill()
    dead = shown(target)
    asked = len(registry.seen)
    driver.start()
    again = driver.kubelet.publish(volume)

    assert promised(model.files) == dead
    assert OK == again.code
    assert promised(model.files) == shown(target)
    assert asked == len(registry.seen)
    assert not driver.kubelet.stats(volume).response.volume_condition.abnormal
    assert OK == driver.kubelet.unpublish(volume).code
    assert [] == driver.mounts()


def test_sigterm_while_publishes_wait_for_a_pull(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """The process ends soon, the waiting calls get a non-final answer, and the next process goes on with the pull."""
    driver = make_driver()
    registry.faults.bytes_per_second = 16_000_000
    model = push(registry.content, "kill/term", random_files("term", 16 * MIB))
    volumes = [model.volume(registry.host, f"term-{number}") for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        publishes = [pool.submit(driver.kubelet.publish, volume) for volume in volumes]
        eventually(lambda: registry.bytes_served.total() > 4 * MIB, "the pull runs")
        seconds = driver.stop()
        codes = {publish.result().code for publish in publishes}

    assert seconds < 10
    assert 0 == driver.wait()
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}
    driver.start()
    assert [OK] * 3 == [driver.kubelet.set_up(volume)[-1].code for volume in volumes]
    assert registry.bytes_served.total() <= 1.2 * model.size_bytes


def test_sigterm_while_the_registry_is_silent(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """A call that waits for an answer of a registry that sends none keeps the process no longer than that either."""
    driver = make_driver()
    model = push(registry.content, "kill/silent", random_files("silent", 1000))
    with Wire(int(registry.host.rpartition(":")[2])) as wire, ThreadPoolExecutor(1) as pool:
        wire.is_silent = True
        volume = model.volume(wire.host, "silent")
        publish = pool.submit(driver.kubelet.publish, volume)
        eventually(lambda: driver.ask("status")["publications"], "the call is under way")
        seconds = driver.stop()
        answer = publish.result()

    assert seconds < 10
    assert answer.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED}


def test_sigterm_while_a_tar_is_unpacked(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Nobody waits for the pull any more (its caller gave up), and it runs: the process ends soon all the same."""
    driver = make_driver()
    registry.faults.bytes_per_second = 4_000_000
    model = push(registry.content, "kill/unpack", random_files("unpack", 16 * MIB), Format.TAR_ZSTD)
    volume = model.volume(registry.host, "unpack")
    driver.kubelet.publish(volume, timeout=1)

    assert driver.ask("status")["pulls"]
    assert driver.stop() < 10


@pytest.mark.parametrize("lost", ["deleted", "garbage"])
def test_database_lost_while_dead(make_driver: MakeDriver, registry: FakeRegistry, lost: str) -> None:
    """The next driver adopts the mounts: publishing again is a no-op, stats work, unpublish works; nothing is fetched."""
    driver = make_driver()
    model = push(registry.content, "kill/database", random_files("database", MIB))
    volumes = [model.volume(registry.host, f"database-{number}") for number in range(2)]
    for volume in volumes:
        driver.kubelet.publish(volume)
    before = [mount_of(driver.kubelet.target(volume)) for volume in volumes]
    driver.kill()
    for path in driver.root_dir.glob("state.db*"):
        path.unlink()
    if lost == "garbage":
        (driver.root_dir / "state.db").write_bytes(b"no database" * 1000)
    driver.start()
    fetched = registry.bytes_served.total()

    assert [OK, OK] == [driver.kubelet.publish(volume).code for volume in volumes]
    assert before == [mount_of(driver.kubelet.target(volume)) for volume in volumes]
    assert [promised(model.files)] * 2 == [shown(driver.kubelet.target(volume)) for volume in volumes]
    assert OK == driver.kubelet.stats(volumes[0]).code
    assert fetched == registry.bytes_served.total()
    assert [OK, OK] == [driver.kubelet.unpublish(volume).code for volume in volumes]
    assert not any(driver.kubelet.target(volume).exists() for volume in volumes)


def test_database_lost_and_new_pod(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """The content is found again by its paths: a new pod asks the registry once more, and downloads nothing."""
    driver = make_driver()
    model = push(registry.content, "kill/found", random_files("found", MIB))
    driver.kubelet.publish(model.volume(registry.host, "found-old"))
    driver.kill()
    for path in driver.root_dir.glob("state.db*"):
        path.unlink()
    driver.start()

    assert OK == driver.kubelet.publish(model.volume(registry.host, "found-new")).code
    assert [1] * len(model.layers) == [registry.blob_gets[str(layer)] for layer in model.layers]


def test_database_lost_and_pod_gone(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Unpublish of a mount that only the mount table knows; another model there is refused, and not finally: kubelet must come back."""
    driver = make_driver()
    model = push(registry.content, "kill/gone", random_files("gone", 1000))
    other = push(registry.content, "kill/gone", random_files("other", 1000), tag="v2")
    volume = model.volume(registry.host, "gone")
    driver.kubelet.publish(volume)
    driver.kill()
    for path in driver.root_dir.glob("state.db*"):
        path.unlink()
    driver.start()

    assert grpc.StatusCode.UNAVAILABLE == driver.kubelet.publish(other.volume(registry.host, "gone")).code
    assert OK == driver.kubelet.unpublish(volume).code
    assert [] == driver.mounts()
    assert [] == driver.ask("status")["publications"]


def test_second_driver_of_one_store_is_refused(make_driver: MakeDriver) -> None:
    """One driver per root_dir: the second says so and ends; the first one is not disturbed."""
    driver = make_driver()
    second = make_driver(starts=False)
    second.write_config({"root_dir": str(driver.root_dir)})
    second.spawn()

    assert 1 == second.wait(30)
    assert str(driver.root_dir) in second.log_text()
    assert driver.kubelet.probe().is_ok


def test_successor_takes_over_while_the_old_driver_ends(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """A new process is started before the old one has gone, as in a rolling update: calls are answered by it afterwards."""
    driver = make_driver()
    model = push(registry.content, "kill/update", random_files("update", 1000))
    volume = model.volume(registry.host, "update")
    driver.kubelet.publish(volume)
    successor = make_driver(starts=False)
    successor.write_config(
        {"root_dir": str(driver.root_dir), "csi_endpoint": f"unix://{driver.socket}", "metrics_addr": ""}
    )
    successor.kubelet = driver.kubelet
    successor.spawn()
    driver.stop()
    successor.wait_until_ready()

    assert OK == driver.kubelet.publish(volume).code
    assert OK == driver.kubelet.unpublish(volume).code


def _has_served(registry: FakeRegistry, size: int) -> bool:
    return registry.bytes_served.total() >= size
