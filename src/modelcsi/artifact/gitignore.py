r"""Lists of gitignore patterns on full paths, as git itself reads them: a list *names* the files that git would ignore, were the
list the .gitignore at the artifact's root.

Follows git (`dir.c`, `wildmatch.c`), oddities included, and is compared with `git check-ignore` by the tests: the last pattern that
matches decides, `!` takes back, and below a directory that is named everything is named, which no `!` takes back. Names are
bytes: `?` is one byte of UTF-8. Each pattern becomes a regular expression in which no part is tried again once a later one was
reached (atomic groups), so that no pattern costs more than its length times that of the path.

`patterns` matches base names as go-git does, for what the upstream driver promised; the two differ in many cases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_STAR, _ANY_DIRECTORIES, _SOME_DIRECTORIES, _EVERYTHING = b"*", b"**/", b"**\\/", b"**"
"""What a pattern has besides single characters. `**\\/` needs a directory, which `**/` does not."""
_SPECIAL = b"*?[\\"
_MAX_LISTS = 32
_NOTHING = re.compile(rb"(?!)")

_IS_SPACE = frozenset(b" \t\n\v\f\r")
_GRAPH = frozenset(range(33, 127))
_DIGITS, _UPPER, _LOWER = frozenset(b"0123456789"), frozenset(range(65, 91)), frozenset(range(97, 123))
_CLASSES = {
    b"alnum": _DIGITS | _UPPER | _LOWER,
    b"alpha": _UPPER | _LOWER,
    b"blank": frozenset(b" \t"),
    b"cntrl": frozenset({*range(32), 127}),
    b"digit": _DIGITS,
    b"graph": _GRAPH,
    b"lower": _LOWER,
    b"print": _GRAPH | {32},
    b"punct": _GRAPH - _DIGITS - _UPPER - _LOWER,
    b"space": _IS_SPACE,
    b"upper": _UPPER,
    b"xdigit": _DIGITS | frozenset(b"abcdefABCDEF"),
}


class _MalformedError(Exception):
    """Such a pattern matches nothing."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One pattern; `is_name` means that it is held against base names at any depth."""

    regex: re.Pattern[bytes]
    takes_back: bool
    is_directory: bool
    is_name: bool


class PatternList:
    """What a list of patterns names; any thread."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [pattern for text in patterns if (pattern := _parse(text)) is not None][::-1]
        # The directory that was asked about last, and its answer: files come by directories. Replaced as a whole.
        self._last: tuple[bytes, bool] = (b"", False)

    def names(self, path: str) -> bool:
        """Whether the list names the file, or symbolic link, at a normalised path."""
        name = path.encode("utf-8", "surrogatepass")
        return self._names_directory(name.rpartition(b"/")[0]) or self._judges(name, is_directory=False)

    def names_directory(self, path: str) -> bool:
        """Whether the list names a directory, and so everything in it."""
        return self._names_directory(path.encode("utf-8", "surrogatepass"))

    def _names_directory(self, path: bytes) -> bool:
        last, answer = self._last
        if path != last:
            ends = [position for position, byte in enumerate(path) if byte == ord("/")]
            answer = any(self._judges(path[:end], is_directory=True) for end in [*ends, len(path)] if path)
            self._last = (path, answer)
        return answer

    def _judges(self, path: bytes, *, is_directory: bool) -> bool:
        base = path.rpartition(b"/")[2]
        for pattern in self._patterns:
            if pattern.is_directory and not is_directory:
                continue
            if pattern.regex.fullmatch(base if pattern.is_name else path):
                return not pattern.takes_back
        return False


@lru_cache(maxsize=_MAX_LISTS)
def pattern_list(patterns: tuple[str, ...]) -> PatternList:
    """The list, made once: a selection is asked once for each file."""
    return PatternList(patterns)


def _parse(text: str) -> _Pattern | None:
    """None for a comment (git's `parse_path_pattern`)."""
    pattern = text.encode("utf-8", "surrogatepass")
    if pattern.startswith(b"#"):
        return None
    pattern = _without_trailing_spaces(pattern)
    takes_back = pattern.startswith(b"!")
    pattern = pattern[takes_back:]
    is_directory = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - is_directory]
    is_name = b"/" not in pattern
    return _Pattern(_compiled(pattern, is_name=is_name), takes_back, is_directory, is_name)


def _without_trailing_spaces(pattern: bytes) -> bytes:
    """A space behind a backslash stays."""
    end = position = 0
    while position < len(pattern):
        if pattern[position] == ord("\\"):
            position += 1
            if position == len(pattern):
                return pattern
            end = position + 1
        elif pattern[position] != ord(" "):
            end = position + 1
        position += 1
    return pattern[:end]


