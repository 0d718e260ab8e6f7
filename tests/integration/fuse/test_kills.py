"""A server that is killed again and again while eight processes read: nobody notices."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fakes.lazy import LazyFile, content_of
from tests.integration.fuse.conftest import MIB, Mount, needs_root

pytestmark = needs_root()

_KILLS = 100
_READERS = 8
_READER = Path(__file__).with_name("reader.py")


@pytest.mark.timeout(600)
def test_hundred_kills(mount: Mount, area: Path) -> None:
    """Reads, faults, opens, closes and listings of files that are here, arrive, become complete and are: no error, no wrong byte.

    How long the longest step took is printed; the bound is generous, since others use the machine.
    """
    files = [LazyFile(name, content_of(name, size * MIB)) for name, size in _SIZES.items()]
    mounted = mount(*files)
    originals = area / "originals"
    originals.mkdir()
    for file in files:
        (originals / file.path).write_bytes(file.content)
    mounted.store.complete("done")
    for chunk in mounted.store.chunks("here"):
        mounted.store.arrive("here", chunk)
    choose = random.Random(6)  # noqa: S311 - not for secrets
    command = [sys.executable, str(_READER), str(mounted.path), str(originals)]
    readers = [subprocess.Popen([*command, str(reader), *_SIZES], stdout=subprocess.PIPE) for reader in range(_READERS)]
    try:
        for kill in range(_KILLS):
            mounted.holder.stand_by()
            threading.Event().wait(choose.uniform(0, 0.1))
            mounted.holder.replace()
            if kill == _KILLS // 2:
                mounted.store.complete("becoming")
        for reader in readers:
            reader.terminate()
        reports = [json.loads(reader.communicate(timeout=60)[0]) for reader in readers]
    finally:
        for reader in readers:
            with reader:
                reader.kill()
    sys.stdout.write(f"{[(report['reads'], round(report['longest'], 3)) for report in reports]}\n")

    assert [[]] * _READERS == [report["errors"] for report in reports]
    assert [0] * _READERS == [report.get("wrong", 0) for report in reports]
    assert all(report["reads"] > _KILLS for report in reports)
    assert max(report["longest"] for report in reports) < 10


_SIZES = {"here": 24, "done": 24, "coming": 48, "becoming": 8}
