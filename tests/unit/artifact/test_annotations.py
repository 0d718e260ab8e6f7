from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.artifact.annotations import FileMetadata, filepath_annotation, parse_file_metadata, told_path
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import EMPTY_BLOB

CNCF, CNAI, TITLE = "org.cncf.model.filepath", "org.cnai.model.filepath", "org.opencontainers.image.title"
METADATA = "org.cncf.model.file.metadata+json"


def descriptor(**annotations: str) -> Descriptor:
    """A layer with these annotations."""
    return Descriptor("application/octet-stream", EMPTY_BLOB, 0, annotations)


def metadata(**fields: Any) -> FileMetadata:
    """What is understood of a metadata annotation with these fields."""
    return parse_file_metadata(descriptor(**{METADATA: json.dumps(fields)}))


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({CNCF: "a", CNAI: "b", TITLE: "c", METADATA: '{"name":"d"}'}, "a"),
        ({CNAI: "b", TITLE: "c", METADATA: '{"name":"d"}'}, "b"),
        ({CNCF: "", CNAI: "b"}, "b"),
        ({TITLE: "c", METADATA: '{"name":"d"}'}, "c"),
        ({METADATA: '{"name":"x/../d"}'}, "d"),
        ({METADATA: "{"}, None),
        ({}, None),
    ],
)
def test_name_order(annotations: dict[str, str], expected: str | None) -> None:
    """cncf's filepath, then cnai's, then the title, then the metadata's name."""
    assert expected == told_path(descriptor(**annotations))


@pytest.mark.parametrize("key", [CNCF, CNAI, TITLE])
def test_unsafe_name_is_refused_with_the_layer(key: str) -> None:
    """A name that leaves is refused wherever it stands."""
    with pytest.raises(UnsupportedArtifact, match=rf"'\.\./x' in layer {EMPTY_BLOB}"):
        told_path(descriptor(**{key: "../x"}))


def test_the_root_is_no_filepath() -> None:
    """KitOps annotates a tar of the whole directory with a dot."""
    assert [None, None, "a"] == [filepath_annotation(descriptor(**{CNCF: text})) for text in (".", "./", "a/")]


@pytest.mark.parametrize("key", [METADATA, "org.cnai.model.file.metadata+json", "org.cnai.model.file.metadata"])
def test_metadata_by_all_its_names(key: str) -> None:
    """model-spec v0.0.4 had no suffix."""
    assert 0o640 == parse_file_metadata(descriptor(**{key: '{"mode":416}'})).mode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-03-01T12:34:56.123456789Z", 1_740_832_496_123_456_789),
        ("2025-03-01T12:34:56Z", 1_740_832_496_000_000_000),
        ("2025-03-01T14:34:56.5+02:00", 1_740_832_496_500_000_000),
        ("2025-03-01T06:04:56-06:30", 1_740_832_496_000_000_000),
        ("1970-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00Z", None),
        ("1969-12-31T23:59:59.9Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("2025-13-01T00:00:00Z", None),
        ("2025-03-01T12:34:56+25:00", None),
        ("2025-03-01", None),
        ("٢٠٢٥-03-01T12:34:56Z", None),
        ("", None),
        (0, None),
        (None, None),
    ],
)
def test_time(text: object, expected: int | None) -> None:
    """RFC 3339 with up to nine digits and any offset; Go's zero time and nonsense are no time."""
    assert expected == metadata(mtime=text).mtime_ns


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "a", "typeflag": 0}, True),
        ({"name": "a", "typeflag": 48}, True),
        ({"name": "a", "typeflag": 53}, False),
        ({"name": "a", "typeflag": False}, False),
        ({"name": "a"}, False),
        ({"name": "a", "typeflag": 0, "files": 1}, False),
    ],
)
def test_regular_file(fields: dict[str, Any], expected: bool) -> None:
    """Type flags 0 and 48 are files, unless the metadata counts several."""
    assert expected is metadata(**fields).is_regular_file


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        '{"mode":"0644"}',
        '{"mode":true}',
        '{"mode":0}',
        '{"mode":-1}',
        '{"name":""}',
        "[" * 10_000,
    ],
)
def test_nonsense_is_no_metadata(text: str) -> None:
    """Bad JSON, wrong types and zeroes say nothing; they are no errors."""
    assert FileMetadata() == parse_file_metadata(descriptor(**{METADATA: text}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(["name", "mode", "mtime", "typeflag", "files", "size"]), JSON))
def test_metadata_never_fails(fields: dict[str, Any]) -> None:
    """Whatever values the fields have, the metadata informs or does not."""
    assert isinstance(metadata(**fields), FileMetadata)
