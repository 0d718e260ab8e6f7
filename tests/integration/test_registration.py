"""A driver that registers itself with kubelet, and stays reachable whatever is done to its sockets."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.plugin_watcher import PluginWatcher
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import SERVICE_NAME, Driver, eventually
from tests.integration.models import MIB, promised, push, random_files, shown
from tests.integration.test_operator import page

REGISTERED = f"registered {SERVICE_NAME}"
DEREGISTERED = f"deregistered {SERVICE_NAME}"


def places(driver: Driver) -> dict[str, str]:
    """The configuration of a driver that registers itself, at the sockets and with the store of this one."""
    return {
        "csi_endpoint": f"unix://{driver.socket}",
        "root_dir": str(driver.root_dir),
        "kubelet_registration_path": str(driver.socket),
        "kubelet_registration_dir": str(driver.directory / "plugins_registry"),
    }


@pytest.fixture
def driver(make_driver: MakeDriver) -> Driver:
    """Told where kubelet sees its socket, and not started yet."""
    driver = make_driver(starts=False)
    driver.write_config(places(driver))
    (driver.directory / "plugins_registry").mkdir()
    return driver


@pytest.fixture
def kubelet(driver: Driver) -> Iterator[PluginWatcher]:
    """What watches for it."""
    with PluginWatcher(driver.directory / "plugins_registry") as watcher:
        yield watcher


def has_open(driver: Driver, path: Path) -> bool:
    """Whether the process has a descriptor of this file."""
    for descriptor in Path(f"/proc/{driver.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if os.readlink(descriptor) == str(path):
                return True
    return False


def test_from_start_to_end(driver: Driver, kubelet: PluginWatcher) -> None:
    """Registered when it starts, ready from then on, deregistered when it ends, and nothing is left."""
    driver.start()
    kubelet.wait_for_event(REGISTERED)
    status, _ = page(driver, "/readyz")
    registration = driver.ask("status")["registration"]
    driver.stop()
    kubelet.wait_for_event(DEREGISTERED)

    assert {SERVICE_NAME: "test-node"} == kubelet.node_ids
    assert (200, "registered") == (status, registration)
    assert [] == list((driver.directory / "plugins_registry").iterdir())
    assert [] == driver.bugs()


def test_before_kubelet_came(driver: Driver) -> None:
    """It serves, it is not ready, and it says for what it waits; that is no error."""
    driver.start()
    status, text = page(driver, "/readyz")
    with PluginWatcher(driver.directory / "plugins_registry") as kubelet:
        kubelet.wait_for_event(REGISTERED)
        status_then, _ = page(driver, "/readyz")

    assert (503, 200) == (status, status_then)
    assert "registration: waiting for kubelet" in text


def test_a_killed_driver_comes_back(driver: Driver, kubelet: PluginWatcher) -> None:
    """The sockets of the dead are replaced, and kubelet takes the new one."""
    driver.start()
    kubelet.wait_for_event(REGISTERED)
    driver.kill()
    driver.start()
    kubelet.wait_for_event(REGISTERED, times=2)

    assert [REGISTERED, DEREGISTERED, REGISTERED] == kubelet.events


def test_a_successor_that_overlaps(driver: Driver, kubelet: PluginWatcher, make_driver: MakeDriver) -> None:
    """A rolling update that starts the new one first: it waits for the store, then takes over both sockets."""
    driver.start()
    kubelet.wait_for_event(REGISTERED)
    successor = make_driver(places(driver), starts=False)
    successor.spawn()
    eventually(lambda: has_open(successor, driver.root_dir / "lock"), "it waits for the store")
    driver.stop()
    kubelet.wait_for_event(REGISTERED, times=2)
    answer = driver.kubelet.probe()

    assert [REGISTERED, DEREGISTERED, REGISTERED] == kubelet.events
    assert answer.is_ok
    assert successor.is_running


def test_both_directories_are_removed(driver: Driver, kubelet: PluginWatcher, registry: FakeRegistry) -> None:
    """Somebody cleans up kubelet's directories: what is mounted stays, and soon new volumes are published again."""
    model = push(registry.content, "registration/wiped", random_files("wiped", MIB))
    before, after = model.volume(registry.host, "before"), model.volume(registry.host, "after")
    driver.start()
    kubelet.wait_for_event(REGISTERED)
    assert driver.kubelet.publish(before).is_ok
    shutil.rmtree(driver.socket.parent)
    shutil.rmtree(driver.directory / "plugins_registry")
    kubelet.wait_for_event(DEREGISTERED)
    (driver.directory / "plugins_registry").mkdir()
    began = time.monotonic()
    kubelet.wait_for_event(REGISTERED, times=2)
    seconds = time.monotonic() - began
    eventually(lambda: driver.kubelet.probe().is_ok, "the CSI socket answers")
    answer = driver.kubelet.publish(after)

    assert answer.is_ok, answer.text
    assert promised(model.files) == shown(driver.kubelet.target(before)) == shown(driver.kubelet.target(after))
    assert seconds < 5
    assert [] == driver.bugs()
