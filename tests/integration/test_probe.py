"""Calls that never wait are answered at once, and cached models are mounted, however many publishes wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from modelcsi.csi.pb import csi_pb2
from tests.fakes.kubelet import NON_FINAL, Answer, PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.driver import Driver, eventually, running_driver
from tests.integration.models import MIB, promised, push, random_files, shown
from tests.integration.wire import Wire

_SLOTS = 4
_QUICK_SECONDS = 0.25


@pytest.fixture(scope="module")
def driver(as_root: None) -> Iterator[Driver]:
    """A driver with few slots."""
    with running_driver({"publish_slots": _SLOTS}) as running:
        yield running


def quick_calls(driver: Driver, volume: PodVolume) -> list[Answer]:
    """What kubelet and the liveness probe ask all the time."""
    kubelet = driver.kubelet
    return [
        kubelet.probe(),
        kubelet.call("Node", "NodeGetCapabilities", csi_pb2.NodeGetCapabilitiesRequest()),
        kubelet.call("Node", "NodeGetInfo", csi_pb2.NodeGetInfoRequest()),
        kubelet.call("Identity", "GetPluginInfo", csi_pb2.GetPluginInfoRequest()),
        kubelet.stats(volume),
    ]


def test_every_slot_waits_for_a_pull(driver: Driver, registry: FakeRegistry) -> None:
    """Probe, capabilities and stats take milliseconds; a cached model mounts, and the oldest waiting publish makes way."""
    cached = push(registry.content, "probe/cached", random_files("cached", MIB))
    first = cached.volume(registry.host, "cached-1")
    assert driver.kubelet.publish(first).is_ok
    registry.faults.bytes_per_second = MIB
    slow = [push(registry.content, f"probe/slow-{number}", random_files(number, 6 * MIB)) for number in range(_SLOTS)]
    with ThreadPoolExecutor(_SLOTS) as pool:
        waiting = []
        for model in slow:
            waiting.append(pool.submit(driver.kubelet.publish, model.volume(registry.host, model.repository[6:])))
            eventually(lambda model=model: registry.blob_gets[str(model.layers[0])], "it is being pulled")  # type: ignore[misc]
        answers = quick_calls(driver, first)
        second = driver.kubelet.publish(cached.volume(registry.host, "cached-2"))
        again = driver.kubelet.publish(first)
        oldest = waiting[0].result()
        registry.faults.bytes_per_second = 0
        others = [publish.result() for publish in waiting[1:]]
        done = driver.kubelet.set_up(slow[0].volume(registry.host, "slow-0"))

    assert [True] * len(answers) == [answer.is_ok for answer in answers]
    assert max(answer.seconds for answer in answers) < _QUICK_SECONDS
    assert [grpc.StatusCode.OK] * 2 == [second.code, again.code], second.text
    assert second.seconds < 1
    assert grpc.StatusCode.ABORTED == oldest.code
    assert "%" in oldest.text
    assert {True, False} >= {answer.is_ok for answer in others}
    assert {answer.code for answer in others if not answer.is_ok} <= NON_FINAL
    assert done[-1].is_ok


def test_every_slot_waits_for_a_silent_registry(driver: Driver, registry: FakeRegistry) -> None:
    """Nothing is known of those models yet, not even a manifest: a cached one is mounted all the same."""
    cached = push(registry.content, "probe/silent", random_files("silent", MIB))
    assert driver.kubelet.publish(cached.volume(registry.host, "silent-1")).is_ok
    with Wire(int(registry.host.rpartition(":")[2])) as wire, ThreadPoolExecutor(_SLOTS) as pool:
        wire.is_silent = True
        volumes = [
            PodVolume(f"stuck-{number}", {"modelRef": f"{wire.host}/probe/silent:v1"}) for number in range(_SLOTS)
        ]
        waiting = [pool.submit(driver.kubelet.publish, volume, 8) for volume in volumes]
        eventually(lambda: str(driver.ask("status")).count("stuck-") >= _SLOTS, "all slots are taken")
        answers = quick_calls(driver, cached.volume(registry.host, "silent-1"))
        second = driver.kubelet.publish(cached.volume(registry.host, "silent-2"))
        codes = {publish.result().code for publish in waiting}

    assert [True] * len(answers) == [answer.is_ok for answer in answers]
    assert max(answer.seconds for answer in answers) < _QUICK_SECONDS
    assert codes <= NON_FINAL
    assert grpc.StatusCode.OK == second.code, second.text


def test_many_more_pods_than_slots(driver: Driver, registry: FakeRegistry) -> None:
    """Thirty pods of one new model: no final error, all are mounted in the end, and the model came once."""
    registry.faults.bytes_per_second = 6 * MIB
    model = push(registry.content, "probe/many", random_files("many", 12 * MIB))
    volumes = [model.volume(registry.host, f"many-{number}") for number in range(30)]
    began = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(driver.kubelet.set_up, volumes))

    assert all(attempts[-1].is_ok for attempts in answers)
    assert {answer.code for attempts in answers for answer in attempts[:-1]} <= NON_FINAL
    assert time.monotonic() - began < 30
    assert [1] * len(model.layers) == [registry.blob_gets[str(layer)] for layer in model.layers]
    assert promised(model.files) == shown(driver.kubelet.target(volumes[-1]))
