"""Go's `filepath.Match` on one name (`path/filepath/match.go`), byte for byte.

`*` may stop inside a character, `[]a]` and `[a` are malformed, `[!a]` is a set of two, `[^a]` the complement, and a malformed
pattern is noticed only when the match gets that far. Patterns come from strangers: no step back goes behind the last `*`, so
the time is at most the product of both lengths, which a regular expression does not promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

_SLASH = ord("/")
_BACKSLASH = ord("\\")
_REPLACEMENT = 0xFFFD
_MAX_PARSED = 4096
"""Parts of patterns that are kept parsed: a selection is asked once per file."""
_MAX_KEPT_BYTES = 256
"""A longer part matches no name of a file or host, and would be kept in vain."""


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


def match(pattern: bytes, name: bytes) -> bool | None:
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
        elements = _parse_chunk(chunk) if len(chunk) <= _MAX_KEPT_BYTES else _parse_chunk.__wrapped__(chunk)
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
