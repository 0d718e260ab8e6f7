"""A stand-in for the metrics that count calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RecordedOperations:
    """Remembers the name of each operation, and whether it went well, in the order in which they ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, bool]] = []

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.ended.append((name, False))
            raise
        self.ended.append((name, True))
