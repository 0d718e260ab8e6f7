"""A registry, or the way to it, that misbehaves: what a publish answers, how much is downloaded, what is left."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.fakes.kubelet import NON_FINAL, Answer, PodVolume
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.fakes.registry_faults import Faults
from tests.integration.conftest import MakeDriver
from tests.integration.credentials import basic, docker_secret
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Format, Model, promised, push, random_files, shown
from tests.integration.wire import Wire

Code = grpc.StatusCode
_CORRUPT_SECONDS = 15


@pytest.mark.parametrize("with_reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_connections_cut_every_3_mb(driver: Driver, registry: FakeRegistry, packed: Format, with_reset: bool) -> None:
    """Each cut is resumed: one publish, at most 1.3 downloads."""
    registry.faults.cut_every_bytes, registry.faults.cut_with_reset = 3_000_000, with_reset
    model = push(registry.content, f"cut/{packed.name.lower()}", random_files(("cut", packed), 24 * MIB), packed)
    volume = model.volume(registry.host, f"cut-{packed.name}-{with_reset}")
    answer = driver.kubelet.publish(volume, timeout=60)

    assert (Code.OK, "") == (answer.code, answer.text)
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert registry.bytes_served.total() <= 1.3 * model.size_bytes


def assert_refused_as_corrupt(driver: Driver, model: Model, volume: PodVolume) -> Answer:
    """DATA_LOSS in time, and nothing of the model is to be seen anywhere."""
    answer = driver.kubelet.publish(volume)

    assert Code.DATA_LOSS == answer.code, answer.text
    assert answer.seconds < _CORRUPT_SECONDS
    assert_nothing_left(driver, volume)
    damaged = model.layers[0].hex  # the others were right, and may stay until somebody needs the space
    assert [] == list(driver.root_dir.glob(f"content/*/*/{damaged}*")) + list(
        driver.root_dir.glob(f"ingest/*{damaged}")
    )
    return answer


def assert_nothing_left(driver: Driver, volume: PodVolume) -> None:
    """After a final answer kubelet never unpublishes: no target, no record, no lease, no half-written content."""
    assert not driver.kubelet.target(volume).exists()
    assert volume.volume_id not in str(driver.ask("status"))
    assert [] == [
        item for item in driver.ask("cache", "ls")["artifacts"] if item["in_use"] and item["reference"] in str(volume)
    ]


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
@pytest.mark.parametrize("fault", ["flipped", "shorter", "longer"])
def test_blob_that_is_not_its_digest(driver: Driver, registry: FakeRegistry, packed: Format, fault: str) -> None:
    """A flipped bit in the middle, or another length: tried again, DATA_LOSS; once it is whole, the same pod mounts."""
    name = f"{fault}-{packed.name.lower()}"
    model = push(registry.content, f"corrupt/{name}", random_files(name, 2 * MIB), packed)
    layer = str(model.layers[0])
    if fault == "flipped":
        registry.faults.flip_bit_of.add(layer)
    else:
        registry.faults.resize[layer] = 1000 if fault == "longer" else -1000
    volume = model.volume(registry.host, name)
    answer = assert_refused_as_corrupt(driver, model, volume)
    registry.faults.flip_bit_of.clear()
    registry.faults.resize.clear()

    assert layer in answer.text
    assert registry.blob_gets[layer] >= 2
    assert Code.OK == driver.kubelet.publish(volume).code
    assert promised(model.files) == shown(driver.kubelet.target(volume))


@pytest.mark.parametrize("packed", [Format.TAR, Format.TAR_GZIP, Format.TAR_ZSTD], ids=lambda packed: packed.value)
@pytest.mark.parametrize("offset", [10, 130, 150, 257, 511, -700], ids=str)
def test_flipped_bit_in_the_frame_of_a_tar(driver: Driver, registry: FakeRegistry, packed: Format, offset: int) -> None:
    """In a header (name, size, checksum, magic), in gzip's or zstd's own framing, in the trailer: DATA_LOSS, nothing else."""
    name = f"frame-{packed.name.lower()}-{offset}"
    model = push(registry.content, f"corrupt/{name}", random_files(name, 100_000), packed)
    layer = str(model.layers[0])
    blobs = registry.content.blobs[model.repository]
    damaged = bytearray(blobs[layer])
    damaged[offset] ^= 0x10
    blobs[layer] = bytes(damaged)

    assert_refused_as_corrupt(driver, model, model.volume(registry.host, name))


@pytest.mark.parametrize("form", ["tag", "digest"])
def test_manifest_that_is_not_its_digest(driver: Driver, registry: FakeRegistry, form: str) -> None:
    """Other bytes than the digest that was asked for, or that the registry itself names: DATA_LOSS."""
    model = push(registry.content, f"manifest/{form}", random_files(form, 1000))
    media_type, content = registry.content.manifests[model.repository][str(model.digest)]
    registry.content.manifests[model.repository][str(model.digest)] = (media_type, content + b" ")
    reference = f"{registry.host}/{model.repository}"
    if form == "tag":
        registry.faults.manifest_bytes = content + b" "
        volume = PodVolume(f"manifest-{form}", {"modelRef": f"{reference}:v1"})
    else:
        volume = PodVolume(f"manifest-{form}", {"modelRef": f"{reference}@{model.digest}"})

    assert_refused_as_corrupt(driver, model, volume)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.NOT_FOUND),
        (408, Code.UNAVAILABLE),
        (429, Code.UNAVAILABLE),
        (500, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("place", ["manifests", "blobs"])
def test_status_of_the_registry(
    driver: Driver, registry: FakeRegistry, status: int, code: grpc.StatusCode, place: str
) -> None:
    """What the registry answers decides the code; the text names the model; afterwards the same pod mounts."""
    name = f"status-{place}-{status}"
    model = push(registry.content, f"status/{name}", random_files(name, 1000))
    registry.faults.fail_next(status, times=1000, path=f"/{place}/")
    volume = model.volume(registry.host, name)
    answer = driver.kubelet.publish(volume, timeout=2)
    registry.faults = Faults()

    assert code == answer.code, answer.text
    assert f"{registry.host}/{model.repository}" in answer.text
    if answer.is_final:
        assert_nothing_left(driver, volume)
    assert Code.OK == driver.kubelet.set_up(volume, within_seconds=30)[-1].code


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept(driver: Driver, registry: FakeRegistry, status: int) -> None:
    """A registry that asks for a pause gets it, within one publish."""
    model = push(registry.content, f"retry/{status}", random_files(status, 1000))
    registry.faults.fail_next(status, path="/blobs/", retry_after="2")
    answer = driver.kubelet.publish(model.volume(registry.host, f"retry-{status}"))

    assert Code.OK == answer.code
    assert 2 <= answer.seconds < 6


def test_registry_is_down(driver: Driver, registry: FakeRegistry) -> None:
    """UNAVAILABLE, soon, naming the host; when it is back, the next attempt mounts."""
    model = push(registry.content, "down/never", random_files("down", 1000))
    with Wire(int(registry.host.rpartition(":")[2])) as wire:
        wire.cut()
        volume = model.volume(wire.host, "down")
        answer = driver.kubelet.publish(volume)
        wire.connect()
        again = driver.kubelet.set_up(volume)[-1]

    assert Code.UNAVAILABLE == answer.code
    assert wire.host in answer.text
    assert answer.seconds < 10
    assert Code.OK == again.code


@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR_ZSTD], ids=lambda packed: packed.value)
def test_registry_dies_in_mid_pull_and_comes_back(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """Callers are told why nothing arrives; the same job goes on where it was; one download in all."""
    model = push(registry.content, f"dies/{packed.name.lower()}", random_files(("dies", packed), 16 * MIB), packed)
    volume = model.volume(registry.host, "unused")
    with Wire(int(registry.host.rpartition(":")[2])) as wire, ThreadPoolExecutor(1) as pool:
        wire.bytes_per_second = 16 * MIB
        volume = model.volume(wire.host, f"dies-{packed.name}")
        publish = pool.submit(driver.kubelet.publish, volume, 6)
        eventually(lambda: wire.delivered_bytes > 4 * MIB, "a part of it came")
        wire.cut()
        told = publish.result()
        wire.connect()
        answers = driver.kubelet.set_up(volume, within_seconds=40)
        delivered = wire.delivered_bytes

    assert told.code in NON_FINAL
    assert "%" in told.text
    assert wire.host in told.text
    assert Code.OK == answers[-1].code
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert delivered < 1.3 * model.size_bytes


@pytest.mark.parametrize("auth", [Auth.BASIC, Auth.BEARER], ids=lambda auth: auth.value)
def test_wrong_password_stays_secret(make_driver: MakeDriver, auth: Auth) -> None:
    """UNAUTHENTICATED, naming the host; the password is in no log and in no file of the driver, the right one neither."""
    driver = make_driver()
    with FakeRegistry(auth=auth, users={"alice": User("correct-Horse-7")}) as registry:
        model = push(registry.content, "private/model", random_files("private", 1000))
        wrong, right = (
            PodVolume(
                f"password-{number}", {"modelRef": model.at(registry.host)}, docker_secret(registry.host, password)
            )
            for number, password in enumerate(["wrong-Battery-9", "correct-Horse-7"])
        )
        answers = [driver.kubelet.publish(volume) for volume in (wrong, right)]
    driver.stop()

    assert [Code.UNAUTHENTICATED, Code.OK] == [answer.code for answer in answers]
    assert registry.host in answers[0].text
    for secret in ("wrong-Battery-9", "correct-Horse-7", basic("wrong-Battery-9"), basic("correct-Horse-7")):
        assert secret not in answers[0].text + driver.log_text()
        assert [] == [path for path in files_of(driver.root_dir) if secret.encode() in path.read_bytes()]


def test_secret_without_meaning(driver: Driver, registry: FakeRegistry) -> None:
    """A secret that is no docker config is the request's fault, and is not shown."""
    model = push(registry.content, "secret/odd", random_files("odd", 1000))
    volume = PodVolume("odd", {"modelRef": model.at(registry.host)}, {".dockerconfigjson": "{hunter2"})
    answer = driver.kubelet.publish(volume)

    assert Code.INVALID_ARGUMENT == answer.code
    assert "hunter2" not in answer.text + driver.log_text()


def test_waiting_pods_get_a_final_error_each(driver: Driver, registry: FakeRegistry) -> None:
    """A job that several pods wait for ends with damage: all are told, none is left, soon."""
    model = push(registry.content, "corrupt/shared", random_files("shared", 2 * MIB))
    registry.faults.flip_bit_of.add(str(model.layers[0]))
    registry.faults.bytes_per_second = 8_000_000
    volumes = [model.volume(registry.host, f"shared-{number}") for number in range(3)]
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        codes = [answer.code for answer in pool.map(driver.kubelet.publish, volumes)]

    assert [Code.DATA_LOSS] * 3 == codes
    assert time.monotonic() - began < _CORRUPT_SECONDS
    for volume in volumes:
        assert_nothing_left(driver, volume)


def files_of(directory: Path) -> list[Path]:
    """All files below a directory."""
    return [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
