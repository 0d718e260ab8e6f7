"""What the cases of hack/bench/lazy share: models in a real registry, readers in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.fakes.content import Content
from tests.fakes.kubelet import PodVolume
from tests.integration.models import Format, Model, push, upload
from tests.integration.registry import DockerRegistry
from tests.integration.wire import Wire

MIB = 1 << 20


@dataclass(frozen=True)
class Goal:
    """What issue 6 asks of a figure: at most, or at least."""

    limit: float
    is_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether the worst that counts is good enough."""
        return value >= self.limit if self.is_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.limit:g}"


@dataclass
class Figure:
    """One thing that was measured, several times."""

    name: str
    unit: str
    goal: Goal | None = None
    values: list[float] = field(default_factory=list)


class Figures:
    """All of one run, in the order of their first value."""

    def __init__(self) -> None:
        self.all: dict[str, Figure] = {}
        self.bars: dict[str, dict[str, list[float]]] = {}
        """For the plot: what is compared, by way."""

    def add(self, name: str, unit: str, value: float, goal: Goal | None = None) -> None:
        """One more value."""
        self.all.setdefault(name, Figure(name, unit, goal)).values.append(value)
        print(f"  {name}: {value:.3f} {unit}", file=sys.stderr, flush=True)

    def bar(self, group: str, way: str, value: float) -> None:
        """One more value for the plot."""
        self.bars.setdefault(group, {}).setdefault(way, []).append(value)
        print(f"  {group}, {way}: {value:.3f}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Place:
    """Where a run takes place."""

    scratch: Path
    registry: DockerRegistry
    wire: Wire

    def push(self, repository: str, files: Mapping[str, bytes], packed: Format = Format.RAW) -> Model:
        """A model in the registry; each file is in `truth` too."""
        content = Content()
        model = push(content, repository, files, packed)
        upload(content, self.registry.host)
        for path, data in files.items():
            target = self.truth(model, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return Model(model.repository, model.tag, model.digest, model.layers, model.size_bytes, {})

    def truth(self, model: Model, path: str) -> Path:
        """A file of a model as it is."""
        return self.scratch / "truth" / model.repository / path

    def volume(self, model: Model, pod: str, **attributes: str) -> PodVolume:
        """A pod's volume of a model, over the wire."""
        return model.volume(self.wire.host, pod, **attributes)

    @contextmanager
    def at(self, bytes_per_second: float) -> Iterator[None]:
        """The wire at this rate, for all connections together."""
        self.wire.bytes_per_second = int(bytes_per_second)
        try:
            yield
        finally:
            self.wire.bytes_per_second = 0


class Reader:
    """A process that reads (`lazyreader.py`); a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hack.bench.lazyreader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer_line() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def ask(self, order: str, *arguments: object) -> Any:
        """The answer to one order."""
        self.tell(order, *arguments)
        return self.answer()

    def tell(self, order: str, *arguments: object) -> None:
        """Give an order; `answer` has to follow."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([order, *arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Of the oldest order without an answer."""
        return json.loads(self._answer_line())

    def _answer_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the reader has ended"
        return line


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
