from __future__ import annotations

import posixpath

import pytest

from modelcsi.artifact.layouts import Layout
from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import EntryType, FileTree, build_tree
from modelcsi.oci.digest import Digest
from tests.unit.artifact.builders import artifact, directory, entry_at, file, layer, paths, symlink, tree

MANIFEST = Digest.of(b"manifest")
SNAPSHOT = f"models--org--name/snapshots/{MANIFEST.hex}"


def hub(*members: Member) -> FileTree:
    """A hub cache of a tar's members."""
    return Layout("org/name").arrange(tree(list(members)), MANIFEST)


def test_the_artifacts_own_layout_changes_nothing() -> None:
    """The same tree."""
    found = tree([file("a")])

    assert found is Layout().arrange(found, MANIFEST)


def test_a_hub_cache() -> None:
    """Contents in `blobs`, the tree of links in `snapshots`, the revision in `refs`."""
    found = hub(file("a/b.bin", "b"), file("c.json", "c"), directory("empty"))

    assert [
        *("models--org--name/", "models--org--name/blobs/", "models--org--name/blobs/b", "models--org--name/blobs/c"),
        *("models--org--name/refs/", f"models--org--name/refs/{MANIFEST.hex}", "models--org--name/refs/main"),
        *("models--org--name/snapshots/", f"{SNAPSHOT}/", f"{SNAPSHOT}/a/", f"{SNAPSHOT}/a/b.bin"),
        *(f"{SNAPSHOT}/c.json", f"{SNAPSHOT}/empty/"),
    ] == sorted(paths(found))
    assert MANIFEST.hex.encode() == entry_at(found, "models--org--name/refs/main").data


def test_every_file_is_a_relative_link_to_its_blob() -> None:
    """However deep it lies."""
    found = hub(file("a", "1"), file("d/e/f", "2"))
    links = [entry for entry in found.entries if entry.type is EntryType.SYMLINK]

    assert ["models--org--name/blobs/1", "models--org--name/blobs/2"] == [
        posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target)) for link in links
    ]


def test_equal_contents_are_one_blob() -> None:
    """But an executable file's mode is its own."""
    found = hub(file("a", "same"), file("b", "same"), file("c", "same", mode=0o755))
    blobs = [entry for entry in found.entries if "/blobs/" in entry.path]

    assert [("same", 0o444), ("same-x", 0o555)] == [(blob.path.rpartition("/")[2], blob.mode) for blob in blobs]


def test_links_of_the_artifact_stay_links() -> None:
    """They lead to the links beside them."""
    found = hub(file("d/a"), symlink("l", "d/a"))

    assert "d/a" == entry_at(found, f"{SNAPSHOT}/l").target


def test_a_raw_layers_blob_has_the_name_of_its_digest() -> None:
    """As large files of the hub, which are named by their sha256."""
    found = Layout("name").arrange(build_tree(artifact(layer(filepath="a")), {}, Selection()), MANIFEST)

    assert f"models--name/blobs/{Digest.of(b'content').hex}" in paths(found)


@pytest.mark.parametrize("layout", [Layout(), Layout("org/name"), Layout("gpt2")])
def test_keys_can_be_read(layout: Layout) -> None:
    """Records of views have them."""
    assert layout == Layout.from_key(layout.key)


def test_keys_stay_what_they_are() -> None:
    """Views on disk are named by them."""
    assert ["files", "huggingface-hub:org/name"] == [Layout().key, Layout("org/name").key]


@pytest.mark.parametrize("key", ["", "file", "files:x", "huggingface-hub", "huggingface-hub:", "huggingface-hub:a/b/c"])
def test_other_text_is_no_layout(key: str) -> None:
    """A record that was damaged."""
    with pytest.raises(ValueError, match=r"is no"):
        Layout.from_key(key)
