"""Lazy volumes, the whole way: a real driver, holder and FUSE server, on a registry that is slow, dies, or lies."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelcsi.mount.table import mounts_at, read_mount_table
from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Format, Model, promised, push, random_files, shown
from tests.integration.wire import Wire

_RATE = 8_000_000
_PLAIN = (Format.RAW, Format.TAR)


@pytest.fixture
def wire(registry: FakeRegistry) -> Iterator[Wire]:
    """The way to the registry, as fast as it can."""
    with Wire(int(registry.host.rpartition(":")[2])) as wire:
        yield wire


def lazily(model: Model, wire: Wire, pod: str, **attributes: str) -> PodVolume:
    """A pod's lazy volume of a model."""
    return model.volume(wire.host, pod, mountMode="lazy", **attributes)


def view_of(driver: Driver, model: Model) -> dict[str, Any]:
    """What `modelcsi status` says of a model's lazy view."""
    views: list[dict[str, Any]] = [
        view for view in driver.ask("status")["lazy"]["views"] if view["digest"] == str(model.digest)
    ]
    assert len(views) == 1, views
    return views[0]


def active_server(driver: Driver) -> int:
    """The process that serves, once it does."""
    found: list[int] = []

    def is_there() -> bool:
        servers = driver.ask("status")["lazy"]["servers"]
        found[:] = [server["pid"] for server in servers if server["role"] == "active"]
        return bool(found)

    eventually(is_there, "a server serves")
    return found[0]


def is_complete(driver: Driver, model: Model) -> bool:
    """Whether the view is filled."""
    return bool(view_of(driver, model)["is_complete"])


def fs_type(driver: Driver, volume: PodVolume) -> list[str]:
    """Of what is mounted at a volume's target."""
    return [mount.fs_type for mount in mounts_at(read_mount_table(), str(driver.kubelet.target(volume)))]


def read_at(path: Path, offset: int, size: int) -> bytes:
    """As a program that opened the file for it."""
    with path.open("rb", buffering=0) as file:
        pieces, end = [], offset + size
        while offset < end and (piece := os.pread(file.fileno(), end - offset, offset)):
            pieces.append(piece)
            offset += len(piece)
    return b"".join(pieces)


def _read_all(descriptor: int, size: int) -> None:
    for offset in range(0, size, 4096):
        os.pread(descriptor, 4096, offset)


@pytest.mark.parametrize("packed", _PLAIN)
def test_pods_start_before_the_download_ends(
    driver: Driver, registry: FakeRegistry, wire: Wire, packed: Format
) -> None:
    """A lazy volume is mounted as soon as its files are known, and a read waits only for the bytes it needs.

    What is read of a file of a lazy volume before the file is complete was received from the registry, and is not verified.
    """
    model = push(registry.content, f"lazy/{packed.name.lower()}", random_files(packed, 20 * MIB, 30 * MIB), packed)
    wire.bytes_per_second = _RATE
    volume = lazily(model, wire, f"early-{packed.name}")
    answer = driver.kubelet.publish(volume)
    target = driver.kubelet.target(volume)
    at_publish = wire.delivered_bytes
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    last = model.files["model-00001.safetensors"]
    found = read_at(target / "model-00001.safetensors", len(last) - MIB, MIB)
    at_read = wire.delivered_bytes

    assert (grpc.StatusCode.OK, ["fuse.modelcsi"]) == (answer.code, fs_type(driver, volume))
    assert at_publish < model.size_bytes / 2
    assert sorted(model.files) == names
    assert last[-MIB:] == found
    assert at_read < model.size_bytes / 2
    wire.bytes_per_second = 0
    assert promised(model.files) == shown(target)
    eventually(lambda: is_complete(driver, model), "all of it is here")
    assert wire.delivered_bytes < 1.05 * model.size_bytes
    assert driver.kubelet.unpublish(volume).is_ok


@pytest.mark.parametrize("packed", _PLAIN)
def test_random_reads_during_the_fill_are_right(
    driver: Driver, registry: FakeRegistry, wire: Wire, packed: Format
) -> None:
    """Eight readers jump about while the bytes come; each byte is right, and comes once."""
    files = random_files(("random", packed), 40 * MIB, 3 * MIB, 17)
    model = push(registry.content, f"lazy/random-{packed.name.lower()}", files, packed)
    wire.bytes_per_second = 4 * _RATE
    volume = lazily(model, wire, f"random-{packed.name}")
    assert driver.kubelet.publish(volume).is_ok
    target = driver.kubelet.target(volume)

    def read_some(seed: int) -> int:
        chance = random.Random(seed)  # noqa: S311 - not a secret
        wrong = 0
        for _ in range(40):
            name, data = chance.choice(sorted(files.items()))
            offset = chance.randrange(len(data))
            size = min(len(data) - offset, chance.choice([1, 4096, 100_000, 3 * MIB]))
            wrong += read_at(target / name, offset, size) != data[offset : offset + size]
        return wrong

    with ThreadPoolExecutor(8) as pool:
        wrong = sum(pool.map(read_some, range(8)))

    assert 0 == wrong
    eventually(lambda: is_complete(driver, model), "all of it is here")
    assert wire.delivered_bytes < 1.05 * model.size_bytes
    assert promised(files) == shown(target)


