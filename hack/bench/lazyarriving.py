"""Cases of hack/bench/lazy in which the bytes have still to come: publish, first bytes, ranges, and a loader."""

from __future__ import annotations

import http.client
import json
import os
import random
import struct
import time
from pathlib import Path

from hack.bench.lazyparts import MIB, Figures, Goal, Place, Reader
from tests.integration.driver import running_driver
from tests.integration.models import Format, Model

_RANGE_BYTES = 64 * MIB
_TENSOR_BYTES = 16 * MIB


def publish(place: Place, figures: Figures, *, rounds: int, mebibytes: int, rate: float) -> None:
    """A model is mounted while the registry is slow; what is read first; a whole range far from what arrives."""
    count = 4
    files = {f"model-{number:05d}.safetensors": os.urandom(mebibytes * MIB // count) for number in range(count)}
    files |= {f"part/{number}.json": os.urandom(2000) for number in range(8)}
    models = {packed: place.push(f"bench/{packed.value}", files, packed) for packed in (Format.RAW, Format.TAR)}
    names = sorted(name for name in files if name.startswith("model-"))
    size = len(files[names[0]])
    files.clear()
    chance = random.Random(6)  # noqa: S311 - not a secret
    with Reader() as reader:
        for _ in range(rounds):
            for packed, model in models.items():
                _publish_once(place, figures, reader, (packed, model, names, size), rate, chance)


def _publish_once(
    place: Place,
    figures: Figures,
    reader: Reader,
    shown: tuple[Format, Model, list[str], int],
    rate: float,
    chance: random.Random,
) -> None:
    packed, model, names, size = shown
    with running_driver({"log_level": "info"}) as driver, place.at(rate):
        first = place.volume(model, "first", mountMode="lazy")
        answer = driver.kubelet.publish(first)
        assert answer.is_ok, answer
        target = driver.kubelet.target(first)
        figures.add(f"{packed.value}: publish", "s", answer.seconds, Goal(1.0))
        order = (str(place.truth(model, names[-1])), size - MIB)
        seconds = reader.ask("range", str(target / names[-1]), size - MIB, MIB, *order)
        figures.add(f"{packed.value}: first MiB of the last file", "s", seconds, Goal(1.0))
        for name in names[1:]:
            offset = chance.randrange(size - 2 * _RANGE_BYTES) if size > 2 * _RANGE_BYTES else 0
            length = min(_RANGE_BYTES, size)
            order = (str(place.truth(model, name)), offset)
            seconds = reader.ask("range", str(target / name), offset, length, *order)
            ratio = seconds / (length / rate)
            figures.add(f"{packed.value}: random 64 MiB during the fill", "x transfer", ratio, Goal(1.3))
        assert driver.kubelet.unpublish(first).is_ok


def loading(place: Place, figures: Figures, *, rounds: int, mebibytes: int, rate: float) -> None:
    """All of a safetensors model is loaded with the library: through each kind of mount, and after a plain copy."""
    count = 2
    files = {
        f"model-{number:05d}.safetensors": _safetensors(mebibytes * MIB // count // _TENSOR_BYTES)
        for number in range(count)
    }
    model = place.push("bench/loading", files)
    names = sorted(files)
    size = sum(map(len, files.values()))
    files.clear()
    host, copy = place.wire.host, place.scratch / "copy"
    with Reader() as reader, place.at(rate):
        for number in range(rounds):
            alone = _download(host, model, None)
            figures.bar("the download alone (s)", "copy", alone)
            for way in ("lazy", "bind"):
                with running_driver({"log_level": "info"}) as driver:
                    began = time.monotonic()
                    volume = place.volume(model, f"{way}-{number}", mountMode=way)
                    answer = driver.kubelet.publish(volume)
                    assert answer.is_ok, answer
                    target = driver.kubelet.target(volume)
                    published = time.monotonic() - began
                    loaded = reader.ask("load", [str(target / name) for name in names])
                    _loaded(figures, way, published, loaded, size)
                    if way == "lazy":
                        figures.add("loading 1 GiB, lazy", "x download", (published + loaded["all"]) / alone, Goal(1.1))
                    assert driver.kubelet.unpublish(volume).is_ok
            copied = _download(host, model, copy)
            _loaded(figures, "copy", copied, reader.ask("load", [str(path) for path in sorted(copy.iterdir())]), size)
            for path in copy.iterdir():
                path.unlink()


def _loaded(figures: Figures, way: str, published: float, loaded: dict[str, float], size: int) -> None:
    assert loaded["bytes"] > 0.99 * size, loaded
    figures.bar("time to the first tensor (s)", way, published + loaded["first"])
    figures.bar("time to loaded (s)", way, published + loaded["all"])
    figures.bar("throughput before the fill ends (MB/s)", way, size / (published + loaded["all"]) / 1e6)


def _download(host: str, model: Model, directory: Path | None) -> float:
    """Seconds to fetch all layers with http.client, into files or into nothing."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(host)
    for number, layer in enumerate(model.layers):
        connection.request("GET", f"/v2/{model.repository}/blobs/{layer}")
        answer = connection.getresponse()
        if directory is not None:
            directory.mkdir(exist_ok=True)
        with Path(os.devnull if directory is None else directory / f"{number}.safetensors").open("wb", 0) as file:
            while piece := answer.read(1 << 20):
                file.write(piece)
    connection.close()
    return time.monotonic() - began


def _safetensors(tensors: int) -> bytes:
    """A file of that format."""
    table = {
        f"layers.{number:03d}.weight": {
            "dtype": "U8",
            "shape": [4096, _TENSOR_BYTES // 4096],
            "data_offsets": [number * _TENSOR_BYTES, (number + 1) * _TENSOR_BYTES],
        }
        for number in range(tensors)
    }
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + os.urandom(tensors * _TENSOR_BYTES)
