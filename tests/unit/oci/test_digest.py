from __future__ import annotations

import hashlib

import pytest

from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import EMPTY_BLOB, Digest

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()


@pytest.mark.parametrize("text", [f"sha256:{SHA256}", f"sha512:{SHA512}"])
def test_text_gives_the_digest_back(text: str) -> None:
    """Both registered algorithms; the text is the canonical form."""
    assert text == str(Digest.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        f":{SHA256}",
        f"md5:{'0' * 32}",
        f"sha256:{SHA256.upper()}",
        f"sha256:{SHA256[:-1]}",
        f"sha256:{SHA256}0",
        f"sha256:{SHA512}",
        f"sha512:{SHA256}",
        f"SHA256:{SHA256}",
        f"sha256:{SHA256[:-1]}\n",
        f"sha256:{SHA256}\n",
        f"sha256:../../{SHA256[:58]}",
        f"sha256:{SHA256[:-1]}٣",
        f"sha256: {SHA256[:-1]}",
        f"sha256:sha256:{SHA256}",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """A digest that exists is safe as a file name (CVE-2024-37032)."""
    with pytest.raises(UnsupportedArtifact):
        Digest.parse(text)


def test_other_algorithms_are_named_in_the_hint() -> None:
    """A person learns which ones are supported."""
    with pytest.raises(UnsupportedArtifact, match=r"'sha384' is not supported.*sha256 and sha512"):
        Digest.parse(f"sha384:{'0' * 96}")


@pytest.mark.parametrize(("algorithm", "expected"), [("sha256", SHA256), ("sha512", SHA512)])
def test_digest_of_content(algorithm: str, expected: str) -> None:
    """Of bytes at once and in pieces, by either algorithm."""
    digest = Digest.of(CONTENT, algorithm)
    hasher = digest.hasher()
    hasher.update(memoryview(CONTENT)[:3])
    hasher.update(CONTENT[3:])

    assert [expected, expected] == [digest.hex, hasher.hexdigest()]


def test_matches() -> None:
    """By its own algorithm."""
    digest = Digest.of(CONTENT, "sha512")

    assert [True, False] == [digest.matches(CONTENT), digest.matches(b"Content")]


def test_short_form_is_for_people() -> None:
    """Twelve digits, as Docker shows them."""
    assert SHA256[:12] == Digest.of(CONTENT).short


def test_digests_are_values() -> None:
    """Equal and hashable by what they say; ordered by their text."""
    digests = [Digest("sha512", SHA512), Digest.parse(f"sha256:{SHA256}"), Digest.of(b"")]

    assert {Digest.of(b"")} == {EMPTY_BLOB}
    assert sorted(map(str, digests)) == [str(digest) for digest in sorted(digests)]