def test_the_next_pod_gets_a_plain_bind(driver: Driver, registry: FakeRegistry, wire: Wire) -> None:
    """Once a model is complete, a lazy volume of it is a bind mount, and what was mounted before reads on."""
    model = push(registry.content, "lazy/next", random_files("next", 5 * MIB))
    first, second = lazily(model, wire, "next-1"), lazily(model, wire, "next-2")
    assert driver.kubelet.publish(first).is_ok
    eventually(lambda: is_complete(driver, model), "all of it is here")
    assert driver.kubelet.publish(second).is_ok

    assert ["fuse.modelcsi"] == fs_type(driver, first)
    assert ["fuse.modelcsi"] != fs_type(driver, second)
    assert promised(model.files) == shown(driver.kubelet.target(first)) == shown(driver.kubelet.target(second))


def test_pods_share_one_lazy_view(driver: Driver, registry: FakeRegistry, wire: Wire) -> None:
    """Several lazy volumes and a bind one, one download; the bind one waits until all of it is here."""
    model = push(registry.content, "lazy/shared", random_files("shared", 24 * MIB))
    wire.bytes_per_second = _RATE
    lazy = [lazily(model, wire, f"shared-{number}") for number in range(3)]
    bind = model.volume(wire.host, "shared-bind")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(driver.kubelet.publish, lazy))
        waiting = pool.submit(driver.kubelet.publish, bind)
        was_waiting = not waiting.done()
        wire.bytes_per_second = 0
        bound = waiting.result()

    assert ([True] * 3, True, True) == ([answer.is_ok for answer in answers], was_waiting, bound.is_ok)
    assert ["fuse.modelcsi"] * 3 == [kind for volume in lazy for kind in fs_type(driver, volume)]
    assert wire.delivered_bytes < 1.05 * model.size_bytes
    for volume in [*lazy, bind]:
        assert promised(model.files) == shown(driver.kubelet.target(volume))
    for volume in lazy[:2]:
        assert driver.kubelet.unpublish(volume).is_ok
    assert promised(model.files) == shown(driver.kubelet.target(lazy[2]))


def test_nothing_is_left_of_a_lazy_volume(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """A lazy volume can be unpublished whatever state its server is in, and whoever reads then gets an error.

    In mid-fill: the download stops, and the processes end.
    """
    driver = make_driver()
    model = push(registry.content, "lazy/gone", random_files("gone", 64 * MIB))
    wire.bytes_per_second = MIB
    volume = lazily(model, wire, "gone")
    assert driver.kubelet.publish(volume).is_ok
    weights = driver.kubelet.target(volume) / "model-00000.safetensors"
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_at, weights, 60 * MIB, 4 * MIB)
        eventually(lambda: "want" in driver.log_text() or not reader.done(), "somebody reads")
        answer = driver.kubelet.unpublish(volume)
        error = reader.exception(20)

    assert answer.is_ok
    assert isinstance(error, OSError)
    assert [] == driver.mounts()
    assert [] == driver.ask("status")["lazy"]["views"]
    assert [] == list((driver.root_dir / "mounts").iterdir())
    eventually(lambda: driver.ask("status")["lazy"]["holder_pid"] is None, "the holder has ended")


