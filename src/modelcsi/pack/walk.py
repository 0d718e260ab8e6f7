"""Which files of a directory become layers.

- Regular files, each under its path relative to the directory.
- Symbolic links to files and directories inside the directory are followed: a raw layer is one file and cannot be a link.
  A link that leaves the directory is refused: what it leads to is not what the user pointed at, and an artifact is public.
- Left out, and told to the user: version control, caches and litter of tools, and files that hold credentials.
- Devices, sockets and FIFOs are refused: nothing they could mean would survive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelcsi.artifact.paths import normalise_path, shown
from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.oci.manifest import MAX_LAYERS

_LEFT_OUT = frozenset(
    {
        ".git", ".hg", ".svn", ".cache", ".huggingface", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".mypy_cache",
        ".ruff_cache", ".venv", ".DS_Store", "Thumbs.db", ".env", ".netrc", ".git-credentials",
    }
)  # fmt: skip
_MAX_TIME_SECONDS = 8**11 - 1
"""In 2242: what fits into the header of a tar."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to pack, as it was when the directory was walked."""

    path: str
    """Normalised, relative to the directory."""
    source: Path
    """Where its bytes are, links resolved."""
    size: int
    mode: int
    """Permission bits."""
    mtime_ns: int

    @property
    def mtime_seconds(self) -> int:
        """Its time as it is packed, in every format alike: a tar, and what copied the file before, may know whole seconds only."""
        return min(max(0, self.mtime_ns // 1_000_000_000), _MAX_TIME_SECONDS)


@dataclass(frozen=True, slots=True)
class Walked:
    """The files of a directory by path, and the paths that were left out on purpose."""

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...]


def walk(directory: Path) -> Walked:
    """The files of `directory`.

    Raises InvalidRequest when it cannot be read or holds no file, UnsupportedArtifact for what an artifact cannot hold.
    """
    try:
        root = directory.resolve(strict=True)
        if not root.is_dir():
            raise InvalidRequest(
                f"{directory} is not a directory", hint="pack takes the directory that holds the model"
            )
        left_out: list[str] = []
        files = sorted(_walk(root, root, "", (), left_out), key=lambda file: file.path)
    except OSError as error:
        raise InvalidRequest(f"{error.filename or directory} cannot be read: {error.strerror}") from error
    if not files:
        raise InvalidRequest(f"{directory} holds no files to pack")
    if len(files) > MAX_LAYERS:
        raise UnsupportedArtifact(f"{directory} holds {len(files)} files; an artifact has at most {MAX_LAYERS}")
    return Walked(tuple(files), tuple(sorted(left_out)))


def _walk(root: Path, here: Path, prefix: str, above: tuple[Path, ...], left_out: list[str]) -> Iterator[SourceFile]:
    """`above` are the real directories that lead to `here`: a link to one of them would go on for ever."""
    if here in above:
        raise UnsupportedArtifact(f"the link {shown(prefix.rstrip('/'))} leads to a directory that it lies in")
    with os.scandir(here) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        # UTF-8 whatever the locale says: the same directory has the same paths everywhere.
        path, place = prefix + os.fsencode(name).decode("utf-8", "surrogateescape"), here / name
        if name in _LEFT_OUT:
            left_out.append(path)
            continue
        target = _target(root, path, place)
        status = target.stat()
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, target, f"{path}/", (*above, here), left_out)
        elif stat.S_ISREG(status.st_mode):
            checked = normalise_path(path, f"directory {root}")
            yield SourceFile(checked, target, status.st_size, status.st_mode & 0o777, status.st_mtime_ns)
        else:
            raise UnsupportedArtifact(
                f"{shown(path)} is neither a file nor a directory", hint="remove it, or pack a copy"
            )


def _target(root: Path, path: str, place: Path) -> Path:
    if not place.is_symlink():
        return place
    try:
        target = Path(os.path.realpath(place, strict=True))
    except OSError as error:  # absent, or a loop of links
        raise UnsupportedArtifact(f"the link {shown(path)} leads to nothing: {error.strerror}") from error
    if not target.is_relative_to(root):
        raise UnsupportedArtifact(
            f"the link {shown(path)} leads out of {root}, to {shown(str(target))}",
            hint="pack a copy with the files themselves (cp -rL)",
        )
    return target
