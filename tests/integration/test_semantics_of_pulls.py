"""What a pod may rely on, second part: pull policy, waiting, errors, space, unpublish, restart.

Each docstring quotes a sentence of docs/semantics.md; tests/unit/test_semantics_doc.py finds those that no test quotes.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import grpc
import pytest

from modelcsi.mount.table import mounts_at, read_mount_table
from tests.fakes.kubelet import Answer, PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Format, promised, push, random_files, shown
from tests.integration.publishing import published

Code = grpc.StatusCode


def asked(driver: Driver, volume: PodVolume) -> Answer:
    """A publish without what kubelet cleans up after it: what is left is what the driver left."""
    target = driver.kubelet.target(volume)
    target.parent.mkdir(parents=True, exist_ok=True)
    return driver.kubelet.call("Node", "NodePublishVolume", volume.publish_request(target))


def is_left(driver: Driver, volume: PodVolume) -> bool:
    """Whether the driver left a mount, a directory or a record of the volume."""
    target = driver.kubelet.target(volume)
    records = [item["volume_id"] for item in driver.ask("status")["publications"]]
    return bool(mounts_at(read_mount_table(), str(target))) or target.exists() or volume.volume_id in records


def test_if_not_present(driver: Driver, registry: FakeRegistry) -> None:
    """With `IfNotPresent`, a model that is on the node and proven for the pod's credentials is mounted without a request."""
    model = push(registry.content, "models/present", random_files("present", 1000))
    published(driver, model.volume(registry.host, "present-1", pullPolicy="IfNotPresent"))
    requests = len(registry.seen)
    published(driver, model.volume(registry.host, "present-2", pullPolicy="IfNotPresent"))

    assert requests == len(registry.seen)


def test_always(driver: Driver, registry: FakeRegistry) -> None:
    """With `Always`, the registry is asked for each new volume, and a registry that does not answer means UNAVAILABLE."""
    model = push(registry.content, "models/always", random_files("always", 1000))
    published(driver, model.volume(registry.host, "always-1", pullPolicy="Always"))
    registry.faults.fail_next(503, times=100)
    answer = driver.kubelet.publish(model.volume(registry.host, "always-2", pullPolicy="Always"))

    assert (Code.UNAVAILABLE, True) == (answer.code, registry.host in answer.text)


def test_never(driver: Driver, registry: FakeRegistry) -> None:
    """With `Never`, nothing is downloaded, and a model that is not on the node is NOT_FOUND."""
    model = push(registry.content, "models/never", random_files("never", 1000))
    absent = driver.kubelet.publish(model.volume(registry.host, "never-1", pullPolicy="Never"))
    requests = len(registry.seen)
    published(driver, model.volume(registry.host, "never-2"))
    registry.faults.fail_next(503, times=100)
    target = published(driver, model.volume(registry.host, "never-3", pullPolicy="Never"))

    assert (Code.NOT_FOUND, 0) == (absent.code, requests)
    assert promised(model.files) == shown(target)


@pytest.mark.parametrize(("tag", "asks_again"), [("latest", True), ("v1", False)])
def test_default_policy(driver: Driver, registry: FakeRegistry, tag: str, asks_again: bool) -> None:
    """The default policy is `Always` for the tag `latest` and `IfNotPresent` for everything else."""
    model = push(registry.content, "models/default", random_files(("default", tag), 1000), tag=tag)
    published(driver, model.volume(registry.host, f"default-{tag}-1"))
    requests = len(registry.seen)
    published(driver, model.volume(registry.host, f"default-{tag}-2"))

    assert asks_again == (len(registry.seen) > requests)


def test_pull_outlives_the_call(driver: Driver, registry: FakeRegistry) -> None:
    """A pull outlives the call that asked for it: the call is answered ABORTED with the percentage, and the next one joins
    the pull.
    """
    model = push(registry.content, "models/outlives", random_files("outlives-call", 4 * MIB))
    volume = model.volume(registry.host, "outlives-call")
    registry.faults.stall_after_bytes = 2 * MIB
    first = driver.kubelet.publish(volume, timeout=1)
    registry.faults.resume.set()
    published(driver, volume)

    assert Code.ABORTED == first.code
    assert "%" in first.text
    assert {str(layer): 1 for layer in model.layers} == registry.blob_gets


