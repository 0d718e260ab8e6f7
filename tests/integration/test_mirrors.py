"""Mirrors of hosts.toml on the CSI socket: who sends the bytes, who says who may have them, and what happens when one dies."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.fakes.content import FILE_PATH, RAW_WEIGHT
from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.integration.conftest import MakeDriver
from tests.integration.credentials import docker_secret
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, promised, push, push_layers, random_bytes, random_files, shown
from tests.integration.wire import Wire

Code = grpc.StatusCode


@dataclass(frozen=True)
class Mirrored:
    """A driver, a registry, and a mirror on a wire."""

    driver: Driver
    registry: FakeRegistry
    mirror: FakeRegistry
    wire: Wire


@pytest.fixture
def mirrored(make_driver: MakeDriver, registry: FakeRegistry, tmp_path: Path) -> Iterator[Mirrored]:
    """The mirror serves whatever is asked of it to everybody."""
    with FakeRegistry() as mirror, Wire(int(mirror.host.rpartition(":")[2])) as wire:
        directory = tmp_path / registry.host
        directory.mkdir()
        (directory / "hosts.toml").write_text(f'[host."http://{wire.host}"]\ncapabilities = ["pull"]\n')
        driver = make_driver({"registry": {"config_path": str(tmp_path)}})
        yield Mirrored(driver, registry, mirror, wire)


def test_a_pull_takes_its_bytes_from_the_mirror(mirrored: Mirrored) -> None:
    """The registry is asked what the tag means and who may have it, and sends not one byte of a blob."""
    files = random_files("mirrored", 3 * MIB, MIB)
    model = push(mirrored.registry.content, "models/mirrored", files)
    push(mirrored.mirror.content, "models/mirrored", files)
    volume = model.volume(mirrored.registry.host, "mirrored")
    answer = mirrored.driver.kubelet.publish(volume)

    assert Code.OK == answer.code, answer.text
    assert promised(files) == shown(mirrored.driver.kubelet.target(volume))
    assert (0, model.size_bytes) == (mirrored.registry.bytes_served.total(), mirrored.mirror.bytes_served.total())
    assert f"{model.size_bytes} from {mirrored.wire.host}" in mirrored.driver.log_text()


def test_an_open_mirror_gives_nobody_a_private_model(mirrored: Mirrored) -> None:
    """Bob names a digest of alice's in a manifest of his own; the mirror has it, and the registry says that bob has not."""
    registry = mirrored.registry
    registry.auth = Auth.BEARER
    registry.users = {"alice": User("a"), "bob": User("b", frozenset({"team/bob"}))}
    secret = push(registry.content, "team/alice", {"weights": random_bytes("secret", MIB)})
    _, manifest = registry.content.manifests["team/alice"]["v1"]
    registry.content.add_manifest("team/bob", manifest, "v1")
    for repository in ("team/alice", "team/bob"):
        push(mirrored.mirror.content, repository, {"weights": random_bytes("secret", MIB)})
    bob, alice, bob_again = (
        PodVolume(
            f"open-{number}",
            {"modelRef": f"{registry.host}/team/{name}:v1"},
            docker_secret(registry.host, password, name),
        )
        for number, (name, password) in enumerate([("bob", "b"), ("alice", "a"), ("bob", "b")])
    )
    codes = [mirrored.driver.kubelet.publish(volume, timeout=20).code for volume in (bob, alice, bob_again)]

    assert [Code.NOT_FOUND, Code.OK, Code.NOT_FOUND] == codes
    assert 1 == mirrored.mirror.blob_gets[str(secret.layers[0])]
    assert not mirrored.driver.kubelet.target(bob_again).exists()


def test_the_registry_goes_on_where_a_mirror_died(mirrored: Mirrored) -> None:
    """By Range, in the middle of a blob: nothing is downloaded twice."""
    weights = random_bytes("died", 24 * MIB)
    model = push_layers(mirrored.registry.content, "models/died", [(weights, RAW_WEIGHT, {FILE_PATH: "weights"})])
    push_layers(mirrored.mirror.content, "models/died", [(weights, RAW_WEIGHT, {FILE_PATH: "weights"})])
    mirrored.wire.bytes_per_second = 16 * MIB
    volume = model.volume(mirrored.registry.host, "died")
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(mirrored.driver.kubelet.publish, volume)
        eventually(lambda: mirrored.wire.delivered_bytes > 8 * MIB, "the mirror is in the middle")
        mirrored.wire.cut()
        answer = publish.result()
    received = mirrored.wire.delivered_bytes + mirrored.registry.bytes_served.total()
    ranges = [seen.headers.get("range", "") for seen in mirrored.registry.seen if seen.method == "GET"]

    assert Code.OK == answer.code, answer.text
    assert weights == (mirrored.driver.kubelet.target(volume) / "weights").read_bytes()
    assert 1 == len(ranges)
    assert ranges[0].startswith("bytes=")
    assert received < 1.05 * len(weights)
