"""What the driver's small things take: start, the publish of a cached model, a repeated publish, unpublish, memory.

A real driver process, a real registry, real mounts, one call at a time over the CSI socket as kubelet makes them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from tests.fakes.content import Content
from tests.fakes.kubelet import Answer
from tests.integration.driver import Driver, running_driver
from tests.integration.models import push, upload
from tests.integration.registry import running_docker_registry


def main() -> None:
    """Run the calls and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, help="how often each call is made (default: 100)")
    parser.add_argument("--files", type=int, default=30, help="files of the model (default: 30)")
    parser.add_argument("--mebibytes", type=int, default=256, help="size of its largest file (default: 256)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="modelcsi-bench-") as scratch,
        running_driver() as driver,
        running_docker_registry(Path(scratch)) as registry,
    ):
        small = {f"part/{number}.json": os.urandom(20_000) for number in range(options.files - 1)}
        content = Content()
        model = push(content, "bench/publish", {"model.safetensors": os.urandom(options.mebibytes << 20), **small})
        upload(content, registry.host)
        kubelet = driver.kubelet
        first = _seconds(kubelet.publish(model.volume(registry.host, "first")))
        volumes = [model.volume(registry.host, f"pod-{number}") for number in range(options.calls)]
        figures = {
            "first publish (pull)": [first],
            "publish, cached": [_seconds(kubelet.publish(volume)) for volume in volumes],
            "publish, repeated": [_seconds(kubelet.publish(volume)) for volume in volumes],
            "unpublish": [_seconds(kubelet.unpublish(volume)) for volume in volumes],
        }
        memory = driver.rss_anon_bytes()
        figures["start to ready"] = [_restart(driver) for _ in range(5)]
        _seconds(kubelet.unpublish(model.volume(registry.host, "first")))
    for name, seconds in figures.items():
        worst = max(seconds)
        print(f"{name:22} median {statistics.median(seconds) * 1000:8.2f} ms   worst {worst * 1000:8.2f} ms")
    print(f"{'anonymous memory':22} {memory / (1 << 20):.0f} MiB")


def _seconds(answer: Answer) -> float:
    assert answer.is_ok, answer
    return answer.seconds


def _restart(driver: Driver) -> float:
    driver.stop()
    began = time.monotonic()
    driver.start()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
