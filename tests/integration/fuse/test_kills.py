"""A server that is killed again and again while eight processes read: nobody notices."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.fakes.lazy import LazyFile, content_of
from tests.integration.fuse.conftest import MIB, Mount, needs_root
from tests.integration.fuse.readers import assert_nothing_noticed, readers

pytestmark = needs_root()

_KILLS = 100
_READERS = 8
_SIZES = {"here": 24, "done": 24, "coming": 48, "becoming": 8}


@pytest.mark.timeout(600)
def test_hundred_kills(mount: Mount, area: Path) -> None:
    """Reads, faults, opens, closes and listings of files that are here, arrive, become complete and are: no error, no wrong byte.

    How long the longest step took is printed; the bound is generous, since others use the machine.
    """
    files = [LazyFile(name, content_of(name, size * MIB)) for name, size in _SIZES.items()]
    mounted = mount(*files)
    mounted.store.complete("done")
    for chunk in mounted.store.chunks("here"):
        mounted.store.arrive("here", chunk)
    choose = random.Random(6)  # noqa: S311 - not for secrets
    with readers(mounted.path, files, area / "originals", _READERS) as stop:
        for kill in range(_KILLS):
            mounted.holder.stand_by()
            threading.Event().wait(choose.uniform(0, 0.1))
            mounted.holder.replace()
            if kill == _KILLS // 2:
                mounted.store.complete("becoming")
        reports = stop()

    assert_nothing_noticed(reports, _KILLS)
    assert max(report["longest"] for report in reports) < 10