@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR_GZIP], ids=lambda packed: packed.value)
def test_cut_connections(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """A connection that breaks is resumed where it broke, without an error."""
    model = push(registry.content, "models/cut", random_files(("cut", packed), 8 * MIB), packed)
    registry.faults.cut_every_bytes = 3_000_000
    answer = driver.kubelet.publish(model.volume(registry.host, f"cut-{packed.name}"))

    assert Code.OK == answer.code
    assert sum(registry.bytes_served.values()) <= 1.3 * model.size_bytes


@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR], ids=lambda packed: packed.value)
def test_killed_pull(make_driver: MakeDriver, registry: FakeRegistry, packed: Format) -> None:
    """A pull that was interrupted by the end of the driver goes on with what had been received."""
    driver = make_driver()
    model = push(registry.content, "models/killed", random_files(("killed", packed), 16 * MIB), packed)
    volume = model.volume(registry.host, "killed")
    registry.faults.bytes_per_second = 16_000_000
    waiting = threading.Thread(target=driver.kubelet.publish, args=(volume,))
    waiting.start()
    eventually(lambda: registry.bytes_served.total() > model.size_bytes // 2, "half is received")
    driver.kill()
    waiting.join()
    registry.faults.bytes_per_second = 0
    driver.start()

    assert promised(model.files) == shown(published(driver, volume))
    assert registry.bytes_served.total() <= 1.2 * model.size_bytes


def test_damage(driver: Driver, registry: FakeRegistry) -> None:
    """Content that does not match its digest is fetched three times, then the answer is DATA_LOSS, and nothing of it is
    visible.
    """
    model = push(registry.content, "models/damaged", random_files("damaged", 1000))
    digest = str(model.layers[0])
    registry.faults.flip_bit_of.add(digest)
    volume = model.volume(registry.host, "damaged")
    answer = asked(driver, volume)

    assert (Code.DATA_LOSS, True) == (answer.code, digest in answer.text)
    assert 3 == registry.blob_gets[digest]
    assert not is_left(driver, volume)


def test_final_answer_leaves_nothing(driver: Driver, registry: FakeRegistry) -> None:
    """After a final answer nothing of the volume is left on the node: no mount, no directory, no record."""
    volumes = [PodVolume("left-1", {"modelRef": f"{registry.host}/no/such:v1"}), PodVolume("left-2", {"modelref": "x"})]
    codes = [asked(driver, volume).code for volume in volumes]

    assert [Code.NOT_FOUND, Code.INVALID_ARGUMENT] == codes
    assert [False, False] == [is_left(driver, volume) for volume in volumes]


def test_unknown_attribute(driver: Driver) -> None:
    """An unknown attribute is refused with INVALID_ARGUMENT, and the answer names the nearest known one."""
    answer = driver.kubelet.publish(PodVolume("typo", {"modelRef": "host/model:v1", "pullPolcy": "Always"}))

    assert Code.INVALID_ARGUMENT == answer.code
    assert "pullPolicy" in answer.text


def test_other_attributes(driver: Driver, registry: FakeRegistry) -> None:
    """A publish at a target that shows the volume with other attributes is refused with ALREADY_EXISTS and changes
    nothing.
    """
    model = push(registry.content, "models/other", random_files("other", 1000))
    volume = model.volume(registry.host, "other")
    target = published(driver, volume)
    answer = asked(driver, replace(volume, attributes={**volume.attributes, "excludeModelWeights": "true"}))

    assert Code.ALREADY_EXISTS == answer.code
    assert promised(model.files) == shown(target)


@pytest.fixture
def small_driver(make_driver: MakeDriver) -> Driver:
    """A driver that may keep 12 MiB."""
    return make_driver({"features": {"disk_usage_limit": 12 * MIB}})


def test_too_big(small_driver: Driver, registry: FakeRegistry) -> None:
    """A model that does not fit is refused with RESOURCE_EXHAUSTED before its first byte is fetched, naming need and free
    space.
    """
    model = push(registry.content, "models/huge", random_files("huge", 13 * MIB))
    answer = small_driver.kubelet.publish(model.volume(registry.host, "huge"))

    assert Code.RESOURCE_EXHAUSTED == answer.code
    assert f"needs {model.size_bytes} bytes" in answer.text
    assert "free" in answer.text
    assert 0 == registry.blob_gets.total()


def test_eviction(small_driver: Driver, registry: FakeRegistry) -> None:
    """To make room, models that no volume uses are evicted, least recently used first; a model in use never is."""
    driver = small_driver
    models = [push(registry.content, f"models/m{n}", random_files(("evict", n), 3 * MIB)) for n in range(4)]
    volumes = [model.volume(registry.host, f"evict-{number}") for number, model in enumerate(models)]
    targets = [published(driver, volume) for volume in volumes[:3]]
    for number in (2, 1):
        driver.kubelet.unpublish(volumes[number])
    published(driver, replace(volumes[2], pod="evict-again"))
    driver.kubelet.unpublish(replace(volumes[2], pod="evict-again"))
    published(driver, volumes[3])
    kept = {artifact["reference"] for artifact in driver.ask("cache", "ls")["artifacts"]}

    assert {models[number].at(registry.host) for number in (0, 2, 3)} == kept
    assert promised(models[0].files) == shown(targets[0])


def test_unpublish_may_be_repeated(driver: Driver, registry: FakeRegistry) -> None:
    """Unpublish is OK for a volume that is not there, and may be repeated."""
    model = push(registry.content, "models/repeat", random_files("repeat", 1000))
    volume = model.volume(registry.host, "repeat")
    codes = [driver.kubelet.unpublish(volume).code]
    published(driver, volume)
    codes += [driver.kubelet.unpublish(volume).code for _ in range(2)]

    assert [Code.OK] * 3 == codes
    assert not is_left(driver, volume)


def test_open_files(driver: Driver, registry: FakeRegistry) -> None:
    """Unpublish takes the volume away at once; a process that has a file open reads on until it closes it."""
    model = push(registry.content, "models/open", random_files("open", 1000))
    volume = model.volume(registry.host, "open")
    with (published(driver, volume) / "tokenizer/vocab.txt").open("rb") as file:
        assert Code.OK == driver.kubelet.unpublish(volume).code

        assert not is_left(driver, volume)
        assert model.files["tokenizer/vocab.txt"] == file.read()


def test_two_targets(driver: Driver, registry: FakeRegistry) -> None:
    """Of a volume that is published at two targets, the unpublish of one leaves the other alone."""
    model = push(registry.content, "models/two", random_files("two", 1000))
    volumes = [replace(model.volume(registry.host, f"two-{number}"), handle="pv-two") for number in (1, 2)]
    targets = [published(driver, volume) for volume in volumes]
    driver.kubelet.unpublish(volumes[0])

    assert not targets[0].exists()
    assert promised(model.files) == shown(targets[1])


def test_lost_database(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Without its database the driver still unpublishes what is mounted, and does not store again what it has."""
    driver = make_driver()
    model = push(registry.content, "models/lost", random_files("lost", 1000))
    old, new = (model.volume(registry.host, f"lost-{age}") for age in ("old", "new"))
    file = published(driver, old) / "tokenizer/vocab.txt"
    inode = file.stat().st_ino
    driver.kill()
    for path in driver.root_dir.glob("state.db*"):
        path.unlink()
    driver.start()
    target = published(driver, new)

    assert inode == (target / "tokenizer/vocab.txt").stat().st_ino
    assert Code.OK == driver.kubelet.unpublish(old).code
    assert not is_left(driver, old)


def test_sigterm(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """SIGTERM ends the driver in under ten seconds."""
    driver = make_driver()
    registry.faults.stall_after_bytes = 10
    volume = push(registry.content, "models/waits", random_files("waits", 1000)).volume(registry.host, "waits")
    answers: list[Answer] = []
    waiting = threading.Thread(target=lambda: answers.append(driver.kubelet.publish(volume)))
    waiting.start()
    eventually(lambda: driver.ask("status")["pulls"], "the pull runs")
    seconds = driver.stop()
    waiting.join()

    assert seconds < 10
    assert [False] == [answer.is_final for answer in answers]
