from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.artifact.paths import MAX_DEPTH, MAX_PATH_BYTES, check_link_target, normalise_path
from modelcsi.errors import UnsupportedArtifact

WHERE = "layer sha256:abc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ("a/b.txt", "a/b.txt"),
        ("./a", "a"),
        ("a//b", "a/b"),
        ("a/./b/", "a/b"),
        ("a/../b", "b"),
        ("ok/../fine.txt", "fine.txt"),
        ("a/b/../../c", "c"),
        ("model..v2.bin", "model..v2.bin"),
        ("..hidden", "..hidden"),
        (".../x", ".../x"),
        ("a\\..\\b", "a\\..\\b"),
        ("..\\b", "..\\b"),
        ("C:\\x", "C:\\x"),
        ("Größe/模型.bin", "Größe/模型.bin"),
        (" a ", " a "),
        ("-rf", "-rf"),
        ("x" * 255, "x" * 255),
        ("é" * 127, "é" * 127),
        ("/".join("d" * MAX_DEPTH), "/".join("d" * MAX_DEPTH)),
        ("x" * 300 + "/../a", "a"),
    ],
)
def test_normalises(text: str, expected: str) -> None:
    """What stays inside and has only ordinary characters is a path."""
    assert expected == normalise_path(text, WHERE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("a/..", "names no file"),
        ("/etc/abs", "absolute"),
        ("//x", "absolute"),
        ("..", "leaves"),
        ("../../etc/evil", "leaves"),
        ("a/../../b", "leaves"),
        ("./../a", "leaves"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("\x1b[31m", "control"),
        ("\ud800", "UTF-8"),
        ("x" * 256, "255 bytes"),
        ("é" * 128, "255 bytes"),
        ("/".join("d" * (MAX_DEPTH + 1)), "deep"),
        ("/".join(["x" * 250] * 17), f"{MAX_PATH_BYTES} bytes"),
    ],
)
def test_refuses(text: str, reason: str) -> None:
    """What leaves, is absolute, empty, too long or unprintable is refused, naming path, layer and reason."""
    with pytest.raises(UnsupportedArtifact) as caught:
        normalise_path(text, WHERE)

    assert reason in caught.value.message
    assert WHERE in caught.value.message
    assert repr(text[:50])[1:-1] in caught.value.message


@given(st.text(alphabet=st.sampled_from("ab./\\\0\n é\ud800"), max_size=20))
def test_a_path_that_exists_is_safe(text: str) -> None:
    """Whatever the text: refused, or relative, inside, in normal form."""
    try:
        path = normalise_path(text, WHERE)
    except UnsupportedArtifact:
        return

    assert not {"", ".", ".."} & set(path.split("/"))
    assert path == normalise_path(path, WHERE)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "b"),
        ("a/b", "../c"),
        ("a/b/c", "../.."),
        ("a", "."),
        ("a", "missing/deep"),
        ("a/b", "./../a/../x"),
        ("a", "..b/...c"),
    ],
)
def test_link_that_stays_inside_is_kept(path: str, target: str) -> None:
    """Relative targets inside are allowed, whether or not they exist."""
    check_link_target(path, target, WHERE)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "/etc/passwd"),
        ("a", ".."),
        ("a", "../b"),
        ("a/b", "../../x"),
        ("a/b", "../../a/b"),
        ("a", "b/../../c"),
        ("a", ""),
        ("a", "x\0y"),
        ("a", "x\ny"),
        ("a", "\udfff"),
        ("a", "b/" * 200),
        ("a", "x" * 5000),
    ],
)
def test_link_that_leaves_is_refused(path: str, target: str) -> None:
    """A target that is absolute, or for a moment above the root, is refused, naming link and layer."""
    with pytest.raises(UnsupportedArtifact, match=r"unsafe link 'a.*layer sha256:abc"):
        check_link_target(path, target, WHERE)