def test_a_driver_that_is_killed_is_not_noticed(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """A driver that ends, is killed or replaced is not noticed by those who read what is here; other reads wait for the next one.

    Nothing is fetched twice.
    """
    driver = make_driver()
    model = push(registry.content, "lazy/killed", random_files("killed", 24 * MIB))
    data = model.files["model-00000.safetensors"]
    wire.bytes_per_second = _RATE
    volume = lazily(model, wire, "killed")
    assert driver.kubelet.publish(volume).is_ok
    weights = driver.kubelet.target(volume) / "model-00000.safetensors"
    first = read_at(weights, 0, MIB)
    driver.kill()
    again = read_at(weights, 0, MIB)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(read_at, weights, 20 * MIB, 4 * MIB)
        is_waiting = not rest.done()
        driver.start()
        found = rest.result(30)
    wire.bytes_per_second = 0
    eventually(lambda: is_complete(driver, model), "all of it is here")

    assert (data[:MIB], data[:MIB], True) == (first, again, is_waiting)
    assert data[20 * MIB :] == found
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert wire.delivered_bytes < 1.3 * model.size_bytes
    assert driver.kubelet.unpublish(volume).is_ok
    assert [] == driver.mounts()


def test_a_registry_that_is_away_for_a_while(driver: Driver, registry: FakeRegistry, wire: Wire) -> None:
    """While a registry is away, reads of a lazy volume wait, and go on when it is back."""
    model = push(registry.content, "lazy/away", random_files("away", 16 * MIB))
    wire.bytes_per_second = _RATE
    volume = lazily(model, wire, "away")
    assert driver.kubelet.publish(volume).is_ok
    wire.cut()
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(shown, driver.kubelet.target(volume))
        eventually(lambda: any(pull["trouble"] for pull in driver.ask("status")["pulls"]), "the trouble is told")
        is_waiting = not reader.done()
        wire.bytes_per_second = 0
        wire.connect()

        assert promised(model.files) == reader.result(60)
    assert is_waiting


def test_waiting_has_an_end(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """`fuse.read_timeout` turns a read whose bytes do not come into EIO. The kernel's second attempt does not double that."""
    driver = make_driver({"fuse": {"read_timeout": "6s"}})
    model = push(registry.content, "lazy/timeout", random_files("timeout", 16 * MIB))
    wire.bytes_per_second = MIB
    volume = lazily(model, wire, "timeout")
    assert driver.kubelet.publish(volume).is_ok
    wire.cut()
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output") as caught:
        read_at(driver.kubelet.target(volume) / "model-00000.safetensors", 12 * MIB, MIB)

    assert errno.EIO == caught.value.errno
    assert 5.5 < time.monotonic() - began < 11.5


def test_a_blob_that_is_gone(driver: Driver, registry: FakeRegistry, wire: Wire) -> None:
    """Of a blob that the registry has no more, reads fail with EIO and the volume is abnormal, until the blob is back.

    A file that is complete stays readable whatever becomes of the registry, the driver and the other files.
    """
    model = push(registry.content, "lazy/blobgone", random_files("blobgone", MIB, 16 * MIB))
    blobs = registry.content.blobs["lazy/blobgone"]
    missing = next(str(digest) for digest in model.layers if len(blobs[str(digest)]) == 16 * MIB)
    kept = blobs.pop(missing)
    volume = lazily(model, wire, "blobgone")
    assert driver.kubelet.publish(volume).is_ok
    target = driver.kubelet.target(volume)
    with pytest.raises(OSError, match="Input/output"):
        read_at(target / "model-00001.safetensors", 0, MIB)
    whole = read_at(target / "model-00000.safetensors", 0, MIB)
    condition = driver.kubelet.stats(volume).response.volume_condition
    blobs[missing] = kept

    assert model.files["model-00000.safetensors"] == whole
    assert condition.abnormal
    assert model.at(wire.host) in condition.message
    eventually(lambda: is_complete(driver, model), "it is tried again", seconds=60)
    assert promised(model.files) == shown(target)


def test_a_blob_that_is_damaged(driver: Driver, registry: FakeRegistry, wire: Wire) -> None:
    """Bytes that turn out wrong end with EIO for whoever has the file open; it can be opened again, and is read when the right
    ones are here.
    """
    model = push(registry.content, "lazy/damaged", random_files("damaged", 8 * MIB))
    wire.bytes_per_second = _RATE
    weights = str(model.layers[0])
    registry.faults.flip_bit_of.add(weights)
    volume = lazily(model, wire, "damaged")
    assert driver.kubelet.publish(volume).is_ok
    path = driver.kubelet.target(volume) / "model-00000.safetensors"
    with path.open("rb", buffering=0) as file:
        before = os.pread(file.fileno(), 4096, 0)
        eventually(lambda: view_of(driver, model)["trouble"], "the damage is noticed", seconds=30)
        with pytest.raises(OSError, match="Input/output"):
            _read_all(file.fileno(), 8 * MIB)
    registry.faults.flip_bit_of.clear()

    assert model.files["model-00000.safetensors"][:4096] == before
    eventually(lambda: is_complete(driver, model), "the right bytes are here", seconds=90)
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert view_of(driver, model)["trouble"] is None


def test_verified_before_it_is_opened(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """With `fuse.verify: complete` opening a file waits until it is verified; others may be opened before."""
    driver = make_driver({"fuse": {"verify": "complete"}})
    model = push(registry.content, "lazy/verify", random_files("verify", 8 * MIB))
    wire.bytes_per_second = _RATE
    volume = lazily(model, wire, "verify")
    assert driver.kubelet.publish(volume).is_ok
    target = driver.kubelet.target(volume)
    small = read_at(target / "tokenizer/vocab.txt", 0, 1000)
    at_small = wire.delivered_bytes
    with (target / "model-00000.safetensors").open("rb"):
        at_open = wire.delivered_bytes

    assert model.files["tokenizer/vocab.txt"] == small
    assert at_small < 8 * MIB < at_open
    assert promised(model.files) == shown(target)


@pytest.mark.parametrize("packed", [Format.TAR_GZIP, Format.TAR_ZSTD])
def test_what_cannot_be_read_early_is_waited_for(
    driver: Driver, registry: FakeRegistry, wire: Wire, packed: Format
) -> None:
    """A model whose files cannot be known early is mounted when they are, and an Event says so.

    A compressed tar has to be here for that.
    """
    model = push(registry.content, f"lazy/{packed.name.lower()}", random_files(packed, 2 * MIB), packed)
    volume = lazily(model, wire, f"late-{packed.name}")

    assert driver.kubelet.set_up(volume)[-1].is_ok
    assert promised(model.files) == shown(driver.kubelet.target(volume))


def test_a_stuck_server_is_replaced(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """A FUSE server that is killed or stuck is replaced, and nobody who reads gets an error; with `pyfuse3` its mounts end with
    errors.
    """
    driver = make_driver()
    model = push(registry.content, "lazy/stuck", random_files("stuck", 32 * MIB))
    wire.bytes_per_second = 4 * _RATE
    volume, other = lazily(model, wire, "stuck"), lazily(model, wire, "stuck-2")
    assert driver.kubelet.publish(volume).is_ok
    assert driver.kubelet.publish(other).is_ok
    target = driver.kubelet.target(volume)
    reader: Future[dict[str, str]]
    with ThreadPoolExecutor(1) as pool:
        server = active_server(driver)
        os.kill(server, 19)  # SIGSTOP
        reader = pool.submit(shown, target)
        unpublished = driver.kubelet.unpublish(other)

        assert promised(model.files) == reader.result(60)
    assert unpublished.is_ok
    assert unpublished.seconds < 10


def test_servers_and_drivers_die_under_load(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """Killed again and again while eight readers read: no error, no wrong byte."""
    driver = make_driver()
    files = random_files("die", 48 * MIB, 16 * MIB)
    model = push(registry.content, "lazy/die", files)
    wire.bytes_per_second = _RATE
    volume = lazily(model, wire, "die")
    assert driver.kubelet.publish(volume).is_ok
    target = driver.kubelet.target(volume)
    ended, problems, reads = threading.Event(), list[str](), [0] * 8

    def read_on(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - not a secret
        while not ended.is_set():
            name, data = chance.choice(sorted(files.items()))
            offset = chance.randrange(len(data))
            size = min(len(data) - offset, 64 << 10)
            try:
                if read_at(target / name, offset, size) != data[offset : offset + size]:
                    problems.append(f"wrong bytes in {name} at {offset}")
            except OSError as error:
                problems.append(f"{name} at {offset}: {error}")
            reads[number] += 1

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read_on, number) for number in range(8)]
        for kill in range(12):
            before = sum(reads)
            if kill % 3 != 1:
                server = active_server(driver)
                os.kill(server, 9)
            if kill % 3 != 0:
                driver.kill()
                driver.start()
            eventually(lambda seen=before: sum(reads) > seen + 8, "readers go on", seconds=30)  # type: ignore[misc]
        wire.bytes_per_second = 0
        eventually(lambda: is_complete(driver, model), "all of it is here", seconds=60)
        ended.set()
        for reader in readers:
            reader.result(60)

    assert [] == problems
    assert promised(files) == shown(target)
    assert [] == driver.bugs()


def test_the_portable_adapter(make_driver: MakeDriver, registry: FakeRegistry, wire: Wire) -> None:
    """pyfuse3 shows the same; when its server dies readers get errors, the volume is abnormal, and is mounted anew."""
    pytest.importorskip("pyfuse3")
    driver = make_driver({"fuse": {"adapter": "pyfuse3"}})
    model = push(registry.content, "lazy/portable", random_files("portable", 24 * MIB))
    wire.bytes_per_second = _RATE
    volume = lazily(model, wire, "portable")
    assert driver.kubelet.publish(volume).is_ok
    path = driver.kubelet.target(volume) / "model-00000.safetensors"
    end = read_at(path, 23 * MIB, MIB)
    (server,) = driver.ask("status")["lazy"]["servers"]
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_at, path, 12 * MIB, 8 * MIB)
        os.kill(server["pid"], 9)
        error = reader.exception(20)
    eventually(lambda: driver.kubelet.stats(volume).response.volume_condition.abnormal, "the volume is abnormal")
    again = driver.kubelet.publish(volume)
    wire.bytes_per_second = 0

    assert model.files["model-00000.safetensors"][23 * MIB :] == end
    assert "pyfuse3" == server["adapter"]
    assert isinstance(error, OSError)
    assert again.is_ok, again.text
    assert promised(model.files) == shown(driver.kubelet.target(volume))
    assert driver.kubelet.unpublish(volume).is_ok
