r"""Lists of gitignore patterns on full paths, as git itself reads them: a list *names* the files that git would ignore, were the
list the .gitignore at the artifact's root.

Follows git (`dir.c`, `wildmatch.c`), oddities included, and is compared with `git check-ignore` by the tests: the last pattern that
matches decides, `!` takes back, and below a directory that is named everything is named, which no `!` takes back. Names are
bytes: `?` is one byte of UTF-8. Each pattern becomes a regular expression in which no part is tried again once a later one was
reached (atomic groups), so that no pattern costs more than its length times that of the path.

`patterns` matches base names as go-git does, for what the upstream driver promised; the two differ in many cases.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from modelcsi.artifact.globs import needed_text

_STAR, _ANY_DIRECTORIES, _SOME_DIRECTORIES, _EVERYTHING = b"*", b"**/", b"**\\/", b"**"
"""What a pattern has besides single characters. `**\\/` needs a directory, which `**/` does not."""
_SPECIAL = b"*?[\\"
_MAX_LISTS = 32

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
class _Sort:
    """What a pattern says, and of what; `is_name` means that it is held against base names at any depth."""

    takes_back: bool
    is_directory: bool
    is_name: bool


class PatternList:
    """What a list of patterns names; any thread."""

    def __init__(self, patterns: Sequence[str]) -> None:
        parsed = [pattern for text in patterns if (pattern := _parse(text)) is not None]
        # The last first. Of neighbours of one sort any may match: one expression for all of them costs a quarter.
        self._rules = [
            (sort, re.compile(b"|".join(expression for _, expression in group), re.DOTALL))
            for sort, group in itertools.groupby(reversed(parsed), key=lambda pattern: pattern[0])
        ]
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
        for sort, expression in self._rules:
            if sort.is_directory and not is_directory:
                continue
            if expression.fullmatch(base if sort.is_name else path):
                return not sort.takes_back
        return False


def idle_patterns(patterns: Iterable[str], paths: Iterable[str]) -> Iterator[str]:
    """The patterns that name none of the files at these paths, each taken alone and without its `!`."""
    files = {path.encode("utf-8", "surrogatepass") for path in paths}
    directories = {path[:end] for path in files for end, byte in enumerate(path) if byte == ord("/")}
    text = b"\n".join(files)
    # What a pattern is held against, by whether it is about directories, and about base names.
    known = {
        (True, False): directories,
        (True, True): {path.rpartition(b"/")[2] for path in directories},
    }
    known[False, False] = files | directories
    known[False, True] = known[True, True] | {path.rpartition(b"/")[2] for path in files}
    for shown in patterns:
        sort, pattern = _split(shown)
        found = _path_expression(pattern, is_name=sort.is_name) if needed_text(pattern) in text else None
        matches = None if found is None else re.compile(found, re.DOTALL).fullmatch
        if shown.startswith("#") or matches is None or not any(map(matches, known[sort.is_directory, sort.is_name])):
            yield shown


@lru_cache(maxsize=_MAX_LISTS)
def pattern_list(patterns: tuple[str, ...]) -> PatternList:
    """The list, made once: a selection is asked once for each file."""
    return PatternList(patterns)


def _parse(text: str) -> tuple[_Sort, bytes] | None:
    """The pattern's sort and expression; None for a comment, and one that matches nothing."""
    if text.startswith("#"):
        return None
    sort, pattern = _split(text)
    expression = _path_expression(pattern, is_name=sort.is_name)
    return None if expression is None else (sort, expression)


def _split(text: str) -> tuple[_Sort, bytes]:
    """The pattern's sort, and what is left of it (git's `parse_path_pattern`)."""
    pattern = _without_trailing_spaces(text.encode("utf-8", "surrogatepass"))
    takes_back = pattern.startswith(b"!")
    pattern = pattern[takes_back:]
    is_directory = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - is_directory]
    return _Sort(takes_back, is_directory, b"/" not in pattern), pattern


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


def _path_expression(pattern: bytes, *, is_name: bool) -> bytes | None:
    if not pattern:
        return None
    literal = b""
    if not is_name:
        # What comes before the first special character is compared apart, so that `**` may follow anything literal.
        start = next((place for place, byte in enumerate(pattern) if byte in _SPECIAL), len(pattern))
        literal, pattern = pattern[:start].removeprefix(b"/"), pattern[start:]
    try:
        tokens = _tokens(pattern)
    except _MalformedError:
        return None
    if is_name and tokens[0] == _STAR and _STAR not in tokens[1:]:  # `*.json`: most patterns, and cheap in numbers
        return b"[^/]*+(?<=" + b"".join(tokens[1:]) + rb")\Z"
    return re.escape(literal) + _expression(tokens)


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
    return _members_expression(members), position + 1


def _members_expression(members: set[int]) -> bytes:
    """As ranges: a class of a few characters may mean nearly all bytes."""
    first = sorted(member for member in members if member - 1 not in members)
    last = sorted(member for member in members if member + 1 not in members)
    return b"[" + b"".join(b"\\x%02x-\\x%02x" % ends for ends in zip(first, last, strict=True)) + b"]"


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
