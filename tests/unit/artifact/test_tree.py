from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.selection import ROOT, Selection
from modelcsi.artifact.tree import EntryType, FileEntry, build_tree, wanted_layers, wants_member
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from tests.unit.artifact.builders import (
    IMAGE_LAYER,
    RAW,
    TAR,
    artifact,
    directory,
    entry_at,
    file,
    hardlink,
    layer,
    paths,
    symlink,
    tars,
    tree,
)

GENERIC = "application/vnd.unknown.artifact.v1"
ALL = Selection()


def test_raw_layers_are_files_with_parents() -> None:
    """Implied directories are present, entries are sorted, mode and time come from the metadata."""
    metadata = '{"name":"y","mode":493,"mtime":"1970-01-01T00:00:01Z"}'
    found = artifact(layer(RAW, b"1", filepath="b/c/x"), layer(RAW, b"22", filepath="a", metadata=metadata))

    assert (
        FileEntry("a", EntryType.FILE, 2, 0o555, 1_000_000_000, layer=Digest.of(b"22")),
        FileEntry("b", EntryType.DIRECTORY, 0, 0o555),
        FileEntry("b/c", EntryType.DIRECTORY, 0, 0o555),
        FileEntry("b/c/x", EntryType.FILE, 1, 0o444, layer=Digest.of(b"1")),
    ) == build_tree(found, {}, ALL).entries


def test_members_of_a_tar() -> None:
    """Files refer to their place in the tar; a hard link is a file that refers to its target's place."""
    members = [directory("d"), file("d/x", mode=0o711), symlink("l", "d/x"), hardlink("h", "d/x"), hardlink("i", "h")]
    found = tree(members)
    digest = Digest.of(b"tar 0")

    assert (
        FileEntry("d", EntryType.DIRECTORY, 0, 0o555, 6),
        FileEntry("d/x", EntryType.FILE, 3, 0o555, 5, layer=digest, member=1),
        FileEntry("h", EntryType.FILE, 3, 0o555, 5, layer=digest, member=1),
        FileEntry("i", EntryType.FILE, 3, 0o555, 5, layer=digest, member=1),
        FileEntry("l", EntryType.SYMLINK, 0, 0o777, 7, "d/x"),
    ) == found.entries
    assert 9 == found.size_bytes


@pytest.mark.parametrize(
    ("member", "annotation", "shown"),
    [
        ("model.safetensors", "text_encoder/model.safetensors", "text_encoder/model.safetensors"),
        ("foo.txt", "docs/foo.txt", "docs/foo.txt"),
        ("docs/foo.txt", "foo.txt", "foo.txt"),
        ("foo/foo", "foo", "foo/foo"),
        ("foo/bar/foo", "foo", "foo/bar/foo"),
        ("text_encoder/model.safetensors", "text_encoder", "text_encoder/model.safetensors"),
        ("a", "b", "a"),
        ("a/b", "a/b", "a/b"),
    ],
)
def test_only_member_goes_to_the_annotated_path(member: str, annotation: str, shown: str) -> None:
    """If the base names are equal and the member does not lie below the annotation already."""
    assert shown == paths(tree([file(member)], filepath=annotation))[-1]


@pytest.mark.parametrize(
    "others",
    [[file("other")], [file("model.bin")], [hardlink("other", "model.bin")]],
)
def test_one_of_several_members_stays(others: list[Member]) -> None:
    """With two regular members the annotation is no path of a file."""
    assert "d/model.bin" not in paths(tree([file("model.bin"), *others], filepath="d/model.bin"))


def test_directories_and_links_do_not_count_as_members() -> None:
    """GNU tar of a directory begins with the directory."""
    assert ["d/", "d/m", "e/"] == paths(tree([directory("e"), file("m")], filepath="d/m"))


def test_title_does_not_move_a_member() -> None:
    """olot writes only a title."""
    assert ["models/", "models/m"] == paths(tree([file("models/m")], title="x/m"))


def test_files_key_forbids_moving() -> None:
    """AIKit's class tar `code` whose only member is `src/code`."""
    metadata = '{"name":"code","typeflag":0,"files":1}'

    assert ["src/", "src/code"] == paths(tree([file("src/code")], filepath="code", metadata=metadata))


def test_one_digest_at_two_annotated_paths() -> None:
    """AIKit packs the same weight of two directories as one blob with two layers."""
    content = b"tar"
    found = artifact(layer(TAR, content, filepath="a/m.bin"), layer(TAR, content, filepath="b/m.bin"))
    members = {Digest.of(content): [file("m.bin")]}

    assert ["a/", "a/m.bin", "b/", "b/m.bin"] == paths(build_tree(found, members, ALL))
    assert 1 == len(wanted_layers(found, ALL))


