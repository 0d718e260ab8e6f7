from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse_json_object,
    parse_manifest,
)

DESCRIPTOR = {"mediaType": "x/y", "digest": str(Digest.of(b"{}")), "size": 2}


def parse(content_type: str = "", **fields: Any) -> Manifest | Index:
    """What a document with these fields is."""
    return parse_manifest(json.dumps(fields).encode(), content_type)


def test_manifest() -> None:
    """All fields."""
    found = parse(
        schemaVersion=2,
        mediaType=OCI_MANIFEST,
        artifactType="t",
        config=DESCRIPTOR,
        layers=[DESCRIPTOR, DESCRIPTOR],
        annotations={"a": "b"},
    )

    assert isinstance(found, Manifest)
    assert (OCI_MANIFEST, "t", {"a": "b"}) == (found.media_type, found.artifact_type, found.annotations)
    assert (found.config, found.config) == found.layers


def test_index() -> None:
    """All fields."""
    found = parse(mediaType=OCI_INDEX, artifactType="t", manifests=[DESCRIPTOR], annotations={"a": "b"})

    assert isinstance(found, Index)
    assert (OCI_INDEX, "t", 1, {"a": "b"}) == (
        found.media_type,
        found.artifact_type,
        len(found.manifests),
        found.annotations,
    )


@pytest.mark.parametrize(
    ("content_type", "fields", "expected"),
    [
        ("", {"layers": []}, Manifest),
        ("", {"config": DESCRIPTOR}, Manifest),
        ("", {"layers": [DESCRIPTOR], "config": {}}, Manifest),
        ("", {"manifests": []}, Index),
        ("text/plain; charset=utf-8", {"layers": []}, Manifest),
        ("application/json", {"manifests": []}, Index),
        (DOCKER_MANIFEST, {"layers": []}, Manifest),
        (DOCKER_INDEX, {"manifests": []}, Index),
        (OCI_INDEX, {"layers": []}, Manifest),
        (OCI_MANIFEST, {"manifests": []}, Index),
        (f"{OCI_INDEX.upper()}; charset=utf-8", {}, Index),
        ("", {"mediaType": OCI_INDEX}, Index),
        ("", {"mediaType": DOCKER_MANIFEST, "layers": []}, Manifest),
        ("", {"manifests": None, "layers": []}, Manifest),
        ("", {"manifests": [], "layers": None, "config": None}, Index),
        ("", {"mediaType": None, "layers": None, "annotations": None, "artifactType": None}, Manifest),
    ],
)
def test_type_is_told_by_the_body_then_by_its_shape(
    content_type: str, fields: dict[str, Any], expected: type[Manifest | Index]
) -> None:
    """The answer's Content-Type only breaks a tie: registries are known to send nonsense."""
    assert expected is type(parse(content_type, **fields))


def test_media_type_is_never_the_content_type() -> None:
    """A document without one has the specification's."""
    assert [OCI_MANIFEST, OCI_INDEX] == [parse("text/plain", **{key: []}).media_type for key in ("layers", "manifests")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": [], "manifests": []}, "both layers and manifests"),
        ({"config": DESCRIPTOR, "manifests": []}, "both config and manifests"),
        ({"mediaType": OCI_INDEX, "layers": []}, "fields of another type"),
        ({"mediaType": OCI_INDEX, "config": DESCRIPTOR}, "fields of another type"),
        ({"mediaType": OCI_MANIFEST, "manifests": []}, "fields of another type"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"schemaVersion": 2, "fsLayers": []}, "schema 1"),
        ({}, "neither a manifest nor an index"),
        ({"mediaType": OCI_MANIFEST}, "neither a manifest nor an index"),
        ({"blobs": []}, "neither a manifest nor an index"),
        ({"mediaType": 7, "layers": []}, "mediaType is not a string"),
        ({"artifactType": 7, "layers": []}, "artifactType is not a string"),
        ({"layers": {}}, "layers of the manifest is not a list"),
        ({"layers": [None]}, r"layers\[0\] is not a descriptor"),
        ({"manifests": 7}, "manifests of the manifest is not a list"),
        ({"layers": [], "annotations": {"a": 1}}, "annotations of the manifest"),
        ({"layers": [], "config": {"size": 2}}, "config has no digest"),
        ({"layers": [DESCRIPTOR] * (MAX_LAYERS + 1)}, "are the limit"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    """Ambiguous, contradictory, outdated and malformed documents."""
    with pytest.raises(UnsupportedArtifact, match=message):
        parse(**fields)


def test_descriptor_fields_may_be_unknown() -> None:
    """Ollama and KitOps add their own."""
    found = parse(layers=[DESCRIPTOR | {"name": "model", "modelMetadata": {}}])

    assert isinstance(found, Manifest)
    assert {"name": "model", "modelMetadata": {}} == found.layers[0].extra


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"{} {}",
        b" " * 100 + b"{}",
    ],
)
def test_json_that_two_readers_may_understand_differently_is_refused(content: bytes) -> None:
    """Duplicate keys, NaN, bad UTF-8, nesting without end, and anything over the limit."""
    with pytest.raises(UnsupportedArtifact, match="the config"):
        parse_json_object(content, "the config", 100 if content.startswith(b"  ") else MAX_MANIFEST_BYTES)


def test_size_limit() -> None:
    """Exactly four mebibytes are read, one more is not."""
    document = b'{"layers": []}'

    assert isinstance(parse_manifest(document.ljust(MAX_MANIFEST_BYTES)), Manifest)
    with pytest.raises(UnsupportedArtifact, match="the limit"):
        parse_manifest(document.ljust(MAX_MANIFEST_BYTES + 1))


def test_manifests_are_values() -> None:
    """Hashable, also on Python 3.11."""
    assert 1 == len({parse(layers=[DESCRIPTOR], annotations={"a": "b"}) for _ in range(2)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(DESCRIPTOR["digest"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["mediaType", "digest", "size", "annotations", "data", "x"]), inner)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["mediaType", "artifactType", "config", "layers", "manifests", "annotations", "schemaVersion"]),
        JSON,
    )
)
def test_any_document_is_read_or_refused(fields: dict[str, Any]) -> None:
    """Never another exception, whatever stands where."""
    try:
        found = parse(**fields)
    except UnsupportedArtifact:
        return

    assert isinstance(found, Manifest | Index)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Bytes that are no JSON either."""
    with pytest.raises(UnsupportedArtifact):
        parse_manifest(content)
