"""kill -9 at random moments of publishes, unpublishes, pulls, prunes and starts: nothing wrong is ever shown, nothing leaks."""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from modelcsi.api.client import call_control
from modelcsi.errors import ModelCsiError
from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver
from tests.integration.models import MIB, Format, Model, promised, push, random_bytes, random_files, shown

_ROUNDS = 15
_WORKERS = 4
_VOLUMES_EACH = 2
_MAX_LIFE_SECONDS = 0.8


class Worker:
    """A thread that publishes and unpublishes its own volumes, as kubelet's volume manager does: one call a volume."""

    def __init__(self, driver: Driver, volumes: list[tuple[PodVolume, Model]], seed: str) -> None:
        self.volumes = volumes
        self.mounted: dict[str, bool | None] = {volume.volume_id: False for volume, _ in volumes}
        """What the last answers said; None: the last one left it open."""
        self._driver = driver
        self._random = random.Random(seed)  # noqa: S311 - not a secret

    def run(self, ended: threading.Event) -> None:
        """Until told; calls to a dead driver fail, and are part of it."""
        kubelet = self._driver.kubelet
        while not ended.is_set():
            volume, _ = self._random.choice(self.volumes)
            if self._random.random() < 0.6:
                answer = kubelet.publish(volume, timeout=self._random.choice([0.3, 2, 20]))
                self.mounted[volume.volume_id] = True if answer.is_ok else None
            elif kubelet.remembers(volume):
                answer = kubelet.unpublish(volume, timeout=20)
                self.mounted[volume.volume_id] = False if answer.is_ok else None
            else:
                with suppress(ModelCsiError):
                    call_control(self._driver.root_dir, "POST", "/v1/cache/prune", {})


@contextmanager
def working(workers: list[Worker]) -> Iterator[None]:
    """All of them work during the block, and finish their last call after it."""
    ended = threading.Event()
    threads = [threading.Thread(target=worker.run, args=(ended,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def assert_sound(driver: Driver, workers: list[Worker]) -> None:
    """Each mount is wanted, complete and right; each volume that was answered OK is there, or gone, as answered."""
    mounts = [mount.mount_point for mount in driver.mounts()]
    assert sorted(set(mounts)) == sorted(mounts)
    for worker in workers:
        for volume, model in worker.volumes:
            target = driver.kubelet.target(volume)
            is_mounted = str(target) in mounts
            assert worker.mounted[volume.volume_id] in {is_mounted, None}, f"{target}: {worker.mounted}"
            assert driver.kubelet.remembers(volume) or not is_mounted, f"{target} leaked"
            if is_mounted:
                assert promised(model.files) == shown(target)


def models_of(registry: FakeRegistry) -> list[Model]:
    """Each format once, and one that shares its big file with another."""
    shared = random_files("shared", 3 * MIB, 2 * MIB)
    models = [
        push(registry.content, f"random/{packed.name.lower()}", random_files(packed, 3 * MIB, 100_000), packed)
        for packed in (Format.TAR, Format.TAR_GZIP, Format.TAR_ZSTD)
    ]
    changed = {**shared, "tokenizer/vocab.txt": random_bytes("changed", 500)}
    models.append(push(registry.content, "random/raw", shared))
    models.append(push(registry.content, "random/raw", changed, tag="v2"))
    return models


def wish(chance: random.Random, model: Model, host: str, pod: str) -> tuple[PodVolume, Model]:
    """A volume of a model, or of a part of it, and the model as that volume shows it."""
    if chance.random() < 0.6:
        return model.volume(host, pod), model
    suffix = chance.choice([".txt", "0.safetensors"])
    part = {path: data for path, data in model.files.items() if not path.endswith(suffix)}
    return model.volume(host, pod, excludeFilePatterns=f'["*{suffix}"]'), replace(model, files=part)


def files_below(*directories: Path) -> list[str]:
    """Every file that is left."""
    return [str(path) for directory in directories for path in directory.rglob("*") if path.is_file()]


@pytest.mark.timeout(180)
def test_kills_at_random_moments(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """After each restart every mounted volume is right and no mount is leaked; at the end everything can be removed."""
    seed = os.environ.get("RANDOM_KILLS_SEED") or str(secrets.randbits(32))
    print(f"RANDOM_KILLS_SEED={seed}")  # noqa: T201 - shown when the test fails, to run it again
    chance = random.Random(seed)  # noqa: S311 - not a secret
    registry.faults.bytes_per_second = 20_000_000
    models = models_of(registry)
    driver = make_driver()
    workers = [
        Worker(
            driver,
            [wish(chance, chance.choice(models), registry.host, f"pod-{number}-{own}") for own in range(_VOLUMES_EACH)],
            f"{seed}-{number}",
        )
        for number in range(_WORKERS)
    ]
    for _ in range(_ROUNDS):
        with working(workers):
            threading.Event().wait(chance.random() * _MAX_LIFE_SECONDS)
            driver.kill()
        if chance.random() < 0.3:
            driver.spawn()
            threading.Event().wait(chance.random() * 0.3)
            driver.kill()
        assert_sound(driver, workers)
        driver.start()
        assert_sound(driver, workers)
        published = {item["target"] for item in driver.ask("status")["publications"] if item["state"] == "MOUNTED"}
        assert {mount.mount_point for mount in driver.mounts()} == published
    for volume, model in [item for worker in workers for item in worker.volumes]:
        assert driver.kubelet.set_up(volume)[-1].is_ok
        assert promised(model.files) == shown(driver.kubelet.target(volume))
    verified = driver.ask("cache", "verify")
    for volume, _ in [item for worker in workers for item in worker.volumes]:
        driver.kubelet.tear_down(volume)
    driver.ask("cache", "prune")

    assert [] == verified["damages"]
    assert [] == driver.mounts()
    assert [] == driver.bugs()
    root = driver.root_dir
    assert [] == files_below(root / "content", root / "views", root / "ingest", root / "trash", driver.kubelet.root)
