"""A place for a socket in a directory that is held open: a socket's path has at most 107 bytes, a directory's has not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self


class SocketPlace:
    """A context manager: `socket_path` is valid within."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / name
        self.descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.socket_path = f"/proc/self/fd/{self.descriptor}/{name}"
        """Short, whatever the directory's path is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def __str__(self) -> str:
        return str(self._path)
