"""The real holder with the real servers, killed in turn while eight processes read."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from modelcsi.mount.daemons import Daemons
from modelcsi.mount.fusemount import abort
from tests.fakes.fuse_mount import mount_fuse, unmount
from tests.fakes.lazy import VIEW, LazyDriver, LazyFile, LazyStore, content_of
from tests.integration.fuse.conftest import MIB, needs_root
from tests.integration.fuse.readers import assert_nothing_noticed, readers

pytestmark = needs_root()

_READERS = 8
_ROUNDS = 40
_SIZES = {"here": 24, "done": 24, "coming": 48}


@pytest.fixture
def daemons(area: Path) -> Iterator[Daemons]:
    """A driver's, whose holder is the command that the chart runs."""
    root = area / "root"
    root.mkdir()
    config = area / "config.yaml"
    config.write_text(f"root_dir: {root}\ncsi_endpoint: unix://{area}/csi.sock\n")
    command = [sys.executable, "-m", "modelcsi.cli.main", "fuse", "--config", str(config), "--until-idle"]
    made = Daemons(root, lambda *_: None, command)
    made.start()
    yield made
    with suppress(OSError):
        made.release(VIEW)
    made.stop()


@pytest.mark.timeout(600)
def test_kills_in_turn(daemons: Daemons, area: Path, abort_seconds: float) -> None:
    """Servers, standbys and the holder are killed, alone and together, and the holder is updated: no error, no wrong byte."""
    files = [LazyFile(name, content_of(name, size * MIB)) for name, size in _SIZES.items()]
    store = LazyStore(area / "root", files)
    target = area / "mount"
    target.mkdir()
    store.complete("done")
    for chunk in store.chunks("here"):
        store.arrive("here", chunk)
    choose = random.Random(6)  # noqa: S311 - not for secrets
    with LazyDriver(store), ExitStack() as stack:
        fd, device = mount_fuse(target, VIEW)
        stack.callback(unmount, target)
        watchdog = threading.Timer(abort_seconds, abort, (device,))
        watchdog.start()
        stack.callback(watchdog.cancel)
        daemons.hold(VIEW, fd, "passthrough", device, b"secret")
        os.close(fd)
        with readers(target, files, area / "originals", _READERS) as stop:
            for _ in range(_ROUNDS):
                threading.Event().wait(choose.uniform(0, 0.7))
                _harm(daemons, choose.randrange(5))
            reports = stop()

    assert_nothing_noticed(reports, _ROUNDS)


def _harm(daemons: Daemons, sort: int) -> None:
    """Something that happens to processes."""
    servers = {server.role: server.pid for server in daemons.servers()}
    holder = daemons.holder_pid
    harms: dict[int, list[tuple[int | None, signal.Signals]]] = {
        0: [(servers.get("active"), signal.SIGKILL)],
        1: [(servers.get("standby"), signal.SIGKILL), (servers.get("active"), signal.SIGKILL)],
        2: [(holder, signal.SIGKILL)],
        3: [(holder, signal.SIGKILL), (servers.get("active"), signal.SIGKILL)],
        4: [(holder, signal.SIGHUP)],
    }
    for pid, number in harms[sort]:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
