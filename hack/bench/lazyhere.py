"""Cases of hack/bench/lazy in which all bytes are here: reading through each adapter and a bind mount, and what servers cost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.bench.lazyparts import MIB, Figures, Goal, Place, Reader, cpu_seconds
from tests.fakes.kubelet import PodVolume
from tests.integration.driver import Driver, eventually, running_driver
from tests.integration.models import Model

_FILE_BYTES = 1024 * MIB
_NAME = "model.safetensors"
_JOBS = {
    "sequential": ("--rw=read", "--bs=1M", "--ioengine=psync", "--loops=3", "--invalidate=0"),
    "random 4 KiB, fio": (
        "--rw=randread",
        "--bs=4k",
        "--ioengine=psync",
        "--io_size=512M",
        "--norandommap",
        "--invalidate=0",
    ),
    "mmap": ("--rw=read", "--bs=1M", "--ioengine=mmap", "--loops=2", "--invalidate=0"),
}
_VIEWS, _FILES = 20, 50
_CLOCK_TICK = 0.01
"""Less CPU time than that is not told; a file has to be opened."""


@dataclass(frozen=True)
class _Way:
    name: str
    path: Path
    server: int | None = None


def throughput(place: Place, figures: Figures, *, rounds: int) -> None:
    """One file through a bind mount, both adapters, and as a plain copy, by turns, from the page cache."""
    model = place.push("bench/here", {_NAME: os.urandom(_FILE_BYTES)})
    with ExitStack() as stack:
        reader = stack.enter_context(Reader())
        ways = [_Way("copy", place.truth(model, _NAME))]
        for adapter in ("passthrough", "pyfuse3"):
            ways += stack.enter_context(_filled(place, model, adapter))
        for _ in range(rounds):
            for job, flags in _JOBS.items():
                speeds = {way.name: _measure(way, job, flags, figures) for way in ways}
                for name, speed in speeds.items():
                    unit = "sequential after the fill (GB/s)" if job == "sequential" else f"{job} after the fill (GB/s)"
                    figures.bar(unit, name, speed)
                ratio = speeds["passthrough"] / speeds["bind"]
                figures.add(f"passthrough: {job}", "x bind", ratio, Goal(0.95, is_least=True))
                if job == "sequential":
                    # Without what the kernel keeps of the mount: the server is asked for each byte.
                    served = _fio(ways[-1].path, "--rw=read", "--bs=1M", "--ioengine=psync", "--invalidate=1")
                    figures.add("pyfuse3: sequential, by the server", "GB/s", served, Goal(2.0, is_least=True))
                else:
                    figures.add(f"pyfuse3: {job}", "x bind", speeds["pyfuse3"] / speeds["bind"])
            speeds = {way.name: max(reader.ask("random", str(way.path), 100_000) for _ in range(3)) for way in ways}
            ratio = speeds["passthrough"] / speeds["bind"]
            figures.add("passthrough: random 4 KiB, in Python", "x bind", ratio, Goal(0.95, is_least=True))


@contextmanager
def _filled(place: Place, model: Model, adapter: str) -> Iterator[list[_Way]]:
    """The model, filled, behind one adapter; behind a bind mount of the same files, too."""
    with running_driver({"log_level": "info", "fuse": {"adapter": adapter}}) as driver:
        lazy, bind = place.volume(model, "lazy", mountMode="lazy"), place.volume(model, "bind")
        with place.at(200e6):
            answer = driver.kubelet.publish(lazy)
            assert answer.is_ok, answer
        eventually(lambda: is_filled(driver), "all of it is here", seconds=120)
        assert driver.kubelet.publish(bind).is_ok
        servers = [server for server in driver.ask("status")["lazy"]["servers"] if server["role"] == "active"]
        assert [adapter] == [server["adapter"] for server in servers]
        ways = [_Way(adapter, driver.kubelet.target(lazy) / _NAME, servers[0]["pid"])]
        if adapter == "passthrough":
            ways.insert(0, _Way("bind", driver.kubelet.target(bind) / _NAME))
        yield ways
        for volume in (lazy, bind):
            assert driver.kubelet.unpublish(volume).is_ok


def is_filled(driver: Driver) -> bool:
    """Whether all lazy views are complete."""
    return all(view["is_complete"] for view in driver.ask("status")["lazy"]["views"])


def _measure(way: _Way, job: str, flags: tuple[str, ...], figures: Figures) -> float:
    """GB/s of one job; the file is in the page cache."""
    with way.path.open("rb", buffering=0) as file:
        while file.read(4 * MIB):
            pass
    before = 0.0 if way.server is None else cpu_seconds(way.server)
    result = _fio(way.path, *flags)
    if way.name == "passthrough" and way.server is not None:
        used = cpu_seconds(way.server) - before
        figures.add(f"passthrough: CPU of the server, {job}", "s", used, Goal(_CLOCK_TICK))
    return result


def _fio(path: Path, *flags: str) -> float:
    """GB/s of one job of fio."""
    command = ["fio", "--name=job", f"--filename={path}", "--readonly", "--output-format=json"]
    done = subprocess.run([*command, *flags], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
    return float(result["bw_bytes"]) / 1e9


def memory(place: Place, figures: Figures) -> None:
    """A server with many views whose files are open, while they arrive and when they are complete."""
    models = [place.push(f"bench/view-{number}", _small_files(number)) for number in range(_VIEWS)]
    with running_driver({"log_level": "info"}) as driver, Reader() as reader:
        volumes: list[PodVolume] = []
        with place.at(20e6):
            for number, model in enumerate(models):
                volumes.append(place.volume(model, f"view-{number}", mountMode="lazy"))
                answer = driver.kubelet.publish(volumes[-1])
                assert answer.is_ok, answer
            _open_all(driver, volumes, reader)
            _tell_memory(driver, figures, "while they arrive")
        eventually(lambda: is_filled(driver), "all of it is here", seconds=120)
        _open_all(driver, volumes, reader)
        _tell_memory(driver, figures, "complete, opened twice")
        for volume in volumes:
            assert driver.kubelet.unpublish(volume).is_ok


def _small_files(seed: int) -> dict[str, bytes]:
    files = {f"part/{number:03d}.bin": os.urandom(100_000) for number in range(_FILES)}
    return {f"weights-{seed}.safetensors": os.urandom(24 * MIB), **files}


def _open_all(driver: Driver, volumes: list[PodVolume], reader: Reader) -> None:
    paths = [str(path) for volume in volumes for path in sorted((driver.kubelet.target(volume) / "part").iterdir())]
    assert reader.ask("open", paths) == _VIEWS * _FILES


def _tell_memory(driver: Driver, figures: Figures, when: str) -> None:
    servers = driver.ask("status")["lazy"]["servers"]
    [active] = [server for server in servers if server["role"] == "active"]
    name = f"memory: {active['views']} views, 1,000 files, {when}"
    figures.add(name, "MiB RssAnon", _rss_anon(active["pid"]) / MIB, Goal(64))


def _rss_anon(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024
