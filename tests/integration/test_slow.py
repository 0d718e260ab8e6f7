"""A pull that takes longer than the calls that ask for it."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.fakes.kubelet import NON_FINAL, PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Format, promised, push, random_files, shown
from tests.integration.wire import Wire

_RATE = 2_000_000
_SIZE = 24_000_000


def test_model_mounts_after_several_short_calls(driver: Driver, registry: FakeRegistry) -> None:
    """2 MB/s, 24 MB, 6 s a call: every answer but the last is not final and tells the percentage; one download."""
    driver.kubelet.pace = 1.0
    model = push(registry.content, "slow/kubelet", random_files("kubelet", _SIZE))
    port = int(registry.host.rpartition(":")[2])
    with Wire(port) as wire:
        wire.bytes_per_second = _RATE
        volume = model.volume(wire.host, "slow")
        began = time.monotonic()
        *pending, last = driver.kubelet.set_up(volume, within_seconds=35, timeout=6)
        seconds = time.monotonic() - began
        delivered = wire.delivered_bytes
    driver.kubelet.pace = 0.2

    assert grpc.StatusCode.OK == last.code
    assert seconds < 35
    assert len(pending) >= 2
    assert {grpc.StatusCode.ABORTED} == {answer.code for answer in pending} & NON_FINAL
    percents = [int(found[1]) for answer in pending if (found := re.search(r"(\d+)%", answer.text))]
    assert len(pending) == len(percents)
    assert sorted(set(percents)) == percents
    assert all(model.at(wire.host) in answer.text for answer in pending)
    assert max(answer.seconds for answer in pending) < 6
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert delivered < 1.02 * _SIZE


def test_status_tells_how_far_a_pull_is(driver: Driver, registry: FakeRegistry) -> None:
    """`modelcsi status` shows bytes, rate and who waits while a call waits; nothing is left of it afterwards."""
    registry.faults.bytes_per_second = 8_000_000
    model = push(registry.content, "slow/status", random_files("status", 12_000_000))
    volume = model.volume(registry.host, "status")
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(driver.kubelet.publish, volume)
        eventually(lambda: registry.bytes_served[str(model.layers[0])] > 4_000_000, "half of it came")
        running = driver.ask("status")
        text = driver.run("status", "--config", driver.config_file).stdout
        assert grpc.StatusCode.OK == publish.result().code

    (pull,) = running["pulls"]
    assert (model.at(registry.host), str(model.digest), 1) == (pull["reference"], pull["digest"], pull["waiting"])
    assert 0 < pull["done_bytes"] < pull["total_bytes"]
    assert pull["bytes_per_second"] > 0
    assert "MiB/s" in text
    assert [("PENDING", str(volume.volume_id))] == [
        (item["state"], item["volume_id"]) for item in running["publications"] if item["volume_id"] == volume.volume_id
    ]
    assert [] == driver.ask("status")["pulls"]


def test_unpublish_ends_the_wait_and_the_pull(driver: Driver, registry: FakeRegistry) -> None:
    """The pod is deleted while its publish waits: both calls are answered soon, and nobody pulls on."""
    registry.faults.bytes_per_second = 1_000_000
    model = push(registry.content, "slow/deleted", random_files("deleted", 30_000_000))
    volume = model.volume(registry.host, "deleted")
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(driver.kubelet.publish, volume)
        eventually(lambda: registry.bytes_served[str(model.layers[0])] > 0, "the pull runs")
        gone = driver.kubelet.unpublish(volume)
        answer = publish.result()

    assert grpc.StatusCode.OK == gone.code
    assert gone.seconds < 2
    assert answer.code in NON_FINAL
    assert not driver.kubelet.target(volume).exists()
    eventually(lambda: not driver.ask("status")["pulls"], "the job stops", seconds=5)
    assert volume.volume_id not in str(driver.ask("status"))


def test_unpublish_ends_the_wait_for_a_silent_registry(driver: Driver, registry: FakeRegistry) -> None:
    """The same while not even the manifest has come: a pod is not kept Terminating by a registry that does not answer."""
    with Wire(int(registry.host.rpartition(":")[2])) as wire, ThreadPoolExecutor(1) as pool:
        wire.is_silent = True
        volume = PodVolume("silent", {"modelRef": f"{wire.host}/slow/silent:v1"})
        publish = pool.submit(driver.kubelet.publish, volume, 40)
        eventually(lambda: volume.volume_id in str(driver.ask("status")), "the call is under way")
        gone = driver.kubelet.unpublish(volume)
        wire.cut()
        answer = publish.result()

    assert grpc.StatusCode.OK == gone.code, gone.text
    assert gone.seconds < 2
    assert answer.code in NON_FINAL


def test_second_pod_keeps_the_pull_of_the_first(driver: Driver, registry: FakeRegistry) -> None:
    """One of two waiting pods is deleted: the download goes on for the other, once."""
    registry.faults.bytes_per_second = 4_000_000
    model = push(registry.content, "slow/two", random_files("two", 8_000_000))
    first, second = (model.volume(registry.host, f"two-{number}") for number in (1, 2))
    with ThreadPoolExecutor(2) as pool:
        gone = pool.submit(driver.kubelet.publish, first)
        stays = pool.submit(driver.kubelet.publish, second)
        eventually(lambda: driver.ask("status")["pulls"][0:1] and driver.ask("status")["pulls"][0]["waiting"] == 2, "")
        assert grpc.StatusCode.OK == driver.kubelet.unpublish(first).code

        assert gone.result().code in NON_FINAL
        assert grpc.StatusCode.OK == stays.result().code
    assert promised(model.files) == shown(driver.kubelet.target(second))
    assert 1 == registry.blob_gets[str(model.layers[0])]


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_publish_given_up_by_its_caller_is_joined(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """The caller's deadline ends in the middle of a pull: the next call joins the same download."""
    registry.faults.bytes_per_second = 4_000_000
    model = push(registry.content, f"slow/{packed.name.lower()}", random_files(packed, 6 * MIB), packed)
    volume = model.volume(registry.host, f"joined-{packed.name}")
    answers = driver.kubelet.set_up(volume, within_seconds=30, timeout=1)

    assert grpc.StatusCode.OK == answers[-1].code
    assert {grpc.StatusCode.ABORTED} == {answer.code for answer in answers[:-1]}
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert [1] * len(model.layers) == [registry.blob_gets[str(layer)] for layer in model.layers]
