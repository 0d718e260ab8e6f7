"""The artifacts of real producers, from their manifest to the tree."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import Any

import pytest

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.layer import Compression, Layer, is_tar_head, sniff_codec
from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import EntryType, FileEntry, FileTree, build_tree, wanted_layers
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from tests.examples import EXPECTED, INDEXES, MOUNTABLE, blob, manifest_bytes, recognised
from tests.unit.artifact.builders import feed


def unpacked(layer: Layer) -> list[Member] | None:
    """What the puller does with a tar-typed layer; None when it turns out to be a file."""
    content = blob(layer.digest)
    if sniff_codec(layer.codec, content[:512]).compression is Compression.GZIP:
        content = gzip.decompress(content)
    if layer.undecided and not is_tar_head(content[:512]):
        return None
    return [replace(member, sha256=Digest.of(data).hex) for member, data in feed(content)[0]]


def tree_of(artifact: Artifact, selection: Selection) -> FileTree:
    """The tree, from the bytes that the selection needs."""
    listed = {layer.digest: unpacked(layer) for layer in wanted_layers(artifact, selection) if layer.codec.is_tar}
    members = {digest: members for digest, members in listed.items() if members is not None}
    tree = build_tree(artifact, members, selection)
    for entry in tree.entries:
        if entry.layer is not None and entry.member is not None:
            assert entry.size == members[entry.layer][entry.member].size
    return tree


def described(entry: FileEntry, artifact: Artifact) -> dict[str, Any]:
    """An entry in the form of expected.json."""
    if entry.type is EntryType.SYMLINK:
        return {"type": "symlink", "target": entry.target}
    if entry.type is EntryType.DIRECTORY:
        return {"type": "directory", "mode": entry.mode & 0o555}
    layer = next(layer for layer in artifact.layers if layer.digest == entry.layer)
    if entry.member is None:
        sha256 = layer.digest.hex
    else:
        members = unpacked(layer)
        assert members is not None
        sha256 = members[entry.member].sha256
    return {"type": "file", "size": entry.size, "sha256": sha256, "mode": entry.mode & 0o555}


def expected_tree(name: str) -> dict[str, dict[str, Any]]:
    """The tree in expected.json, with the mode that is shown."""
    entries = EXPECTED[name]["tree"].items()
    return {
        path: entry if entry["type"] == "symlink" else entry | {"mode": int(entry.get("mode", "0444"), 8) & 0o555}
        for path, entry in entries
    }


@pytest.mark.parametrize("name", MOUNTABLE)
def test_tree_is_the_expected_one(name: str) -> None:
    """Every example gives exactly the files, sizes, digests and modes that its producer meant."""
    artifact = recognised(name)
    tree = tree_of(artifact, Selection())

    assert expected_tree(name) == {entry.path: described(entry, artifact) for entry in tree.entries}
    assert () == tree.warnings


@pytest.mark.parametrize("name", EXPECTED)
def test_digest_is_that_of_the_manifest(name: str) -> None:
    """The examples are what their digests say."""
    assert EXPECTED[name]["manifest"] == str(Digest.of(manifest_bytes(name)))


@pytest.mark.parametrize("name", MOUNTABLE)
def test_kind_is_recognised(name: str) -> None:
    """Every example is of its kind."""
    assert EXPECTED[name]["kind"] == recognised(name).kind


@pytest.mark.parametrize("name", INDEXES)
def test_entry_of_an_index(name: str) -> None:
    """The artifact is the entry, with the entry's digest."""
    assert EXPECTED[name]["child"] == str(recognised(name).digest)


def test_unsafe_path_is_refused_before_any_byte_is_fetched() -> None:
    """A manifest with one unsafe path is refused as a whole, naming the path and the layer."""
    with pytest.raises(UnsupportedArtifact) as caught:
        recognised("edge-traversal")

    assert "'../../etc/evil'" in str(caught.value)
    assert "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in MOUNTABLE if name.startswith(("modctl", "aikit", "kitops"))])
def test_without_weights_the_rest_is_the_same(name: str) -> None:
    """excludeModelWeights takes the safetensors away, in raw layers, in tars of one file and in tars of many."""
    artifact = recognised(name)
    tree = tree_of(artifact, Selection(exclude_weights=True))

    expected = {path for path, entry in expected_tree(name).items() if entry["type"] == "file"}
    assert {path for path in expected if not path.endswith(".safetensors")} == {entry.path for entry in tree.entries}


@pytest.mark.parametrize(
    "name", ["modctl-tar", "modctl-cnai-tar", "modctl-raw", "aikit-modelpack-raw", "aikit-modelpack-tar"]
)
def test_weights_that_nobody_wants_are_not_fetched(name: str) -> None:
    """Where the annotations tell, the bytes of unwanted weights never cross the network."""
    wanted = wanted_layers(recognised(name), Selection(exclude_weights=True))

    assert [] == [layer for layer in wanted if layer.is_weight]
