from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcsi.errors import CorruptContent, InvalidRequest, StoreFull, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_INDEX, OCI_MANIFEST
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import LayoutWriter, new_layout, open_layout, to_json
from tests.unit.pack.conftest import REFERENCE

TYPE = "application/vnd.cncf.model.manifest.v1+json"


def fill(writer: LayoutWriter, content: bytes = b"weights", tag: str = "v1") -> Digest:
    """One artifact of one blob."""
    layer = writer.add("application/octet-stream", [content])
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [
        {"mediaType": layer.media_type, "digest": str(layer.digest), "size": layer.size}
    ]}  # fmt: skip
    manifest = writer.add(OCI_MANIFEST, [to_json(document)])
    writer.finish(manifest, TYPE, tag)
    return manifest.digest


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout."""
    with new_layout(tmp_path / "x.oci") as writer:
        fill(writer)
    return tmp_path / "x.oci"


def blobs(root: Path) -> Path:
    """Where its blobs are."""
    return root / "blobs" / "sha256"


def test_layout_is_as_specified(layout: Path) -> None:
    """image-layout.md: the marker, the index with the tag, blobs by their digest."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]

    assert {"imageLayoutVersion": "1.0.0"} == json.loads((layout / "oci-layout").read_text())
    assert ({"org.opencontainers.image.ref.name": "v1"}, TYPE) == (entry["annotations"], entry["artifactType"])
    assert all(path.name == Digest.of(path.read_bytes()).hex for path in blobs(layout).iterdir())


def test_layout_is_read_back(layout: Path) -> None:
    """What was written is found by its tag, and by its digest."""
    artifact = open_layout(layout, REFERENCE)

    assert [Digest.of(b"weights")] == [blob.digest for blob in artifact.blobs]
    assert artifact.digest == open_layout(layout, Reference.parse(f"a.test/b@{artifact.digest}")).digest


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """An attempt that fails leaves neither a layout nor its temporary files."""

    def broken() -> Iterator[bytes]:
        yield b"first"
        raise InvalidRequest("stop")

    with pytest.raises(InvalidRequest, match="stop"), new_layout(tmp_path / "x.oci") as writer:
        writer.add("type", broken())
    assert [] == list(tmp_path.iterdir())


def test_full_disk_is_told(tmp_path: Path) -> None:
    """No space left is StoreFull, with what to do."""

    def full() -> Iterator[bytes]:
        yield b"first"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreFull, match="no space left while writing"), new_layout(tmp_path / "x.oci") as writer:
        writer.add("type", full())


def test_layout_of_one_artifact_is_replaced(layout: Path) -> None:
    """Packing again replaces what packing wrote, and leaves no old blobs."""
    with new_layout(layout) as writer:
        digest = fill(writer, b"new")

    assert digest == open_layout(layout, REFERENCE).digest
    assert 2 == len(list(blobs(layout).iterdir()))
    assert [layout] == list(layout.parent.iterdir())


def test_failure_keeps_the_old_layout(layout: Path) -> None:
    """A replacement that fails changes nothing."""
    before = open_layout(layout, REFERENCE).digest

    def interrupted() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), new_layout(layout) as writer:
        writer.add("type", interrupted())

    assert before == open_layout(layout, REFERENCE).digest


def test_what_is_no_layout_is_not_replaced(tmp_path: Path) -> None:
    """A directory of somebody's files is never removed."""
    (tmp_path / "precious").write_text("x")

    with pytest.raises(InvalidRequest, match="is not the layout of one artifact"), new_layout(tmp_path):
        pass


def test_layout_of_several_artifacts_is_not_replaced(layout: Path) -> None:
    """Another tool's layout may hold more than the one artifact."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"].append(index["manifests"][0] | {"annotations": {"org.opencontainers.image.ref.name": "v2"}})
    (layout / "index.json").write_text(json.dumps(index))

    with pytest.raises(InvalidRequest, match="is not the layout of one artifact"), new_layout(layout):
        pass


def test_one_of_several_is_chosen_by_its_tag(layout: Path) -> None:
    """A layout that holds several artifacts is asked by tag."""
    index = json.loads((layout / "index.json").read_text())
    other = index["manifests"][0] | {"digest": f"sha256:{'0' * 64}", "annotations": {}}
    (layout / "index.json").write_text(json.dumps(index | {"manifests": [other, index["manifests"][0]]}))

    assert index["manifests"][0]["digest"] == str(open_layout(layout, REFERENCE).digest)
    with pytest.raises(InvalidRequest, match="cannot be told"):
        open_layout(layout, Reference.parse("a.test/b:other"))


def test_digest_that_it_does_not_hold_is_refused(layout: Path) -> None:
    """A pinned reference is taken at its word."""
    with pytest.raises(InvalidRequest, match="does not hold"):
        open_layout(layout, Reference.parse(f"a.test/b@sha256:{'0' * 64}"))


def test_missing_blob_is_told(layout: Path) -> None:
    """Before anything is sent."""
    (blobs(layout) / Digest.of(b"weights").hex).unlink()

    with pytest.raises(CorruptContent, match="is absent"):
        open_layout(layout, REFERENCE)


def test_damaged_manifest_is_told(layout: Path) -> None:
    """A manifest is what its digest says, or nothing."""
    path = blobs(layout) / open_layout(layout, REFERENCE).digest.hex
    path.write_bytes(path.read_bytes().replace(b"octet", b"OCTET"))

    with pytest.raises(CorruptContent, match="has other bytes"):
        open_layout(layout, REFERENCE)


def test_index_is_refused(tmp_path: Path) -> None:
    """Only single artifacts are pushed."""
    with new_layout(tmp_path / "x.oci") as writer:
        writer.finish(
            writer.add(OCI_INDEX, [to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})]), TYPE, "v1"
        )

    with pytest.raises(UnsupportedArtifact, match="is an index"):
        open_layout(tmp_path / "x.oci", REFERENCE)


def test_other_directory_is_no_layout(tmp_path: Path) -> None:
    """`push DIR` of the model itself is a likely mistake."""
    with pytest.raises(InvalidRequest, match="is not an OCI image layout"):
        open_layout(tmp_path, REFERENCE)
