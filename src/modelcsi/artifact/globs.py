"""Go's `filepath.Match` on one name (`path/filepath/match.go`), byte for byte; `expression` is the same for very many names.

`*` may stop inside a character, `[]a]` and `[a` are malformed, `[!a]` is a set of two, `[^a]` the complement, and a malformed
pattern is noticed only when the match gets that far. Patterns come from strangers: no step back goes behind the last `*`, so
the time is at most the product of both lengths, which a regular expression does not promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
_MAX_NAME_BYTES = 255
_INNER = "\udc80-\udcbf"
"""In a widened name: all bytes of a character but the first, each in the place that it has in UTF-8."""
_INNER_OFFSET = 0xDC00


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


def expression(pattern: bytes, *, is_wide: bool) -> str | None:
    """A regular expression of the names of files, `widened` or all ASCII, that a pattern in UTF-8 matches; None if it can match none.

    Its time is within that of `match`: no star is tried again once the part behind it matched (atomic groups).
    """
    result, fewest = "", 0
    try:
        while pattern:
            star, chunk, pattern = _scan_chunk(pattern)
            elements = _parse_chunk.__wrapped__(chunk)
            fewest += len(elements)  # each takes a byte at least
            text = "".join(_element_expressions(elements, is_wide=is_wide))
            if (
                not is_wide and star and not pattern and fewest == len(elements)
            ):  # `*.bin`: most patterns, and cheap in numbers
                result = rf"[^/]*+(?<={text})\Z"
            else:
                text += "" if pattern else r"\Z"
                result += f"(?>[^/]*?{text})" if star else text
    except _MalformedError:
        return None
    return result if fewest <= _MAX_NAME_BYTES else None


def widened(name: str) -> str:
    """A name in which each byte has a place, as Go's matching of bytes needs: what a star swallows may end inside a character."""
    return name if name.isascii() else "".join(map(_widened_character, name))


def needed_text(pattern: bytes) -> bytes:
    """Text that is in every name or path that a pattern matches, be it Go's or git's; empty when that is not easily told."""
    if b"[" in pattern or b"\\" in pattern:
        return re.split(rb"[*?\[\\]", pattern, maxsplit=1)[0].strip(b"/")
    return max((piece.strip(b"/") for piece in re.split(rb"[*?]", pattern)), key=len)


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


def _element_expressions(elements: _Elements, *, is_wide: bool) -> Iterator[str]:
    literal = bytearray()
    for element in elements:
        if isinstance(element, int):
            literal.append(element)
            continue
        yield from _literal_expression(literal)
        literal.clear()
        yield _class_expression(element, is_wide=is_wide)
    yield from _literal_expression(literal)


def _literal_expression(literal: bytes | bytearray) -> Sequence[str]:
    return [re.escape(widened(literal.decode("utf-8", "surrogatepass")))] if literal else []


def _class_expression(element: _Class | None, *, is_wide: bool) -> str:
    """One character that a class has, with all its bytes; or one byte behind the first, which is no character to Go."""
    ranges = element.ranges if element is not None else ()
    members = "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in ranges if low <= high)
    inner = _INNER if is_wide else ""
    if element is None or element.is_negated:
        character = (f"(?![{members}])" if members else "") + f"[^/{inner}]"
    else:
        character = f"(?![/{inner}])[{members}]" if members else "(?!)"
    if not is_wide:
        return character
    stray = f"|[{_INNER}]" if element is None or element.has(_REPLACEMENT) else ""
    return f"(?:{character}[{_INNER}]*+{stray})"


def _widened_character(character: str) -> str:
    if character.isascii():
        return character
    return character + "".join(chr(_INNER_OFFSET + byte) for byte in character.encode("utf-8", "surrogatepass")[1:])
