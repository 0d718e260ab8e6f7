"""What a person reads: numbered steps with their facts aligned; what passes (a bar) only on a terminal, colours only if wanted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TextIO

from modelcsi.cli.terminal import draw_bar
from modelcsi.quantities import format_amounts, format_size

_TITLE_WIDTH = 11
_INDENT = " " * (_TITLE_WIDTH + 6)
_OUTPUT_INDENT = " " * 5
_CLEAR = "\r\033[K"
_BOLD, _DIM, _RED, _GREEN = "1", "2", "31", "32"


class Screen:
    """Writes to one stream. A fact is a line that stays, `passing` a line that the next one replaces."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty() and environment.get("TERM") != "dumb"
        self._has_colour = self._is_terminal and not environment.get("NO_COLOR")  # no-color.org: set and not empty
        self._number = 0
        self._title = ""
        self._passing = False

    def headline(self, text: str) -> None:
        """Before the first step, and after the last."""
        self._write(f"{self._paint(_BOLD, text)}\n")

    def step(self, title: str, doing: str) -> None:
        """Begin the next step; `doing` is shown until its first fact."""
        self._number += 1
        self._title = title
        self._write("\n") if self._number == 1 else None
        self.passing(doing)

    def fact(self, text: str) -> None:
        """What is the case."""
        self._write(f"{self._margin()}{text}\n")
        self._title = ""

    def proof(self, text: str) -> None:
        """What was checked and holds."""
        self.fact(f"{self._paint(_GREEN, '✓')} {text}")

    def command(self, *words: str) -> None:
        """What a person would type to do the same."""
        self.fact(self._paint(_DIM, " ".join(["$", *words])))

    def output(self, text: str) -> None:
        """What a program wrote; on a terminal its lines are cut rather than wrapped."""
        for line in text.splitlines():
            self._write(f"{_OUTPUT_INDENT}{self._cut(line, len(_OUTPUT_INDENT))}\n")

    def passing(self, text: str) -> None:
        """What is the case at this moment."""
        if self._is_terminal:
            self._write(f"{self._margin()}{self._paint(_DIM, self._cut(text, len(_INDENT)))}")
            self._passing = True

    def bar(self, done: int, total: int, rate: float | None = None) -> None:
        """How much of something has arrived."""
        speed = "" if rate is None else f"  {format_size(rate)}/s"
        self.passing(
            f"{draw_bar(done, total)} {done * 100 // max(total, 1):3d} %  {format_amounts(done, total)}{speed}"
        )

    def keep(self) -> None:
        """What was passing stays."""
        if self._passing:
            self._passing = False
            self._title = ""
            self._write("\n")

    def failure(self, message: str, details: str = "") -> None:
        """Why the demonstration ends early."""
        if self._title:
            self.fact("")  # the step that failed before it had one
        self._write(f"\n{self._paint(_RED, '✗')} {message}\n")
        for line in details.splitlines():
            self._write(f"  {line}\n")

    def notice(self, text: str) -> None:
        """Something outside the steps."""
        self._write(f"\n{text}\n")

    def _margin(self) -> str:
        if not self._title:
            return _INDENT
        return f" {self._number:2d}  {self._paint(_BOLD, self._title.ljust(_TITLE_WIDTH))} "

    def _cut(self, text: str, indent: int) -> str:
        width = shutil.get_terminal_size().columns - indent - 1
        return text if not self._is_terminal or len(text) <= width else text[: max(0, width - 1)] + "…"

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._has_colour else text

    def _write(self, text: str) -> None:
        if self._passing:
            text = _CLEAR + text
            self._passing = False
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # Whoever read has gone (`| head`, a closed terminal): the story, and above all its cleaning up, goes on unseen.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
