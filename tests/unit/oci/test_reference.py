from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.errors import InvalidRequest
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference

DIGEST = Digest.of(b"manifest")


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag"),
    [
        ("qwen", "docker.io", "library/qwen", "latest"),
        ("qwen:v1", "docker.io", "library/qwen", "v1"),
        ("org/qwen", "docker.io", "org/qwen", "latest"),
        ("docker.io/qwen", "docker.io", "library/qwen", "latest"),
        ("index.docker.io/qwen", "docker.io", "library/qwen", "latest"),
        ("index.docker.io/org/qwen", "docker.io", "org/qwen", "latest"),
        ("registry.example.com/models/qwen3-0.6b:v1", "registry.example.com", "models/qwen3-0.6b", "v1"),
        ("localhost/qwen", "localhost", "qwen", "latest"),
        ("localhost:5000/qwen", "localhost:5000", "qwen", "latest"),
        ("localhost:5000", "docker.io", "library/localhost", "5000"),
        ("host:5000/a/b/c:v1", "host:5000", "a/b/c", "v1"),
        ("Host/a", "Host", "a", "latest"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000", "a", "latest"),
        ("[::1]:5000/a:v1", "[::1]:5000", "a", "v1"),
        ("[2001:db8::1]/a", "[2001:db8::1]", "a", "latest"),
        ("a-b.c/d__e/f--g/h.i_j", "a-b.c", "d__e/f--g/h.i_j", "latest"),
        ("a:_Tag.v-1", "docker.io", "library/a", "_Tag.v-1"),
        (f"a:{'t' * 128}", "docker.io", "library/a", "t" * 128),
        (f"h.io/{'r' * 255}", "h.io", "r" * 255, "latest"),
    ],
)
def test_parses_as_docker_and_containerd(text: str, host: str, repository: str, tag: str) -> None:
    """Registry, repository and tag with their defaults."""
    assert Reference(host, repository, tag) == Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "tag"), [(f"h.io/a@{DIGEST}", None), (f"h.io/a:v1@{DIGEST}", "v1"), (f"h.io/a:latest@{DIGEST}", "latest")]
)
def test_digest_decides(text: str, tag: str | None) -> None:
    """There is no default tag beside a digest, and a tag beside it is a label."""
    found = Reference.parse(text)

    assert (tag, str(DIGEST), text) == (found.tag, found.target, str(found))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "/",
        "/a",
        "a/",
        "a//b",
        "a:",
        "a:-x",
        f"a:{'t' * 129}",
        "a:v1:v2",
        "A",
        "h.io/Model",
        "h.io/a b",
        " a",
        "a\n",
        "a:v1\n",
        "h.io/a_",
        "h.io/a___b",
        "h.io/..",
        "h.io/../a",
        "https://h.io/a",
        "h.io:/a",
        "h.io:port/a",
        "h_x.io/a",
        "-h.io/a",
        "[::1/a",
        "[::1]:5000",
        "user:password@h.io/a",
        "a@",
        "a@sha256:00",
        f"a@{DIGEST}@{DIGEST}",
        f"a@md5:{'0' * 32}",
        f"a@{str(DIGEST).upper()}",
        f"@{DIGEST}",
        DIGEST.hex,
        f"h.io/{'r' * 256}",
        "h.io/größe",
        "h.io/a:größe",
        "h\u0130.io/a",
        "h.io/a\0",
    ],
)
def test_refuses(text: str) -> None:
    """What Docker's grammar does not allow."""
    with pytest.raises(InvalidRequest):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("h.io/Model", "lower case"),
        ("a@md5:00", "sha256 and sha512"),
        ("a:", "registry/repository:tag"),
        ("", "registry/"),
    ],
)
def test_hint_says_what_to_do(text: str, hint: str) -> None:
    """A person learns how to write it."""
    with pytest.raises(InvalidRequest) as caught:
        Reference.parse(text)

    assert hint in caught.value.hint


def test_long_text_is_cut_in_messages() -> None:
    """A megabyte of nonsense does not end in the log."""
    with pytest.raises(InvalidRequest) as caught:
        Reference.parse("A" * 1_000_000)

    assert len(str(caught.value)) < 1000


def test_pinned() -> None:
    """The digest is added, the tag stays as a label."""
    found = Reference.parse("h.io/a:v1").with_digest(DIGEST)

    assert (f"h.io/a:v1@{DIGEST}", "h.io/a", str(DIGEST)) == (str(found), found.name, found.target)


@given(st.text(alphabet=st.sampled_from("aB0./:@[]-_é\n "), max_size=20))
def test_what_parses_parses_again(text: str) -> None:
    """The canonical form means the same; everything else is an InvalidRequest."""
    try:
        found = Reference.parse(text)
    except InvalidRequest:
        return

    assert found == Reference.parse(str(found))