@pytest.mark.parametrize(
    ("first", "second", "warnings"),
    [
        (file("x", "same"), file("x", "same"), 0),
        (file("x", "one"), file("x", "two"), 1),
        (symlink("x", "a"), symlink("x", "a"), 0),
        (symlink("x", "a"), file("x"), 1),
        (directory("x"), directory("x"), 0),
    ],
)
@pytest.mark.parametrize("one_tar", [True, False])
def test_later_of_two_wins(first: Member, second: Member, warnings: int, one_tar: bool) -> None:
    """In one tar and across layers; in silence when the content is the same."""
    found = tree([first, second]) if one_tar else tree([first], [second])

    assert (1, warnings) == (len(found.entries), len(found.warnings))
    assert (second.type.value, second.target) == (found.entries[0].type.value, found.entries[0].target)


def test_raw_and_tar_with_the_same_content_agree() -> None:
    """The member's sha256 is the digest of the raw layer."""
    raw = layer(RAW, b"content", filepath="x")
    found = artifact(raw, layer(TAR, b"tar"))

    assert () == build_tree(found, {Digest.of(b"tar"): [file("x", Digest.of(b"content").hex)]}, ALL).warnings


@pytest.mark.parametrize(
    "members",
    [
        [file("a"), file("a/b")],
        [file("a/b"), file("a")],
        [directory("a"), file("a")],
        [file("a"), directory("a")],
        [symlink("a", "b"), file("a/x")],
        [file("a/x"), symlink("a", "b")],
        [symlink("a", "b"), directory("a")],
        [file("x"), file("a/x"), hardlink("a", "x")],
    ],
)
@pytest.mark.parametrize("one_tar", [True, False])
def test_conflicts_are_refused(members: list[Member], one_tar: bool) -> None:
    """File against directory, and a path through a symbolic link; the message names path and layers."""
    with pytest.raises(UnsupportedArtifact, match=r"^'a' is a .* in layer sha256:.* and a .* in layer sha256:"):
        tree(members) if one_tar else tree(*([member] for member in members))


@pytest.mark.parametrize("target", ["missing", "d", "l", "later"])
def test_hard_link_to_no_file_is_refused(target: str) -> None:
    """The target must be a regular file before it: not a directory, not a link (CPython gh-157190), not outside."""
    with pytest.raises(UnsupportedArtifact, match=rf"hard link 'h' in layer sha256:.* is to '{target}'"):
        tree([directory("d"), file("x"), symlink("l", "x"), hardlink("h", target), file("later")])


def test_hard_link_to_a_file_of_another_layer() -> None:
    """It is a file of the same tree."""
    found = tree([file("a"), file("x")], [hardlink("h", "x")])

    assert (Digest.of(b"tar 0"), 1) == (entry_at(found, "h").layer, entry_at(found, "h").member)


def test_hard_link_keeps_the_file_that_was_there() -> None:
    """What replaces the target later does not change the link."""
    found = tree([file("x", "old"), hardlink("h", "x"), file("x", "new")])

    assert (0, 2) == (entry_at(found, "h").member, entry_at(found, "x").member)


def test_link_that_leaves_by_another_layers_link_is_refused() -> None:
    """Each layer is harmless alone."""
    with pytest.raises(UnsupportedArtifact, match=r"unsafe link 'x' -> 'p/q/up/\.\./y'"):
        tree([symlink("p/q/up", "../..")], [symlink("x", "p/q/up/../y")])


@pytest.mark.parametrize(
    ("members", "expected"),
    [(None, ["d"]), ([file("d/x"), directory("d")], ["d/", "d/x"]), ([file("x")], ["d"]), ([file("dx")], ["d"])],
)
def test_directory_of_oras_py(members: list[Member] | None, expected: list[str]) -> None:
    """A tar whose members all lie under the title; else the file itself."""
    found = artifact(layer(IMAGE_LAYER + "+gzip", b"tar", title="d"), artifact_type=GENERIC)
    listed = {} if members is None else {Digest.of(b"tar"): members}
    entries = build_tree(found, listed, ALL)

    assert expected == paths(entries)
    assert (expected == ["d"]) is (entries.entries[-1].member is None)


@pytest.mark.parametrize(("members", "expected"), [(None, "named"), ([file("inside")], "inside")])
def test_image_layer_in_a_modelpack(members: list[Member] | None, expected: str) -> None:
    """A tar if its bytes are one, else the file with the layer's name."""
    found = artifact(layer(IMAGE_LAYER, b"tar", title="named"))
    listed = {} if members is None else {Digest.of(b"tar"): members}

    assert [expected] == paths(build_tree(found, listed, ALL))


def test_nameless_file_is_shown_with_a_warning() -> None:
    """Unless a filter is on: no pattern could mean it."""
    found = artifact(layer(RAW, b"1"), layer(RAW, b"2", filepath="x"))
    name = f"sha256-{Digest.of(b'1').hex}"
    filtered = Selection(exclude_patterns=("*.none",))

    assert [name, "x"] == paths(build_tree(found, {}, ALL))
    assert 1 == len(build_tree(found, {}, ALL).warnings)
    assert ["x"] == paths(build_tree(found, {}, filtered))
    assert [Digest.of(b"2")] == [wanted.digest for wanted in wanted_layers(found, filtered)]


