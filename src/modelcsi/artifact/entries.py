"""What a tree of files is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import cached_property

from modelcsi.oci.digest import Digest

FILE_MODE = 0o444


class EntryType(enum.Enum):
    """What a pod sees; hard links are files."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of a tree. `layer` and `member`, or `data`, say where a file's bytes are."""

    path: str
    type: EntryType
    size: int = 0
    mode: int = FILE_MODE
    """What is shown: 0o444 or 0o555, directories 0o555, symbolic links 0o777."""
    mtime_ns: int | None = None
    """None: the artifact does not say."""
    target: str = ""
    layer: Digest | None = None
    """Of a file; None for directories, symbolic links and files with `data`."""
    member: int | None = None
    """None: the whole blob is the file; else its place among the members of that tar, never that of a hard link."""
    sha256: str = field(default="", compare=False)
    """Of a member that was kept; follows from `layer` and `member`. That of a whole blob is its digest."""
    data: bytes | None = None
    """All of a file that is in no layer."""


@dataclass(frozen=True)
class FileTree:
    """All entries, by path; the root itself is none of them, every other directory is."""

    entries: tuple[FileEntry, ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def size_bytes(self) -> int:
        """The sum of the files' sizes; what several paths share counts at each."""
        return sum(entry.size for entry in self.entries)
