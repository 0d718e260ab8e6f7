"""What a person sees on a terminal: one line of progress, and tables."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TextIO

from modelcsi.pull.progress import Progress, ProgressReport
from modelcsi.quantities import format_amounts, format_seconds, format_size

_BAR = 24
_DRAW_SECONDS = 0.2
_CLEAR = "\r\033[K"


class ProgressLine:
    """A bar that is drawn over itself; silent where the stream is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def show(self, what: str, progress: ProgressReport) -> None:
        """Draw the present state."""
        if not self._is_terminal:
            return
        bar = draw_bar(progress.done_bytes, progress.total_bytes)
        eta = "" if progress.eta_seconds is None else f", {format_seconds(progress.eta_seconds)} left"
        amounts = format_amounts(progress.done_bytes, progress.total_bytes)
        text = f"{what} {bar} {progress.percent:3d}% {amounts}, {format_size(progress.rate)}/s{eta}"
        if progress.trouble is not None:
            text = f"{what} {bar} {progress.percent:3d}% waiting: {progress.trouble.message}"
        self._stream.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_terminal:
            self._stream.write(_CLEAR)
            self._stream.flush()


@contextlib.contextmanager
def drawn(stream: TextIO, what: str, progress: Progress) -> Iterator[None]:
    """Draw `progress` while the block works; for work that has no moment of its own to draw in."""
    done = threading.Event()

    def draw() -> None:
        while not done.wait(_DRAW_SECONDS):
            line.show(what, progress.report())

    with ProgressLine(stream) as line:
        thread = threading.Thread(target=draw, name="progress", daemon=True)
        if stream.isatty():
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.is_alive():
                thread.join()


def draw_bar(done: int, total: int) -> str:
    """A bar of fixed width."""
    filled = _BAR if not total else min(_BAR, done * _BAR // total)
    return "█" * filled + "░" * (_BAR - filled)


def draw_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between them."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)
