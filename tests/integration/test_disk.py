"""A root_dir on a small filesystem: what does not fit is refused before it is fetched, and nothing else suffers."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Format, Model, promised, push, random_files, shown

OK = grpc.StatusCode.OK
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
_DISK_BYTES = 128 * MIB


@pytest.fixture
def driver(make_driver: MakeDriver) -> Iterator[Driver]:
    """A driver with a disk of 128 MiB."""
    small = make_driver(starts=False)
    small.root_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", small.root_dir], check=True)
    small.start()
    yield small
    small.kill()
    for mount in small.mounts():
        subprocess.run(["umount", "--lazy", mount.mount_point], check=True)
    subprocess.run(["umount", small.root_dir], check=True)


@pytest.fixture
def make_model(registry: FakeRegistry) -> Callable[..., Model]:
    """Models of a size in MiB."""

    def make(name: str, size: int, packed: Format = Format.RAW) -> Model:
        return push(registry.content, f"disk/{name}", random_files(name, size * MIB), packed)

    return make


def fill(driver: Driver, leave_bytes: int) -> Path:
    """Let somebody else take the disk but for some bytes, also while the driver writes; the file that does."""
    ballast = driver.root_dir / "somebody-elses"
    with ballast.open("wb") as file:
        for _ in range(100):
            taken = os.fstat(file.fileno()).st_blocks * 512
            try:
                os.posix_fallocate(file.fileno(), 0, taken + max(1, free_bytes(driver) - leave_bytes))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return ballast
    raise AssertionError("the driver was always faster")


def free_bytes(driver: Driver) -> int:
    """What the disk has left."""
    status = os.statvfs(driver.root_dir)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_model_larger_than_the_disk(
    driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model], packed: Format
) -> None:
    """RESOURCE_EXHAUSTED naming need and free space, without a byte of it fetched; other models stay as they are."""
    small, large = make_model("small", 8), make_model("large", 160, packed)
    volumes = [model.volume(registry.host, model.repository[5:]) for model in (small, large)]
    codes = [OK, FULL]
    answers = [driver.kubelet.publish(volume) for volume in volumes]

    assert codes == [answer.code for answer in answers]
    assert large.at(registry.host) in answers[1].text
    numbers = [int(number) for number in re.findall(r"(\d{7,}) ", answers[1].text)]
    assert large.size_bytes == numbers[0]
    assert 80 * MIB < numbers[1] < _DISK_BYTES
    assert 0 == registry.bytes_served[str(large.layers[0])]
    assert promised(small.files) == shown(driver.kubelet.target(volumes[0]))
    assert OK == driver.kubelet.unpublish(volumes[1]).code
    assert OK == driver.kubelet.publish(volumes[0]).code


def test_eviction_makes_room(driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model]) -> None:
    """What no pod uses goes, least recently used first, and only as much as is needed; what a pod uses stays."""
    models = {name: make_model(name, 30) for name in ("used", "old", "young", "new", "last")}
    volumes = {name: model.volume(registry.host, name) for name, model in models.items()}
    for name in ("used", "old", "young"):
        driver.kubelet.publish(volumes[name])
    for name in ("old", "young"):
        driver.kubelet.unpublish(volumes[name])
    new = driver.kubelet.publish(volumes["new"])
    kept = {item["reference"] for item in driver.ask("cache", "ls")["artifacts"]}
    driver.kubelet.publish(volumes["young"])
    last = driver.kubelet.publish(volumes["last"])

    assert (OK, "") == (new.code, new.text)
    assert {models[name].at(registry.host) for name in ("used", "young", "new")} == kept
    assert FULL == last.code
    assert promised(models["used"].files) == shown(driver.kubelet.target(volumes["used"]))
    driver.kubelet.unpublish(volumes["new"])
    assert OK == driver.kubelet.set_up(volumes["last"])[-1].code


def test_prune_makes_room_by_hand(driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model]) -> None:
    """`cache prune` frees what no pod uses, and the disk shows it."""
    model = make_model("pruned", 40)
    volume = model.volume(registry.host, "pruned")
    driver.kubelet.publish(volume)
    nothing = driver.ask("cache", "prune")
    driver.kubelet.unpublish(volume)
    before = free_bytes(driver)
    pruned = driver.ask("cache", "prune")
    after = free_bytes(driver)

    assert 0 == nothing["freed_bytes"]
    assert 40 * MIB <= pruned["freed_bytes"] <= 41 * MIB
    assert after - before > 39 * MIB
    assert [] == driver.ask("cache", "ls")["artifacts"]


def test_two_pulls_do_not_count_the_same_space(
    driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model]
) -> None:
    """Each of two models fits alone: the second is refused while the first is being pulled, the first arrives."""
    registry.faults.bytes_per_second = 60 * MIB
    first, second = make_model("first", 70), make_model("second", 70)
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(driver.kubelet.publish, first.volume(registry.host, "first"))
        eventually(lambda: registry.bytes_served.total() > 0, "the first pull runs")
        refused = driver.kubelet.publish(second.volume(registry.host, "second"))
        arrived = publish.result()

    assert [FULL, OK] == [refused.code, arrived.code]
    assert 0 == registry.bytes_served[str(second.layers[0])]


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_disk_fills_up_in_mid_pull(
    driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model], packed: Format
) -> None:
    """Somebody else takes the space: a non-final answer, or the model; with space again, the model, resumed."""
    small = make_model("mounted", 2)
    driver.kubelet.publish(small.volume(registry.host, "mounted"))
    registry.faults.bytes_per_second = 30 * MIB
    model = make_model("filled", 40, packed)
    volume = model.volume(registry.host, "filled")
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(driver.kubelet.publish, volume)
        eventually(lambda: registry.bytes_served[str(model.layers[0])] > 5 * MIB, "a part of it came")
        ballast = fill(driver, leave_bytes=0)
        answer = publish.result()
    ballast.unlink()
    again = driver.kubelet.set_up(volume, within_seconds=30)

    assert answer.code in {OK, FULL}, answer.text
    assert OK == again[-1].code
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert promised(small.files) == shown(driver.kubelet.target(small.volume(registry.host, "mounted")))
    assert [] == driver.bugs()


def test_disk_without_a_free_byte(driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model]) -> None:
    """Unpublish works, repeated and cached publishes do or ask for patience, and a new model is RESOURCE_EXHAUSTED."""
    cached, fresh = make_model("cached", 8), make_model("fresh", 8)
    volumes = [cached.volume(registry.host, f"cached-{number}") for number in range(3)]
    assert [OK, OK] == [driver.kubelet.publish(volume).code for volume in volumes[:2]]
    ballast = fill(driver, leave_bytes=0)
    repeated = driver.kubelet.publish(volumes[0])
    refused = driver.kubelet.publish(fresh.volume(registry.host, "fresh"))
    third = driver.kubelet.publish(volumes[2])
    gone = [driver.kubelet.unpublish(volume) for volume in volumes[:2]]
    status = driver.run("status", "--config", driver.config_file)
    ballast.unlink()

    assert [OK, OK] == [answer.code for answer in gone], gone
    assert OK == repeated.code, repeated.text
    assert FULL == refused.code, refused.text
    assert third.code in {OK, FULL}, third.text
    assert 0 == status.returncode, status.stderr
    assert [] == driver.bugs()
    assert OK == driver.kubelet.set_up(fresh.volume(registry.host, "fresh"))[-1].code


def test_start_on_a_full_disk(driver: Driver, registry: FakeRegistry, make_model: Callable[..., Model]) -> None:
    """A driver whose disk was filled while it was dead starts, and its volumes can be unpublished."""
    model = make_model("before", 8)
    volume = model.volume(registry.host, "before")
    driver.kubelet.publish(volume)
    driver.kill()
    ballast = fill(driver, leave_bytes=0)
    driver.start()
    answers = [driver.kubelet.publish(volume), driver.kubelet.unpublish(volume)]
    ballast.unlink()

    assert [OK, OK] == [answer.code for answer in answers], answers


def test_configured_limit(make_driver: MakeDriver, registry: FakeRegistry, make_model: Callable[..., Model]) -> None:
    """`features.disk_usage_limit` counts as the size of the disk: eviction below it, RESOURCE_EXHAUSTED above."""
    driver = make_driver({"features": {"disk_usage_limit": "50MiB"}})
    models = [make_model(f"limited-{number}", 30) for number in range(2)]
    volumes = [model.volume(registry.host, model.repository[5:]) for model in models]
    codes = [driver.kubelet.publish(volume).code for volume in volumes]
    driver.kubelet.unpublish(volumes[0])
    codes.append(driver.kubelet.set_up(volumes[1])[-1].code)

    assert [OK, FULL, OK] == codes
    assert [models[1].at(registry.host)] == [item["reference"] for item in driver.ask("cache", "ls")["artifacts"]]
