"""Guesses what will be read next, so that the driver fetches it before it is asked for.

A reader that goes on where it stopped is sequential: the driver is told of 4 MiB ahead, then 8, 16 and 32. One that jumps (a
loader that reads a header and then tensors here and there) begins anew at the new place, and nothing is fetched for it ahead
until it has gone on there. Several readers of one file are told apart by their places.
"""

from __future__ import annotations

from collections import OrderedDict

_FIRST_WINDOW = 4 << 20
_LAST_WINDOW = 32 << 20
_SLACK = 2 << 20
"""The kernel's own read-ahead sends requests of up to 1 MiB, a few at a time, and a fault's begin before the byte it wants."""
_MAX_STREAMS = 4
_MAX_FILES = 1024


class _Stream:
    __slots__ = ("hinted", "position", "window")

    def __init__(self, position: int) -> None:
        self.position = position
        """Where the last read ended."""
        self.window = 0
        self.hinted = position
        """Up to where the driver was told."""


class ReadAhead:
    """The readers of all files of a process; `next_hint` is told each read of a file that is not complete."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, int], list[_Stream]] = OrderedDict()

    def next_hint(self, key: tuple[str, int], start: int, end: int, size: int) -> tuple[int, int] | None:
        """The range that the driver should be told of, given that [start, end) is read now."""
        streams = self._files.setdefault(key, [])
        self._files.move_to_end(key)
        if len(self._files) > _MAX_FILES:
            self._files.popitem(last=False)
        stream = next((stream for stream in streams if abs(start - stream.position) <= _SLACK), None)
        if stream is None:
            streams.append(_Stream(end))
            del streams[:-_MAX_STREAMS]
            return None
        streams.remove(stream)
        streams.append(stream)
        stream.position = max(stream.position, end)
        wanted = min(size, stream.position + (stream.window or _FIRST_WINDOW))
        begin = max(stream.hinted, stream.position)
        if wanted <= begin or begin - stream.position > stream.window // 2:
            return None  # at least half of the window is still ahead of the reader
        stream.window = min(_LAST_WINDOW, max(_FIRST_WINDOW, 2 * stream.window))
        wanted = min(size, stream.position + stream.window)
        stream.hinted = wanted
        return begin, wanted

    def forget(self, key: tuple[str, int]) -> None:
        """The file is complete."""
        self._files.pop(key, None)

    def forget_view(self, view: str) -> None:
        """The view has gone."""
        for key in [key for key in self._files if key[0] == view]:
            del self._files[key]
