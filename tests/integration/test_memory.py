"""Anonymous memory stays under 150 MiB, whatever the model."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import zstandard

from tests.fakes.content import FILE_PATH, RAW_WEIGHT
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import measured_memory
from tests.integration.models import MIB, Format, push_layers, random_bytes, tar_of

_MEMORY_BYTES = 150 * MIB


def test_big_blob_and_big_tar(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """One raw file of 512 MiB and a tar of 256 MiB, of two models, pulled at the same time."""
    driver = make_driver()
    block = random_bytes("block", 32 * MIB)
    raw = push_layers(registry.content, "memory/raw", [(block * 16, RAW_WEIGHT, {FILE_PATH: "weights"})])
    tar = tar_of({f"part-{number}": block for number in range(8)})
    packed = push_layers(registry.content, "memory/tar", [(tar, Format.TAR.media_type, {})])
    with measured_memory(driver) as peak, ThreadPoolExecutor(2) as pool:
        volumes = [model.volume(registry.host, model.repository[-3:]) for model in (raw, packed)]
        codes = [answer.code for answer in pool.map(driver.kubelet.publish, volumes)]

    assert [grpc.StatusCode.OK] * 2 == codes
    assert 512 * MIB == (driver.kubelet.target(volumes[0]) / "weights").stat().st_size
    assert peak[0] < _MEMORY_BYTES


@pytest.mark.parametrize("layers", [1, 4])
def test_zstd_with_a_long_window(make_driver: MakeDriver, registry: FakeRegistry, layers: int) -> None:
    """`zstd --long` (a window of 128 MiB) is a common way to pack weights: its window comes on top, one at a time."""
    driver = make_driver()
    block = random_bytes("long", 8 * MIB)
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27, enable_ldm=True)
    tars = [_compressed(tar_of({f"part-{number}": block * 20}), parameters) for number in range(layers)]
    model = push_layers(registry.content, "memory/zstd", [(tar, Format.TAR_ZSTD.media_type, {}) for tar in tars])
    with measured_memory(driver) as peak:
        answer = driver.kubelet.publish(model.volume(registry.host, "long"))

    assert grpc.StatusCode.OK == answer.code, answer.text
    assert peak[0] < _MEMORY_BYTES + 128 * MIB


def _compressed(data: bytes, parameters: zstandard.ZstdCompressionParameters) -> bytes:
    """As a program does that does not know the size beforehand: the frame says only its window."""
    buffer = io.BytesIO()
    zstandard.ZstdCompressor(compression_params=parameters).copy_stream(io.BytesIO(data), buffer)
    return buffer.getvalue()
