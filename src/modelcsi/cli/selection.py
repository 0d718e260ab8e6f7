"""The flags that choose files, the same for `pull` and `inspect`; each means what the attribute of its name means."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from modelcsi.artifact.selection import Selection
from modelcsi.errors import InvalidRequest
from modelcsi.volume.values import parse_pattern_list, parse_patterns, parse_sub_path

_T = TypeVar("_T")


def selection_of(options: argparse.Namespace) -> Selection:
    """What the flags of `cli.main` choose. Raises InvalidRequest, naming the flag."""
    return Selection(
        exclude_weights=options.exclude_model_weights,
        exclude_patterns=value_of("--exclude-file-patterns", parse_patterns, options.exclude_file_patterns),
        include=value_of("--include", parse_pattern_list, options.include),
        exclude=value_of("--exclude", parse_pattern_list, options.exclude),
        sub_path=value_of("--sub-path", parse_sub_path, options.sub_path),
    )


def value_of(flag: str, parse: Callable[[str], _T], text: str) -> _T:
    """The value of a flag. Raises InvalidRequest."""
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidRequest(f"the value of {flag}, {text[:200]!r}, {error}") from error
