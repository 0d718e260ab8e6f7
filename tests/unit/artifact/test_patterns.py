"""Every pair below was run through go-git v5.16.4's own `ParsePattern(pattern, nil).Match`, and so were 180,000 others."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.patterns import NameList, Verdict, idle_patterns, judge, name_list

NO, EX, IN = Verdict.NO_MATCH, Verdict.EXCLUDE, Verdict.INCLUDE

BASE_NAMES = [
    ("*.safetensors", "model-00001-of-00002.safetensors", EX),
    ("*.safetensors", ".safetensors", EX),
    ("*.safetensors", "model.safetensors.index.json", NO),
    ("model*", "model", EX),
    ("config.json", "config.json", EX),
    ("config.json", "Config.json", NO),
    ("!tiktoken.model", "tiktoken.model", IN),
    ("!", "a", NO),
    ("!!a", "!a", IN),
    (r"\!a", "!a", EX),
    (r"\#a", "#a", EX),
    ("#a", "#a", EX),
    ("#a", "a", NO),
    ("", "a", NO),
    (" ", "a", NO),
    (" ", " ", NO),
    ("a ", "a", EX),
    (r"a\ ", "a ", EX),
    (r"a\ ", "a", NO),
    ("a  ", "a", EX),
    (" a", "a", NO),
    ("a", "a ", NO),
    ("a/", "a", NO),
    ("!a/", "a", NO),
    ("/a", "a", EX),
    ("/*", "a", EX),
    ("/", "a", NO),
    ("//", "a", NO),
    ("a/b", "b", NO),
    ("a/b", "a", NO),
    ("a/", "a/", NO),
    ("onnx/", "onnx", NO),
    ("onnx/*", "model.onnx", NO),
    ("**/a", "a", EX),
    ("**/a/", "a", NO),
    ("/**/a", "a", EX),
    ("**/b/a", "a", NO),
    ("a/**", "a", EX),
    ("a/**", "b", NO),
    ("a/**/", "a", NO),
    ("**", "a", EX),
    ("**/", "a", NO),
    ("**/**", "a", NO),
    ("/**", "a", NO),
    ("**a", "a", EX),
    ("a**", "abc", EX),
    ("a**b/c", "c", NO),
    ("*/a", "a", NO),
    ("**/*.b", "x.b", EX),
    ("**/[", "a", NO),
    ("?", "a", EX),
    ("?", "é", EX),
    ("?", "€", EX),
    ("??", "é", NO),
    ("*?", "é", EX),
    ("*??", "€", EX),
    ("*??", "é", NO),
    ("*[^a]", "é", EX),
    ("[é]", "é", EX),
    ("[a-z]", "m", EX),
    ("[a-z]", "M", NO),
    ("[^a-z]", "m", NO),
    ("[^a-z]", "M", EX),
    ("[!a]", "!", EX),
    ("[!a]", "a", EX),
    ("[!a]", "b", NO),
    ("[]a]", "a", NO),
    ("[]a]", "]", NO),
    (r"[a\]]", "]", EX),
    (r"[\]]", "]", EX),
    (r"[^\]]", "a", EX),
    ("[a-]", "a", NO),
    ("[-a]", "-", NO),
    (r"[\-a]", "-", EX),
    (r"[a\-z]", "b", NO),
    ("[z-a]", "m", NO),
    ("[a", "a", NO),
    ("a[", "a", NO),
    ("a[", "ab", NO),
    ("b[", "a", NO),
    ("*[", "a", NO),
    ("[]", "a", NO),
    ("[^]", "a", NO),
    ("[^]a]", "b", NO),
    ("[a-b-c]", "b", NO),
    ("[[]", "[", EX),
    ("[*]", "*", EX),
    ("[?]", "a", NO),
    ("a[*]b", "a*b", EX),
    ("a[*b]c*", "abcd", EX),
    ("x*[*]", "xa*", EX),
    ("\\", "\\", NO),
    ("\\", "a", NO),
    ("a\\", "a", NO),
    ("*\\", "a", NO),
    (r"\*", "*", EX),
    (r"\*", "a", NO),
    (r"\a", "a", EX),
    ("\\\\", "\\", EX),
    (r"\[a]", "[a]", EX),
    ("*a*b*c", "xaybzc", EX),
    ("*a*b*c", "xaybz", NO),
    ("a*", "a/b", NO),
    ("*.[jt]s*", "x.tsx", EX),
    ("*.b]", "x.b]", EX),
    ("]", "]", EX),
    ("^a", "^a", EX),
    ("{a,b}", "a", NO),
    ("~", "~", EX),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), BASE_NAMES)
def test_judges_a_base_name_as_go_git(pattern: str, name: str, expected: Verdict) -> None:
    """What a pattern says about a base name is what go-git says."""
    assert expected is judge(pattern, [name])
    assert expected is NameList([pattern]).judge(name)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("b", "a/b", EX),
        ("a", "a/b", EX),
        ("a/", "a/b", EX),
        ("b/", "a/b", NO),
        ("[", "a/b", NO),
        ("a/b", "a/b", EX),
        ("/b", "a/b", NO),
        ("a/**/d", "a/b/c/d", EX),
        ("a/**/d", "a/b/c", NO),
        ("**/c/d", "a/b/c/d", EX),
        ("**/d/", "a/d/c", EX),
        ("**/d/", "a/d", NO),
        ("a/**", "a/b", EX),
        ("a//b", "a/b", EX),
        ("**//b", "a/b", NO),
        ("**/x/**/b", "a/b", NO),
        ("!a/*", "a/b", IN),
    ],
)
def test_judges_a_path_as_go_git(pattern: str, path: str, expected: Verdict) -> None:
    """Patterns with slashes go component by component."""
    assert expected is judge(pattern, path.split("/"))


@given(st.text(alphabet="ab*?[]^-\\!/ é€", max_size=12), st.text(alphabet="ab[]\\é€", min_size=1, max_size=8))
def test_any_pattern_gives_an_answer(pattern: str, name: str) -> None:
    """However malformed, a pattern is an answer, never an exception."""
    assert judge(pattern, [name]) in Verdict


def test_half_a_surrogate_pair_is_a_pattern_too() -> None:
    """JSON can carry what UTF-8 cannot; such a pattern matches nothing, and a class of it is malformed."""
    assert [NO, NO] == [judge("\ud800", ["a"]), judge("[\ud800]", ["a"])]


@pytest.mark.parametrize(
    "pattern", ["*" + "[a]" * 80 + "b", "*" + "?" * 120 + "b", "*" + "a" * 1000, "*a" * 500, "[" + "a" * 1000]
)
def test_no_pattern_takes_long(pattern: str) -> None:
    """A part of a pattern is read once, however often it is tried: 200 judgements of the longest take a moment."""
    began = time.process_time()
    for _ in range(200):
        judge(pattern, ["a" * 255])

    assert time.process_time() - began < 2


_PIECES = st.sampled_from(
    [*"abé€𝄞.*?!/\\ []^-", "**", "[a-c]", "[^a]", "[^é]", "[é-𝄞]", "[\ufffd]", "[z-a]", "\\*", "a\\", "*.a"]
)
_GLOBS = st.lists(_PIECES, max_size=8).map("".join)


@settings(max_examples=1000, deadline=None)
@given(st.lists(_GLOBS, max_size=4), st.text("ab.!é€𝄞\ufffd[]", min_size=1, max_size=6))
def test_a_list_says_what_its_last_match_says(patterns: list[str], name: str) -> None:
    """One expression for many names, with all of go-git's oddities: a star may stop inside a character."""
    verdicts = [judge(pattern, [name]) for pattern in reversed(patterns)]

    assert next((verdict for verdict in verdicts if verdict is not NO), NO) is NameList(patterns).judge(name)
    assert [pattern for pattern in patterns if judge(pattern, [name]) is NO] == list(idle_patterns(patterns, [name]))


@pytest.mark.parametrize("end", ["json", "é"])
def test_many_patterns_on_many_names(end: str) -> None:
    """A pod chooses the patterns, and the model: 256 of any form on 30,000 names must not keep the driver busy for a minute."""
    patterns = tuple(f"[a-z]*{number}?x" for number in range(256))
    names = [f"file-{number}.{end}" for number in range(30_000)]
    began = time.process_time()
    for name in names:
        name_list(patterns).judge(name)

    assert time.process_time() - began < 20
