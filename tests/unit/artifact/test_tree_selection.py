"""Which bytes a selection needs, and what of the tree it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import build_tree, wanted_layers, wants_member
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from tests.unit.artifact.builders import (
    RAW,
    TAR,
    artifact,
    directory,
    file,
    hardlink,
    layer,
    paths,
    symlink,
    tars,
    tree,
)

ALL = Selection()
NO_WEIGHTS = Selection(exclude_weights=True)
METADATA = '{"name":"%s","typeflag":0}'


def test_selection_in_a_tar() -> None:
    """Names decide in a tar of several files, also where its type is that of weights; empty directories go."""
    members = [directory("w"), file("w/m.safetensors"), file("c/config.json"), symlink("w2", "w"), directory("empty")]

    assert ["c/", "c/config.json", "w2"] == paths(tree(members, selection=NO_WEIGHTS, filepath="dir"))


def test_type_decides_in_a_tar_of_one_file() -> None:
    """A weight of unknown suffix, named by the annotation."""
    found, members = tars([file("shard.dat")], [file("config.json")], filepath="d/shard.dat")

    assert ["config.json"] == paths(build_tree(found, members, NO_WEIGHTS))


@pytest.mark.parametrize(("is_kept", "shown", "warnings"), [(True, ["blob", "x"], 0), (False, ["x"], 1)])
def test_hard_link_to_an_unwanted_file(is_kept: bool, shown: list[str], warnings: int) -> None:
    """Another name decides for itself, as long as the bytes are there; else a warning tells."""
    weights = replace(file("m.safetensors"), sha256="ab" if is_kept else "")
    found = tree([weights, hardlink("blob", "m.safetensors"), file("x")], selection=NO_WEIGHTS)

    assert (shown, warnings) == (paths(found), len(found.warnings))


@pytest.mark.parametrize(
    ("annotations", "selection", "wanted"),
    [
        ({"filepath": "d/a.dat", "metadata": METADATA % "a.dat"}, NO_WEIGHTS, False),
        ({"filepath": "d/a.safetensors"}, NO_WEIGHTS, False),
        ({"filepath": "d/a.dat"}, NO_WEIGHTS, True),
        ({"filepath": "text_encoder"}, Selection(exclude_patterns=("text_encoder",)), True),
        ({"title": "a.safetensors"}, NO_WEIGHTS, True),
        ({"filepath": "d/a.safetensors"}, Selection(True, ("!a.*",)), True),
    ],
)
def test_tars_that_need_not_be_fetched(annotations: dict[str, str], selection: Selection, wanted: bool) -> None:
    """A tar is left out only where the annotations leave no doubt that it holds one unwanted file."""
    found = artifact(layer(TAR, b"tar", **annotations), layer(RAW, b"x", filepath="README.md"))
    keep = replace(selection, exclude_patterns=(*selection.exclude_patterns, "!README.md"))

    assert wanted is (Digest.of(b"tar") in {layer.digest for layer in wanted_layers(found, keep)})
    if not wanted:
        assert ["README.md"] == paths(build_tree(found, {}, keep))


@pytest.mark.parametrize(
    ("annotation", "member", "selection", "wanted"),
    [
        ("d/a.dat", "a.dat", NO_WEIGHTS, False),
        ("d/a.dat", "b.dat", NO_WEIGHTS, True),
        ("d", "d/a.safetensors", NO_WEIGHTS, False),
        ("d", "d/a.json", NO_WEIGHTS, True),
        ("d", "d/a.json", Selection(exclude_patterns=("*.json",)), False),
        ("d", "d/a.safetensors", ALL, True),
    ],
)
def test_wants_member(annotation: str, member: str, selection: Selection, wanted: bool) -> None:
    """While a tar streams, names and the annotation decide."""
    found = artifact(layer(TAR, filepath=annotation)).layers[0]

    assert wanted is wants_member(found, member, selection)


@pytest.mark.parametrize("members", [[], [file("x")]])
def test_nothing_is_an_error(members: list[Member]) -> None:
    """An empty tar has no content; a filter that leaves nothing says so."""
    selection = Selection(exclude_weights=True, exclude_patterns=("x",)) if members else ALL
    match = r'excludeModelWeights and excludeFilePatterns \["x"\] leaves nothing' if members else "no content"
    with pytest.raises(UnsupportedArtifact, match=match):
        tree(members, selection=selection)


def test_a_directory_shown_as_root() -> None:
    """Its files, links and directories, empty ones too; nothing else."""
    members = [file("a/b/x"), directory("a/b/empty"), symlink("a/b/l", "x"), file("a/y"), file("ab/z")]

    assert ["empty/", "l", "x"] == paths(tree(members, selection=Selection(sub_path="a/b")))


def test_patterns_leave_out_empty_directories_below_a_root() -> None:
    """As without one."""
    members = [file("a/b/x"), directory("a/empty"), file("a/y")]

    assert ["b/", "b/x"] == paths(tree(members, selection=Selection(sub_path="a", exclude=("a/y",))))


@pytest.mark.parametrize(("path", "target"), [("a/l", "../x"), ("a/d/l", "../../a/d"), ("a/d/l", "../..")])
def test_a_link_out_of_the_shown_directory_is_refused(path: str, target: str) -> None:
    """It would lead into the container's own files; without the link the rest can be shown."""
    members = [file("x"), file("a/d/y"), symlink(path, target)]
    with pytest.raises(
        UnsupportedArtifact, match=r"in subPath 'a': it leaves what the volume shows .*exclude"
    ) as caught:
        tree(members, selection=Selection(sub_path="a"))

    assert repr(target) in str(caught.value)
    assert ["d/", "d/y"] == paths(tree(members, selection=Selection(sub_path="a", exclude=(path,))))


