"""A node that ran the upstream driver: its command line, its volumes and what it left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import PROGRAM, Driver
from tests.integration.models import promised, push, random_files, shown


@pytest.fixture
def upstreams(make_driver: MakeDriver) -> Driver:
    """Our driver, started by the upstream chart's command line and environment, with all keys of its config.yaml."""
    driver = make_driver(
        {
            "external_csi_endpoint": "tcp://127.0.0.1:5243",
            "external_csi_authorization": "secret_token",
            "dynamic_csi_endpoint": "unix:///tmp/model-csi/dynamic/csi.sock",
            "trace_endpoint": None,
            "pprof_addr": "tcp://localhost:5245",
            "features": {"check_disk_quota": True, "disk_usage_limit": "10TiB"},
        },
        starts=False,
    )
    driver.program = PROGRAM.with_name("model-csi-driver")
    driver.arguments = ()
    driver.environment |= {"X_CSI_MODE": "node", "POD_IP": "127.0.0.1"}
    return driver


def leave_volume(driver: Driver, volume: PodVolume, *, is_mounted: bool) -> Path:
    """A volume as the upstream driver leaves it: a copy of the model, writable and bind-mounted at the target."""
    copy = driver.root_dir / "volumes" / volume.volume_id
    (copy / "model").mkdir(parents=True)
    (copy / "model" / "weights.safetensors").write_bytes(b"weights")
    (copy / "status.json").write_text('{"volume_name": "x", "reference": "r/m:v1", "state": "PULL_SUCCEEDED"}')
    target = driver.kubelet.target(volume)
    target.mkdir(parents=True)
    if is_mounted:
        subprocess.run(["mount", "--bind", copy / "model", target], check=True)
    return copy


def test_running_pods_keep_their_volumes_and_new_ones_get_ours(upstreams: Driver, registry: FakeRegistry) -> None:
    """After the image was changed an old volume is readable, its pod can go, and its copy goes with it."""
    model = push(registry.content, "models/tiny", random_files("upstream", 1000))
    old = PodVolume("old", {})
    upstreams.root_dir.mkdir(exist_ok=True)
    copy = leave_volume(upstreams, old, is_mounted=True)
    target = upstreams.kubelet.target(old)
    upstreams.start()
    read_by_old_pod = (target / "weights.safetensors").read_bytes()
    new = PodVolume("new", {"model.csi.modelpack.org/reference": model.at(registry.host)})
    published = upstreams.kubelet.publish(new)
    unpublished = upstreams.kubelet.unpublish(old)

    assert read_by_old_pod == b"weights"
    assert published.is_ok, published.text
    assert promised(model.files) == shown(upstreams.kubelet.target(new))
    assert unpublished.is_ok, unpublished.text
    assert not target.exists()
    assert not copy.exists()


def test_a_copy_that_another_target_shows_stays(upstreams: Driver) -> None:
    """The upstream driver could show one copy to two pods; the first that goes takes nothing from the other."""
    upstreams.root_dir.mkdir(exist_ok=True)
    first = PodVolume("first", {}, handle="shared")
    copy = leave_volume(upstreams, first, is_mounted=True)
    second = PodVolume("second", {}, handle="shared")
    upstreams.kubelet.target(second).mkdir(parents=True)
    subprocess.run(["mount", "--bind", copy / "model", upstreams.kubelet.target(second)], check=True)
    upstreams.start()
    codes = [upstreams.kubelet.unpublish(first).is_ok]
    is_kept = (upstreams.kubelet.target(second) / "weights.safetensors").read_bytes() == b"weights"
    codes.append(upstreams.kubelet.unpublish(second).is_ok)

    assert [True, True] == codes
    assert is_kept
    assert not copy.exists()


@pytest.mark.parametrize("attributes", [{"model.csi.modelpack.org/reference": "registry.invalid/gone:v1"}, {}])
def test_kubelet_publishes_an_old_volume_again(upstreams: Driver, attributes: dict[str, str]) -> None:
    """What kubelet publishes again stays mounted as it is, also a volume of the upstream driver and a dynamic one that was switched off.

    As it does when it starts: without a request, also of a model that no registry has any more.
    """
    old = PodVolume("old", attributes)
    upstreams.root_dir.mkdir(exist_ok=True)
    copy = leave_volume(upstreams, old, is_mounted=True)
    upstreams.start()
    published = upstreams.kubelet.publish(old)
    target = upstreams.kubelet.target(old)
    kept = (target / "weights.safetensors").read_bytes()
    upstreams.kubelet.unpublish(old)

    assert published.is_ok, published.text
    assert (b"weights", False, False) == (kept, target.exists(), copy.exists())