def test_warnings_of_the_artifact_come_first() -> None:
    """A person reads all of them in one place."""
    found = artifact(layer(filepath="x"), layer("x/y", b"nameless"))

    assert found.warnings == build_tree(found, {}, ALL).warnings


def test_similar_names_warn() -> None:
    """Case and the form of Unicode."""
    found = tree([file("A"), file("a"), file("é"), file("e\u0301"), file("b")])

    assert 2 == len(found.warnings)
    assert 5 == len(found.entries)


def test_warnings_are_bounded() -> None:
    """A hostile artifact does not fill the log."""
    assert 101 == len(tree([file("x", f"content {number}") for number in range(500)]).warnings)


def test_entries_are_bounded() -> None:
    """Implied directories count."""
    with pytest.raises(UnsupportedArtifact, match="too many files"):
        tree([file(f"{number}/" + "d/" * 60 + "x") for number in range(2000)])


SEGMENT = st.sampled_from(["a", "b", "c", "d.bin"])
PATHS = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=5).map("/".join)
MEMBERS = st.one_of(
    st.builds(file, PATHS, st.sampled_from(["", "same"])),
    st.builds(directory, PATHS),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(hardlink, PATHS, PATHS),
)


def followed(tree: dict[str, FileEntry], path: str) -> bool:
    """Whether opening a path stays inside, by following it as the kernel does, hop by hop."""
    here: list[str] = []
    ahead = path.split("/")
    for _ in range(1000):
        if not ahead:
            return True
        part = ahead.pop(0)
        if part == "..":
            if not here:
                return False
            here.pop()
        elif part != ".":
            found = tree.get("/".join([*here, part]))
            if found is None:
                return True
            if found.type is EntryType.SYMLINK:
                ahead = found.target.split("/") + ahead
            else:
                here.append(part)
    return True


SELECTIONS = st.builds(
    Selection,
    exclude_patterns=st.sampled_from([(), (), ("*.bin",), ("a",), ("!*",)]),
    include=st.sampled_from([(), (), ("*",), ("a", "!*.bin"), ("a/*",)]),
    exclude=st.sampled_from([(), (), ("*.bin",), ("/a",), ("a/", "!b")]),
    sub_path=st.sampled_from(["", "", "a", "a/b", ROOT]),
)


@given(st.lists(st.lists(MEMBERS, max_size=5), min_size=1, max_size=3), SELECTIONS)
@settings(max_examples=600)
def test_trees_never_escape(listed: list[list[Member]], selection: Selection) -> None:
    """Whatever members, whatever is chosen: refused, or a tree in which parents are directories, every link stays inside, and
    every file is wanted.
    """
    try:
        found = tree(*listed, selection=selection)
    except UnsupportedArtifact:
        return

    by_path: dict[str, FileEntry] = {entry.path: entry for entry in found.entries}
    assert list(by_path) == sorted(by_path)
    for path, entry in by_path.items():
        parent = path.rpartition("/")[0]
        assert not parent or by_path[parent].type is EntryType.DIRECTORY
        assert followed(by_path, path)
        if entry.type is EntryType.FILE:
            layers = [Digest.of(f"tar {number}".encode()) for number in range(len(listed))]
            assert entry.layer is not None
            assert entry.member is not None
            assert MemberType.FILE is listed[layers.index(entry.layer)][entry.member].type
            assert selection.wants(f"{selection.root}/{path}" if selection.root else path, is_weight=False)


@given(st.lists(MEMBERS, max_size=6), SELECTIONS)
@settings(max_examples=400)
def test_what_is_shown_is_what_everything_shows_and_was_kept(members: list[Member], selection: Selection) -> None:
    """A selection shows the wanted part of the whole tree, under the same root; each file of it is one that is kept while
    the tar streams, or all are kept for a hard link.
    """
    try:
        found, whole = tree(members, selection=selection), tree(members)
    except UnsupportedArtifact:
        return

    prefix = f"{selection.root}/" if selection.root else ""
    wanted = {
        entry.path.removeprefix(prefix)
        for entry in whole.entries
        if entry.type is not EntryType.DIRECTORY and selection.wants(entry.path, is_weight=False)
    }
    assert wanted == {entry.path for entry in found.entries if entry.type is not EntryType.DIRECTORY}
    layer = tars(members)[0].layers[0]
    kept = [wants_member(layer, member.path, selection) for member in members]
    has_links = any(kept[number] for number, member in enumerate(members) if member.type is MemberType.HARDLINK)
    assert has_links or all(kept[entry.member] for entry in found.entries if entry.member is not None)
