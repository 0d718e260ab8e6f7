r"""Gitignore patterns exactly as go-git matches them, with its oddities: existing deployments rely on the result.

Follows go-git v5 (`plumbing/format/gitignore/pattern.go`) and Go's `filepath.Match` (`path/filepath/match.go`), which works
on bytes: `*` may stop inside a character, `[]a]` and `[a` are malformed, `[!a]` is a set of two, `[^a]` the complement,
and a malformed pattern is noticed only when the match gets that far. What git itself would do differs in several cases
(`foo/**` matches a file `foo` here). Comments and blank patterns have no meaning of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

_SLASH = ord("/")
_BACKSLASH = ord("\\")
_REPLACEMENT = 0xFFFD
_MAX_PARSED = 4096
"""Parts of patterns that are kept parsed: a selection is asked once per file."""


class Verdict(enum.Enum):
    """What one pattern says about a path."""

    NO_MATCH = enum.auto()
    EXCLUDE = enum.auto()
    INCLUDE = enum.auto()


class _MalformedError(Exception):
    """The pattern is malformed at a place that the match has reached (Go's ErrBadPattern)."""


@dataclass(frozen=True, slots=True)
class _Class:
    """What stands in brackets: first and last characters, which may be the same."""

    ranges: tuple[tuple[int, int], ...]
    is_negated: bool

    def has(self, rune: int) -> bool:
        return any(low <= rune <= high for low, high in self.ranges) is not self.is_negated


_Elements: TypeAlias = tuple[int | _Class | None, ...]
"""Of the part of a pattern between stars: a byte as it is, a class, or any character but a slash (None)."""


def judge(pattern: str, path: Sequence[str]) -> Verdict:
    """What `pattern` says about the file with these path components (`ParsePattern(pattern, nil).Match(path, false)`)."""
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


def _matches_name(pattern: bytes, names: list[bytes], directory_only: bool) -> bool:  # noqa: FBT001
    for number, name in enumerate(names):
        matched = _match(pattern, name)
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
            if not _match(part, rest[0]):
                return False
            matched, rest = True, rest[1:]
    return matched and not (directory_only and not rest)


def _skip_to(part: bytes, names: list[bytes]) -> list[bytes] | None:
    """The names behind the first that matches; `names` itself when none does, None when the pattern is malformed."""
    for number, name in enumerate(names):
        matched = _match(part, name)
        if matched is None:
            return None
        if matched:
            return names[number + 1 :]
    return names


def _match(pattern: bytes, name: bytes) -> bool | None:
    """Go's `filepath.Match`; None for its error."""
    try:
        return _match_chunks(pattern, name)
    except _MalformedError:
        return None


def _match_chunks(pattern: bytes, name: bytes) -> bool:
    position = 0
    while pattern:
        star, chunk, pattern = _scan_chunk(pattern)
        if star and not chunk:
            return _SLASH not in name[position:]
        elements = _parse_chunk(chunk)
        end = _match_chunk(elements, name, position)
        if end is not None and (end == len(name) or pattern):
            position = end
            continue
        if not star:
            return False
        end = _match_behind_star(elements, name, position, is_last=not pattern)
        if end is None:
            return False
        position = end
    return position == len(name)


def _match_behind_star(elements: _Elements, name: bytes, start: int, *, is_last: bool) -> int | None:
    """Where a match ends that begins behind at least one character of the star's; None when there is none."""
    for position in range(start + 1, len(name) + 1):
        if name[position - 1] == _SLASH:
            return None
        end = _match_chunk(elements, name, position)
        if end is not None and not (is_last and end < len(name)):
            return end
    return None


def _scan_chunk(pattern: bytes) -> tuple[bool, bytes, bytes]:
    """Whether stars lead, the part up to the next star outside brackets, and what is left."""
    body = pattern.lstrip(b"*")
    in_class = False
    position = 0
    while position < len(body):
        character = body[position : position + 1]
        if character == b"\\":
            position += 1
        elif character == b"[":
            in_class = True
        elif character == b"]":
            in_class = False
        elif character == b"*" and not in_class:
            break
        position += 1
    return len(body) < len(pattern), body[:position], body[position:]


def _match_chunk(elements: _Elements, name: bytes, position: int) -> int | None:
    """Where the match of a chunk ends that begins at `position` of `name`; None when there is none."""
    if len(elements) > len(name) - position:  # each takes a byte at least
        return None
    for element in elements:
        if position >= len(name):
            return None
        if isinstance(element, int):
            if element != name[position]:
                return None
            position += 1
            continue
        rune, width = _decode_rune(name, position)
        is_in = name[position] != _SLASH if element is None else element.has(rune)
        if not is_in:
            return None
        position += width
    return position


@lru_cache(maxsize=_MAX_PARSED)
def _parse_chunk(chunk: bytes) -> _Elements:
    """The elements of a chunk, which has no star. Whether it is malformed does not depend on the name that it meets."""
    elements: list[int | _Class | None] = []
    position = 0
    while position < len(chunk):
        operator = chunk[position : position + 1]
        if operator == b"[":
            element, position = _parse_class(chunk, position + 1)
            elements.append(element)
            continue
        if operator == b"\\":
            position += 1
            if position == len(chunk):
                raise _MalformedError
        elements.append(None if operator == b"?" else chunk[position])
        position += 1
    return tuple(elements)


def _parse_class(chunk: bytes, position: int) -> tuple[_Class, int]:
    """The class behind `[`, and where the chunk goes on behind its `]`."""
    is_negated = chunk.startswith(b"^", position)
    position += is_negated
    ranges: list[tuple[int, int]] = []
    while not (ranges and chunk.startswith(b"]", position)):
        low, position = _class_character(chunk, position)
        high = low
        if chunk.startswith(b"-", position):
            high, position = _class_character(chunk, position + 1)
        ranges.append((low, high))
    return _Class(tuple(ranges), is_negated), position + 1


def _class_character(chunk: bytes, position: int) -> tuple[int, int]:
    """A character of a class, and where the chunk goes on."""
    if position >= len(chunk) or chunk[position] in b"-]":
        raise _MalformedError
    if chunk[position] == _BACKSLASH:
        position += 1
        if position == len(chunk):
            raise _MalformedError
    rune, width = _decode_rune(chunk, position)
    if (rune == _REPLACEMENT and width == 1) or position + width == len(chunk):
        raise _MalformedError
    return rune, position + width


def _decode_rune(text: bytes, position: int) -> tuple[int, int]:
    """The character there and its width; U+FFFD of width 1 for bytes that are not UTF-8, as in Go."""
    if text[position] < 0x80:
        return text[position], 1
    for width in (2, 3, 4):
        try:
            return ord(text[position : position + width].decode()), width
        except UnicodeDecodeError:
            continue
    return _REPLACEMENT, 1
