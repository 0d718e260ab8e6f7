from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelcsi.artifact.gitignore import PatternList, idle_patterns

FILES = ("config.json", "model.safetensors", "onnx/model.onnx", "onnx/config.json", "a/b/c/deep.bin", "é/ü.txt")


def named(patterns: Iterable[str], paths: Iterable[str] = FILES) -> list[str]:
    """What the patterns name of these files."""
    listed = PatternList(list(patterns))
    return [path for path in paths if listed.names(path)]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["*"], list(FILES)),
        (["**"], list(FILES)),
        (["config.json"], ["config.json", "onnx/config.json"]),
        (["/config.json"], ["config.json"]),
        (["*.json", "!onnx/*"], ["config.json"]),
        (["!onnx/*", "*.json"], ["config.json", "onnx/config.json"]),
        (["onnx/"], ["onnx/model.onnx", "onnx/config.json"]),
        (["onnx"], ["onnx/model.onnx", "onnx/config.json"]),
        (["onnx/", "!onnx/config.json"], ["onnx/model.onnx", "onnx/config.json"]),
        (["onnx/*", "!onnx/config.json"], ["onnx/model.onnx"]),
        (["config.json/"], []),
        (["a/*/deep.bin"], []),
        (["a/**/deep.bin"], ["a/b/c/deep.bin"]),
        (["**/deep.bin"], ["a/b/c/deep.bin"]),
        (["b/c"], []),
        (["**/c"], ["a/b/c/deep.bin"]),
        (["*/config.json"], ["onnx/config.json"]),
        (["model.[!o]*"], ["model.safetensors"]),
        (["# a comment", "", "   "], []),
        (["config.json   "], ["config.json", "onnx/config.json"]),
        (["é/??.txt"], ["é/ü.txt"]),
        (["["], []),
    ],
)
def test_patterns_name_files(patterns: list[str], expected: list[str]) -> None:
    """As a .gitignore at the artifact's root would."""
    assert expected == named(patterns)


def test_a_directory_that_is_named_names_what_is_below() -> None:
    """Also one below it, but not the root."""
    listed = PatternList(["onnx/", "!onnx/deep"])

    assert [True, True, False, False] == [listed.names_directory(path) for path in ("onnx", "onnx/deep", "onnx2", "")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty git repository."""
    path = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", path], check=True)
    return path


def ignored_by_git(repository: Path, patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """What git ignores of these paths, which need not exist."""
    (repository / ".gitignore").write_bytes(b"".join(f"{pattern}\n".encode() for pattern in patterns))
    told = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=repository,
        input="".join(f"{path}\0" for path in paths).encode(),
        capture_output=True,
        check=False,
    )
    assert told.returncode in {0, 1}, told.stderr
    return [path for path in told.stdout.decode().split("\0") if path]


_NAMES = st.text("ab.é-]![*\\ #", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."})
_PATHS = st.lists(st.one_of(_NAMES, st.sampled_from(["a", "b", "ab", "aa", "a.b"])), min_size=1, max_size=4).map(
    "/".join
)
_SPECIAL = (
    *(
        "**",
        "**/",
        "/**",
        "***",
        "a/",
        "*a",
        "a*",
        "\\*",
        "**\\/",
        "[ab]",
        "[!a]",
        "[^b]",
        "[a-b]",
        "[]a]",
        "[a/]",
        "[",
    ),
    *("[[:alpha:]]", "[[:x:]]", "[[:punct:].]", "[\\]]", "[a-]", "[!]"),
)
_PIECES = st.sampled_from([*"abé.*?/!#-]\\ ", *_SPECIAL])
_PATTERNS = st.lists(_PIECES, min_size=1, max_size=6).map("".join)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    patterns=st.lists(_PATTERNS, min_size=1, max_size=4), paths=st.lists(_PATHS, min_size=5, max_size=15, unique=True)
)
def test_git_agrees(repository: Path, patterns: list[str], paths: list[str]) -> None:
    """A list of patterns, `include` or `exclude`, names the files that git would ignore, were it the `.gitignore` at the model's
    root.
    """
    assert ignored_by_git(repository, patterns, paths) == named(patterns, paths)


@given(st.lists(_PATTERNS, max_size=4), st.lists(_PATHS, max_size=5))
def test_idle_patterns_name_nothing_alone(patterns: list[str], paths: list[str]) -> None:
    """Whatever they take back, and whatever is told first that spares the look at each file."""
    plain = [pattern for pattern in patterns if not pattern.startswith("!")]

    assert [pattern for pattern in plain if not named([pattern], paths)] == list(idle_patterns(plain, paths))


def test_an_idle_pattern_is_judged_without_its_mark() -> None:
    """What it takes back, it names alone; only the first mark is one."""
    assert ["!b", "!!a", "#a"] == list(idle_patterns(["!a", "!b", "!!a", "#a"], ["a", "#a"]))


@pytest.mark.parametrize("pattern", ["*a" * 200 + "b", "**/a*" * 100 + "b", "**/*a*a*a*b/" * 30 + "c", "[a]*?" * 200])
def test_no_pattern_takes_long(pattern: str) -> None:
    """Pods write patterns: none may keep the driver busy, as naive backtracking would for years."""
    path = "/".join(["a" * 255] * 15)
    began = time.monotonic()
    for _ in range(3):
        PatternList([pattern]).names(path)

    assert time.monotonic() - began < 20
