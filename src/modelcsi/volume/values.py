"""Values as people write them in attributes, flags and requests, and what they mean.

A parser raises ValueError with the rest of a sentence that begins with the value.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable

from modelcsi.artifact.layouts import FILES, HUGGINGFACE_HUB, Layout
from modelcsi.artifact.paths import normalise_path
from modelcsi.artifact.selection import ROOT
from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.oci.reference import Reference

_MAX_PATTERNS = 256
_MAX_PATTERN_BYTES = 1024
"""Every file of an artifact is held against every pattern. The longest name of a file is a quarter of this."""
_MAX_LIST_BYTES = 16 << 10
"""A list becomes one expression, which takes up to 0.3 s and 15 MiB to make at that size."""
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool, which upstream uses."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("is not a boolean: write true or false")


def parse_patterns(text: str) -> tuple[str, ...]:
    """A JSON array, as upstream has it; empty for no text."""
    try:
        value = json.loads(text) if text else []
    except (ValueError, RecursionError) as error:
        raise ValueError(f'is not a JSON array of strings, such as ["*.bin", "!keep.bin"]: {error}') from error
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('is not a JSON array of strings, such as ["*.bin", "!keep.bin"]')
    return _checked(value)


def parse_pattern_list(text: str) -> tuple[str, ...]:
    """A JSON array, or patterns with commas between them; what begins with a bracket is an array."""
    if text.lstrip().startswith("["):
        try:
            patterns = parse_patterns(text)
        except ValueError as error:
            raise ValueError(f"{error}; a pattern that begins with [ can only stand in an array") from error
    else:
        patterns = _checked([item for part in text.split(",") if (item := part.strip())])
    return patterns


def parse_choice(*choices: str) -> Callable[[str], str]:
    """The parser of a word that is one of these."""

    def parse(text: str) -> str:
        if text not in choices:
            nearest = difflib.get_close_matches(text, choices, 1, 0.3)
            raise ValueError(
                f"must be one of {', '.join(choices)}" + (f"; did you mean {nearest[0]}?" if nearest else "")
            )
        return text

    return parse


def parse_text(text: str) -> str:
    """Anything but nothing."""
    if not text:
        raise ValueError("is empty")
    return text


def parse_sub_path(text: str) -> str:
    """A directory of the artifact, with or without slashes at its ends; `/` and `.` are the artifact's root itself."""
    if not text:
        return ""
    path = text.strip("/")
    if path in {"", "."}:
        return ROOT
    try:
        return normalise_path(path, "the value")
    except UnsupportedArtifact as error:
        reason = error.message.rpartition(": ")[2]
        if reason == "it names no file":  # such as `a/..`
            return ROOT
        raise ValueError(f"is no directory of an artifact: {reason}") from error


parse_layout = parse_choice(FILES, HUGGINGFACE_HUB)


def parse_model_name(text: str) -> str:
    """A model's name on the Hugging Face Hub."""
    return Layout(parse_text(text)).model_name


def layout_of(layout: str, model_name: str, reference: Reference) -> Layout:
    """The layout that is asked for; without a name it is the reference's own. Raises InvalidRequest."""
    if layout != HUGGINGFACE_HUB:
        if model_name:
            raise InvalidRequest(
                f"modelName {model_name} is of no use without a layout", hint=f"set layout: {HUGGINGFACE_HUB} too"
            )
        return Layout()
    name = model_name or "/".join(reference.repository.split("/")[-2:])
    try:
        return Layout(name)
    except ValueError as error:
        raise InvalidRequest(
            f"{name!r}, the end of {reference.repository}, {error}",
            hint="set modelName to the name that programs ask for",
        ) from error


def _checked(patterns: list[str]) -> tuple[str, ...]:
    if len(patterns) > _MAX_PATTERNS:
        raise ValueError(f"has over {_MAX_PATTERNS} patterns")
    for pattern in patterns:
        _check_pattern(pattern)
    if sum(len(pattern.encode()) for pattern in patterns) > _MAX_LIST_BYTES:
        raise ValueError(f"has over {_MAX_LIST_BYTES} bytes of patterns")
    return tuple(patterns)


def _check_pattern(pattern: str) -> None:
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError as error:  # JSON can escape half a surrogate pair
        raise ValueError(f"has a pattern that is not Unicode text: {pattern[:50]!a}") from error
    if size > _MAX_PATTERN_BYTES:
        raise ValueError(f"has a pattern of over {_MAX_PATTERN_BYTES} bytes: {pattern[:50]!r}…")
