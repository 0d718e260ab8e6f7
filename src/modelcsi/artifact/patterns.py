"""Gitignore patterns exactly as go-git matches them, with its oddities: existing deployments rely on the result.

Follows go-git v5 (`plumbing/format/gitignore/pattern.go`) over Go's `filepath.Match` (`globs.py`). What git itself would do
differs in several cases (`foo/**` matches a file `foo` here). Comments and blank patterns have no meaning of their own.

`judge` is one pattern and one path, as go-git has it. The drivers' lists are on base names alone, and up to 256 patterns of a
list are held against each of 100,000 names: `NameList` is that, in one regular expression.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache

from modelcsi.artifact.globs import expression, match, needed_text, widened

_MAX_LISTS = 8
_NEVER = "(?!)"


class Verdict(enum.Enum):
    """What one pattern says about a path."""

    NO_MATCH = enum.auto()
    EXCLUDE = enum.auto()
    INCLUDE = enum.auto()


def judge(pattern: str, path: Sequence[str]) -> Verdict:
    """What `pattern` says about the file with these path components (`ParsePattern(pattern, nil).Match(path, false)`)."""
    names = [name.encode("utf-8", "surrogatepass") for name in path]
    verdict, parts, directory_only = _parse(pattern)
    matched = (
        _matches_path(parts, names, directory_only)
        if len(parts) > 1
        else _matches_name(parts[0], names, directory_only)
    )
    return verdict if matched else Verdict.NO_MATCH


class NameList:
    """What a list of patterns says about base names; any thread."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._globs = [found for pattern in reversed(patterns) if (found := _name_glob(pattern)) is not None]

    def judge(self, name: str) -> Verdict:
        """What the last pattern that matches the base name of a normalised path says."""
        wide = widened(name)
        rules = self._plain if wide is name else self._wide
        return next((verdict for verdict, expression in rules if expression.fullmatch(wide)), Verdict.NO_MATCH)

    # Compiled twice: all that a character may be takes ten times the expression, and most names are ASCII.
    @cached_property
    def _plain(self) -> list[tuple[Verdict, re.Pattern[str]]]:
        return self._compiled(is_wide=False)

    @cached_property
    def _wide(self) -> list[tuple[Verdict, re.Pattern[str]]]:
        return self._compiled(is_wide=True)

    def _compiled(self, *, is_wide: bool) -> list[tuple[Verdict, re.Pattern[str]]]:
        """The last first. Of neighbours that say the same any may match: one expression for all of them."""
        return [
            (verdict, re.compile("|".join(expression(glob, is_wide=is_wide) or _NEVER for _, glob in group)))
            for verdict, group in itertools.groupby(self._globs, key=lambda found: found[0])
        ]


@lru_cache(maxsize=_MAX_LISTS)
def name_list(patterns: tuple[str, ...]) -> NameList:
    """The list, made once: a selection is asked once for each file."""
    return NameList(patterns)


def idle_patterns(patterns: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """The patterns that match none of these base names, each taken alone."""
    known = {widened(name) for name in names}
    text = "/".join(known).encode("utf-8", "surrogatepass")
    is_wide = not text.isascii()
    for pattern in patterns:
        found = _name_glob(pattern)
        told = expression(found[1], is_wide=is_wide) if found and needed_text(found[1]) in text else None
        if told is None or not any(map(re.compile(told).fullmatch, known)):
            yield pattern


def _parse(pattern: str) -> tuple[Verdict, list[bytes], bool]:
    """What a pattern says of what it matches, its parts between slashes, and whether it is about directories only."""
    text = pattern.encode("utf-8", "surrogatepass")
    includes = text.startswith(b"!")
    text = text[includes:]
    if not text.endswith(b"\\ "):
        text = text.rstrip(b" ")
    directory_only = text.endswith(b"/")
    parts = text[: len(text) - directory_only].split(b"/")
    return Verdict.INCLUDE if includes else Verdict.EXCLUDE, parts, directory_only


def _name_glob(pattern: str) -> tuple[Verdict, bytes] | None:
    """The one part that is held against a base name, and what follows when it matches; None for a pattern of directories or paths."""
    verdict, parts, directory_only = _parse(pattern)
    if len(parts) > 1:
        parts = [part for part in parts if part not in {b"", b"**"}]
        if any(b"**" in part for part in parts):
            return None
    return (verdict, parts[0]) if len(parts) == 1 and not directory_only else None


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
