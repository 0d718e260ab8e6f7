"""Gitignore patterns exactly as go-git matches them, with its oddities: existing deployments rely on the result.

Follows go-git v5 (`plumbing/format/gitignore/pattern.go`) over Go's `filepath.Match` (`globs.py`). What git itself would do
differs in several cases (`foo/**` matches a file `foo` here). Comments and blank patterns have no meaning of their own.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from modelcsi.artifact.globs import match

_SPECIAL = frozenset("*?[\\/")


class Verdict(enum.Enum):
    """What one pattern says about a path."""

    NO_MATCH = enum.auto()
    EXCLUDE = enum.auto()
    INCLUDE = enum.auto()


def judge(pattern: str, path: Sequence[str]) -> Verdict:
    """What `pattern` says about the file with these path components (`ParsePattern(pattern, nil).Match(path, false)`)."""
    simple = _simple(pattern)
    if simple is not None and len(path) == 1:  # 256 of these are asked about each of 100,000 files
        found = path[0].endswith(simple.text) if simple.is_suffix else path[0] == simple.text
        return Verdict.NO_MATCH if not found else Verdict.INCLUDE if simple.includes else Verdict.EXCLUDE
    text = pattern.encode("utf-8", "surrogatepass")
    names = [name.encode("utf-8", "surrogatepass") for name in path]
    includes = text.startswith(b"!")
    text = text[includes:]
    if not text.endswith(b"\\ "):
        text = text.rstrip(b" ")
    directory_only = text.endswith(b"/")
    text = text[: len(text) - directory_only]
    parts = text.split(b"/")
    matched = (
        _matches_path(parts, names, directory_only) if len(parts) > 1 else _matches_name(text, names, directory_only)
    )
    if not matched:
        return Verdict.NO_MATCH
    return Verdict.INCLUDE if includes else Verdict.EXCLUDE


@dataclass(frozen=True, slots=True)
class _Simple:
    """A pattern that is a name, or `*` and the end of one."""

    text: str
    is_suffix: bool
    includes: bool


@functools.lru_cache(maxsize=1024)
def _simple(pattern: str) -> _Simple | None:
    text = pattern.removeprefix("!").rstrip(" ")
    is_suffix = text.startswith("*")
    rest = text.removeprefix("*")
    if not text or _SPECIAL.intersection(rest):
        return None
    return _Simple(rest, is_suffix, pattern.startswith("!"))


def _matches_name(pattern: bytes, names: list[bytes], directory_only: bool) -> bool:  # noqa: FBT001
    for number, name in enumerate(names):
        matched = match(pattern, name)
        if matched is None:
            return False
        if matched:
            return not (directory_only and number == len(names) - 1)
    return False


def _matches_path(parts: list[bytes], names: list[bytes], directory_only: bool) -> bool:  # noqa: FBT001
    matched = False
    may_skip = False
    rest = names
    for number, part in enumerate(parts):
        if part == b"":
            may_skip = False
        elif part == b"**":
            if number == len(parts) - 1:
                break
            may_skip = True
        elif b"**" in part or not rest:
            return False
        elif may_skip:
            may_skip = False
            found = _skip_to(part, rest)
            if found is None:
                return False
            matched, rest = (True, found) if found is not rest else (False, [])
        else:
            if not match(part, rest[0]):
                return False
            matched, rest = True, rest[1:]
    return matched and not (directory_only and not rest)


def _skip_to(part: bytes, names: list[bytes]) -> list[bytes] | None:
    """The names behind the first that matches; `names` itself when none does, None when the pattern is malformed."""
    for number, name in enumerate(names):
        matched = match(part, name)
        if matched is None:
            return None
        if matched:
            return names[number + 1 :]
    return names
