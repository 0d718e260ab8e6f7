r"""Gitignore patterns exactly as go-git matches them, with its oddities: existing deployments rely on the result.

Follows go-git v5 (`plumbing/format/gitignore/pattern.go`) and Go's `filepath.Match` (`path/filepath/match.go`), which works
on bytes: `*` may stop inside a character, `[]a]` and `[a` are malformed, `[!a]` is a set of two, `[^a]` the complement,
and a malformed pattern is noticed only when the match gets that far. What git itself would do differs in several cases
(`foo/**` matches a file `foo` here). Comments and blank patterns have no meaning of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

_SLASH = ord("/")
_BACKSLASH = ord("\\")
_REPLACEMENT = 0xFFFD


class Verdict(enum.Enum):
    """What one pattern says about a path."""

    NO_MATCH = enum.auto()
    EXCLUDE = enum.auto()
    INCLUDE = enum.auto()


class _MalformedError(Exception):
    """The pattern is malformed at a place that the match has reached (Go's ErrBadPattern)."""


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
    while pattern:
        star, chunk, pattern = _scan_chunk(pattern)
        if star and not chunk:
            return b"/" not in name
        rest = _match_chunk(chunk, name)
        if rest is not None and (not rest or pattern):
            name = rest
            continue
        if not star:
            return False
        found = _match_behind_star(chunk, name, is_last=not pattern)
        if found is None:
            return False
        name = found
    return not name


def _match_behind_star(chunk: bytes, name: bytes, *, is_last: bool) -> bytes | None:
    for skipped in range(1, len(name) + 1):
        if name[skipped - 1] == _SLASH:
            return None
        rest = _match_chunk(chunk, name[skipped:])
        if rest is not None and not (is_last and rest):
            return rest
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


def _match_chunk(chunk: bytes, name: bytes) -> bytes | None:
    """What is left of `name` after `chunk`, which has no star; None when it does not begin so.

    Goes on to the end of the chunk after a failure, to notice that it is malformed.
    """
    failed = False
    while chunk:
        failed = failed or not name
        operator = chunk[:1]
        if operator == b"[":
            rune, width = (0, 0) if failed else _decode_rune(name)
            is_in, chunk = _match_class(chunk[1:], rune)
            name = name[width:]
            failed = failed or not is_in
            continue
        if operator == b"?":
            if not failed:
                failed = name[0] == _SLASH
                name = name[_decode_rune(name)[1] :]
            chunk = chunk[1:]
            continue
        if operator == b"\\":
            chunk = chunk[1:]
            if not chunk:
                raise _MalformedError
        if not failed:
            failed = chunk[0] != name[0]
            name = name[1:]
        chunk = chunk[1:]
    return None if failed else name


def _match_class(chunk: bytes, rune: int) -> tuple[bool, bytes]:
    """Whether the class behind `[` has the character, and the chunk behind its `]`."""
    negated = chunk.startswith(b"^")
    chunk = chunk[negated:]
    matched = False
    ranges = 0
    while not (ranges and chunk.startswith(b"]")):
        low, chunk = _class_character(chunk)
        high = low
        if chunk.startswith(b"-"):
            high, chunk = _class_character(chunk[1:])
        matched = matched or low <= rune <= high
        ranges += 1
    return matched is not negated, chunk[1:]


def _class_character(chunk: bytes) -> tuple[int, bytes]:
    if not chunk or chunk[0] in b"-]":
        raise _MalformedError
    if chunk[0] == _BACKSLASH:
        chunk = chunk[1:]
        if not chunk:
            raise _MalformedError
    rune, width = _decode_rune(chunk)
    if (rune == _REPLACEMENT and width == 1) or len(chunk) == width:
        raise _MalformedError
    return rune, chunk[width:]


def _decode_rune(text: bytes) -> tuple[int, int]:
    """The first character and its width; U+FFFD of width 1 for bytes that are not UTF-8, as in Go."""
    if text[0] < 0x80:
        return text[0], 1
    for width in (2, 3, 4):
        try:
            return ord(text[:width].decode()), width
        except UnicodeDecodeError:
            continue
    return _REPLACEMENT, 1
