"""The case of hack/bench/lazy in which processes are killed while others read."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from hack.bench.lazyparts import MIB, Figures, Goal, Place, Reader
from tests.integration.driver import Driver, eventually, running_driver

_READERS = 4
"""Of each kind: of what is here, and of what is not."""
_RATE = 12e6
_SECONDS_A_KILL = 2.0
_HERE_BYTES = 16 * MIB
_NAME = "model.safetensors"


def kills(place: Place, figures: Figures, *, kills: int) -> None:
    """Kill the server, the driver and both by turns. The model is as big as is needed for it not to be complete before."""
    size = max(128 * MIB, int(kills * _SECONDS_A_KILL * _RATE) // MIB * MIB)
    model = place.push("bench/kills", {_NAME: os.urandom(size)})
    until = place.scratch / "killed"
    with ExitStack() as stack:
        driver = stack.enter_context(running_driver({"log_level": "info", "fuse": {"adapter": "passthrough"}}))
        readers = [stack.enter_context(Reader()) for _ in range(2 * _READERS)]
        stack.enter_context(place.at(_RATE))
        volume = place.volume(model, "kills", mountMode="lazy")
        assert driver.kubelet.publish(volume).is_ok
        path = driver.kubelet.target(volume) / _NAME
        truth = str(place.truth(model, _NAME))
        readers[0].ask("range", str(path), 0, _HERE_BYTES, truth, 0)
        for number, reader in enumerate(readers):
            spans = [[0, _HERE_BYTES, 0]] if number < _READERS else [_absent(size, number - _READERS)]
            reader.tell("probe", str(path), truth, spans, str(until), number)
        restarts = _kill_by_turns(driver, kills)
        _finish(driver, until, figures, readers, restarts)
        assert driver.kubelet.unpublish(volume).is_ok


def _absent(size: int, number: int) -> list[int]:
    """A part for each reader of what arrives last: it walks there, a chunk at a time."""
    part = (size // 2) // _READERS // MIB * MIB
    start = size - (number + 1) * part
    return [start, start + part, MIB]


def _kill_by_turns(driver: Driver, kills: int) -> list[float]:
    """Returns how long the driver was away, each time."""
    restarts = []
    for number in range(kills):
        began = time.monotonic()
        if number % 3 != 1:
            os.kill(_active(driver), signal.SIGKILL)
        if number % 3 != 0:
            killed = time.monotonic()
            driver.kill()
            driver.start()
            restarts.append(time.monotonic() - killed)
        eventually(lambda: _has_standby(driver), "there is a standby again", seconds=30, poll_seconds=0.3)
        time.sleep(max(0.0, _SECONDS_A_KILL - 0.5 - (time.monotonic() - began)))
    return restarts


def _active(driver: Driver) -> int:
    [pid] = [server["pid"] for server in driver.ask("status")["lazy"]["servers"] if server["role"] == "active"]
    return int(pid)


def _has_standby(driver: Driver) -> bool:
    servers = driver.ask("status")["lazy"]["servers"]
    return {"active", "standby"} == {server["role"] for server in servers}


def _finish(driver: Driver, until: Path, figures: Figures, readers: list[Reader], restarts: list[float]) -> None:
    views = driver.ask("status")["lazy"]["views"]
    until.touch()
    answers = [reader.answer() for reader in readers]
    here, absent = answers[:_READERS], answers[_READERS:]
    errors = [error for answer in answers for error in answer["errors"]]
    for error in errors[:5]:
        print(error)
    longest = max(restarts, default=0.0)
    figures.add("kills: errors", "", len(errors), Goal(0))
    figures.add("kills: wrong pieces", "", sum(answer["wrong"] for answer in answers), Goal(0))
    figures.add("kills: longest read of what is here", "s", max(answer["longest"] for answer in here), Goal(0.25))
    figures.add("kills: the driver's longest restart", "s", longest)
    figures.add(
        "kills: longest read of what is not", "s", max(answer["longest"] for answer in absent), Goal(longest + 1)
    )
    figures.add("kills: reads of what is here", "", sum(answer["reads"] for answer in here))
    figures.add("kills: reads of what is not", "", sum(answer["reads"] for answer in absent))
    figures.add("kills: views complete at the end", "", sum(view["is_complete"] for view in views), Goal(0))