def _compiled(pattern: bytes, *, is_name: bool) -> re.Pattern[bytes]:
    if not pattern:
        return _NOTHING
    literal = b""
    if not is_name:
        # What comes before the first special character is compared apart, so that `**` may follow anything literal.
        start = next((place for place, byte in enumerate(pattern) if byte in _SPECIAL), len(pattern))
        literal, pattern = pattern[:start].removeprefix(b"/"), pattern[start:]
    try:
        tokens = _tokens(pattern)
    except _MalformedError:
        return _NOTHING
    return re.compile(re.escape(literal) + _expression(tokens), re.DOTALL)


def _tokens(pattern: bytes) -> list[bytes]:
    """The expressions of single characters, and the stars (git's `dowild`). Raises _MalformedError."""
    tokens: list[bytes] = []
    position = 0
    while position < len(pattern):
        byte = pattern[position : position + 1]
        if byte == b"*":
            token, position = _stars(pattern, position)
            tokens.append(token)
            continue
        if byte == b"[":
            expression, position = _class(pattern, position + 1)
            tokens.append(expression)
            continue
        if byte == b"\\":
            position += 1
            if position == len(pattern):
                raise _MalformedError
            byte = pattern[position : position + 1]
        elif byte == b"?":
            tokens.append(b"[^/]")
            position += 1
            continue
        tokens.append(re.escape(byte))
        position += 1
    return tokens


def _stars(pattern: bytes, start: int) -> tuple[bytes, int]:
    end = start
    while pattern.startswith(b"*", end):
        end += 1
    begins = start == 0 or pattern[start - 1] == ord("/")
    if end - start > 1 and begins:
        if end == len(pattern):
            return _EVERYTHING, end
        if pattern.startswith(b"/", end):
            return _ANY_DIRECTORIES, end + 1
        if pattern.startswith(b"\\/", end):
            return _SOME_DIRECTORIES, end + 2
    return _STAR, end


def _class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The expression of a class, and where the pattern goes on behind its `]`; a slash is in none."""
    is_negated = pattern[position : position + 1] in {b"!", b"^"}
    position += is_negated
    members: set[int] = set()
    previous = 0
    is_first = True
    while is_first or not pattern.startswith(b"]", position):
        is_first = False
        if position >= len(pattern):
            raise _MalformedError
        byte = pattern[position]
        if pattern.startswith(b"[:", position) and (named := _named_class(pattern, position)) is not None:
            members |= named[0]
            previous, position = 0, named[1]
            continue
        if byte == ord("-") and previous and pattern[position + 1 : position + 2] not in {b"", b"]"}:
            high, position = _class_byte(pattern, position + 1)
            members.update(range(previous, high + 1))
            previous = 0
            continue
        previous, position = _class_byte(pattern, position)
        members.add(previous)
    if is_negated:
        members = set(range(1, 256)) - members
    members.discard(ord("/"))
    if not members:
        raise _MalformedError
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]", position + 1


def _class_byte(pattern: bytes, position: int) -> tuple[int, int]:
    position += pattern.startswith(b"\\", position)
    if position >= len(pattern):
        raise _MalformedError
    return pattern[position], position + 1


def _named_class(pattern: bytes, position: int) -> tuple[frozenset[int], int] | None:
    """The members of `[:name:]` and where the class goes on; None when it is no such thing."""
    end = pattern.find(b"]", position + 2)
    if end < 0:
        raise _MalformedError
    if end < position + 3 or pattern[end - 1] != ord(":"):
        return None
    name = pattern[position + 2 : end - 1]
    if name not in _CLASSES:
        raise _MalformedError
    return _CLASSES[name], end + 1


def _expression(tokens: list[bytes]) -> bytes:
    """One regular expression, of a whole path, in time proportional to the pattern's length times the path's.

    Between two `**/` the first place that fits is as good as any later one, and so it is between two stars.
    """
    if tokens and tokens[-1] == _EVERYTHING:
        return _segments(tokens[:-1], b"") + b".*"
    return _segments(tokens, rb"\Z")


def _segments(tokens: list[bytes], end: bytes) -> bytes:
    openings: list[bytes] = [b""]
    segments: list[list[bytes]] = [[]]
    for token in tokens:
        if token in {_ANY_DIRECTORIES, _SOME_DIRECTORIES}:
            openings.append(b"(?>(?:.*?/)??" if token == _ANY_DIRECTORIES else b"(?>.*?/")
            segments.append([])
        else:
            segments[-1].append(token)
    result = b""
    for number, (opening, segment) in enumerate(zip(openings, segments, strict=True)):
        is_last = number == len(segments) - 1
        result += opening + _chunks(segment, end if is_last else b"") + (b")" if opening else b"")
    return result


def _chunks(tokens: list[bytes], end: bytes) -> bytes:
    chunks: list[bytes] = [b""]
    for token in tokens:
        if token == _STAR:
            chunks.append(b"")
        else:
            chunks[-1] += token
    chunks[-1] += end
    return chunks[0] + b"".join(b"(?>[^/]*?" + chunk + b")" for chunk in chunks[1:])
