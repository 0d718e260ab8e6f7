"""Processes that read a lazy mount without pause, each byte compared with what it must be (`reader.py`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.lazy import LazyFile

_READER = Path(__file__).with_name("reader.py")

Report = dict[str, Any]
"""What one of them did: `reads`, `errors`, `wrong` bytes, and how long the `longest` step took."""


@contextmanager
def readers(
    mount: Path, files: Sequence[LazyFile], originals: Path, count: int
) -> Iterator[Callable[[], list[Report]]]:
    """The call stops them and tells how it went. `originals` is made, for what the files must be."""
    originals.mkdir()
    for file in files:
        (originals / file.path).write_bytes(file.content)
    command = [sys.executable, str(_READER), str(mount), str(originals)]
    names = [file.path for file in files]
    started = [subprocess.Popen([*command, str(seed), *names], stdout=subprocess.PIPE) for seed in range(count)]

    def stop() -> list[Report]:
        for reader in started:
            reader.terminate()
        reports = [json.loads(reader.communicate(timeout=60)[0]) for reader in started]
        sys.stdout.write(f"{[(report['reads'], round(report['longest'], 3)) for report in reports]}\n")
        return reports

    try:
        yield stop
    finally:
        for reader in started:
            with reader:
                reader.kill()


def assert_nothing_noticed(reports: Sequence[Report], least_reads: int = 0) -> None:
    """No error and no wrong byte, and each of them did read."""
    assert [[]] * len(reports) == [report["errors"] for report in reports]
    assert [0] * len(reports) == [report.get("wrong", 0) for report in reports]
    assert all(report["reads"] > least_reads for report in reports)