def test_links_that_stay_below_the_root_are_kept() -> None:
    """Up and down again."""
    members = [file("a/x"), symlink("a/d/l", "../x")]

    assert ["d/", "d/l", "x"] == paths(tree(members, selection=Selection(sub_path="a")))


def test_nothing_is_an_error_without_reading_a_tar() -> None:
    """Of tars that hold one file each the names are known; none is fetched to say that none is wanted."""
    found = artifact(layer(TAR, b"tar", filepath="d/a.dat", metadata=METADATA % "a.dat"))
    selection = Selection(include=("*.bin",))
    with pytest.raises(UnsupportedArtifact, match=r"matched by include '\*.bin' .*it has 'd/a.dat'"):
        build_tree(found, {}, selection)

    assert () == wanted_layers(found, selection)


def test_a_directory_of_oras_py_that_is_not_wanted_is_not_fetched() -> None:
    """All of its members are below its title."""
    gzip, file_type = "application/vnd.oci.image.layer.v1.tar+gzip", "application/octet-stream"
    found = artifact(layer(gzip, b"tar", title="docs"), layer(file_type, b"x", title="a/x"), artifact_type=None)
    layers = [wanted_layers(found, selection) for selection in (Selection(exclude=("docs",)), Selection(sub_path="a"))]

    assert [[Digest.of(b"x")]] * 2 == [[layer.digest for layer in wanted] for wanted in layers]
    assert ["x"] == paths(build_tree(found, {}, Selection(sub_path="a")))


@pytest.mark.parametrize("is_read", [False, True])
def test_a_file_that_lost_its_path_does_not_come_back(is_read: bool) -> None:
    """Where two layers have a file at one path, the later one has it, whatever is chosen: when that one is left out, the other does
    not come back.
    """
    weights = layer(TAR, b"tar", filepath="d/a.dat", metadata=METADATA % "a.dat")
    document = "application/vnd.cncf.model.doc.v1.raw"
    found = artifact(layer(document, b"old", filepath="d/a.dat"), layer(document, b"x", filepath="d/x"), weights)
    members = {Digest.of(b"tar"): [replace(file("a.dat"), sha256="")]} if is_read else {}
    shown = build_tree(found, members, NO_WEIGHTS)

    assert ["d/", "d/x"] == paths(shown)
    assert [f"'d/a.dat' of layer {Digest.of(b'old')} is replaced by that of layer {Digest.of(b'tar')}"] == list(
        shown.warnings
    )


def test_a_later_file_takes_the_path_of_one_that_is_not_fetched() -> None:
    """As it would of one that is."""
    weights = layer(TAR, b"tar", filepath="d/a.dat", metadata=METADATA % "a.dat")
    found = artifact(weights, layer("application/vnd.cncf.model.doc.v1.raw", b"new", filepath="d/a.dat"))

    assert ["d/", "d/a.dat"] == paths(build_tree(found, {}, NO_WEIGHTS))
