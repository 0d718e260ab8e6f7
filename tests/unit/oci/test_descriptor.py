from __future__ import annotations

import base64
from typing import Any

import pytest

from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import parse_annotations, parse_descriptor
from modelcsi.oci.digest import EMPTY_BLOB, Digest

CONTENT = b"{}"
DIGEST = Digest.of(CONTENT)


def value(**fields: Any) -> dict[str, Any]:
    """A descriptor's JSON, with some fields replaced."""
    return {"mediaType": "x/y", "digest": str(DIGEST), "size": len(CONTENT)} | fields


def test_fields() -> None:
    """Everything that the specification defines, and the rest as it is."""
    found = parse_descriptor(
        value(annotations={"a": "b"}, artifactType="t", platform={"os": "linux", "os.features": ["x"]}, name="model"),
        "layers[0]",
    )

    assert ("x/y", DIGEST, 2, {"a": "b"}, "t") == (
        found.media_type,
        found.digest,
        found.size,
        found.annotations,
        found.artifact_type,
    )
    assert {"os": "linux"} == found.platform
    assert {"name": "model"} == found.extra


@pytest.mark.parametrize(
    "fields",
    [
        {"mediaType": None},
        {"mediaType": 7},
        {"artifactType": None},
        {"annotations": None},
        {"annotations": {"a": None}},
    ],
)
def test_what_may_be_missing(fields: dict[str, Any]) -> None:
    """A missing or senseless type, and null, are no reason to fail."""
    found = parse_descriptor(value(**fields), "config")

    assert (None, {}) == (found.artifact_type, found.annotations)


def test_urls_are_read_over() -> None:
    """Content comes from the registry or not at all."""
    found = parse_descriptor(value(urls=["http://169.254.169.254/"]), "layers[0]")

    assert "169.254" not in repr(found)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "x",
        {},
        value(digest=None),
        value(digest=7),
        value(digest="sha256:00"),
        value(size=None),
        value(size="2"),
        value(size=2.0),
        value(size=True),
        value(size=-1),
        value(size=1 << 63),
        value(annotations=[]),
        value(annotations={"a": 1}),
    ],
)
def test_broken_descriptors_are_refused(broken: object) -> None:
    """No digest, no exact size, annotations that are no text."""
    with pytest.raises(UnsupportedArtifact):
        parse_descriptor(broken, "layers[0]")


def test_message_says_which() -> None:
    """Of hundreds of layers."""
    with pytest.raises(UnsupportedArtifact, match=r"layers\[7\]"):
        parse_descriptor(value(size=-1), "layers[7]")


def test_inline_data_is_verified_and_kept() -> None:
    """`e30=` is `{}`: no request is needed."""
    assert CONTENT == parse_descriptor(value(data=base64.b64encode(CONTENT).decode()), "config").data


def test_empty_inline_data() -> None:
    """The empty blob may be inline too."""
    assert b"" == parse_descriptor(value(digest=str(EMPTY_BLOB), size=0, data=""), "config").data


@pytest.mark.parametrize("data", ["e3x=", "e30", "e3 0=", "é", "", 7, "e30gIA=="])
def test_wrong_inline_data_is_refused(data: object) -> None:
    """Other bytes, another length, no base64."""
    with pytest.raises(UnsupportedArtifact, match="data of config"):
        parse_descriptor(value(data=data), "config")


def test_descriptors_are_values() -> None:
    """Equal and hashable, also with annotations and on Python 3.11."""
    first, second = (parse_descriptor(value(annotations={"a": "b"}, platform={"os": "x"}), "x") for _ in range(2))

    assert {first} == {second}


def test_annotations_cannot_be_changed() -> None:
    """A value stays what it is, even when the document changes."""
    document = {"a": "b"}
    found = parse_annotations(document, "x")
    document["a"] = "c"

    assert {"a": "b"} == found
