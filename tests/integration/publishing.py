"""What the tests of promises have in common: a publish that must succeed."""

from __future__ import annotations

from pathlib import Path

import grpc

from tests.fakes.kubelet import PodVolume
from tests.integration.driver import Driver


def published(driver: Driver, volume: PodVolume) -> Path:
    """Publish, and where it is."""
    answer = driver.kubelet.publish(volume)
    assert (grpc.StatusCode.OK, "") == (answer.code, answer.text)
    return driver.kubelet.target(volume)
