"""Layers of images over each other, from their tars to the tree that is shown."""

from __future__ import annotations

import itertools
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.entries import EntryType, FileTree
from modelcsi.artifact.image_tree import EVERYTHING, concerns, reading_of, settled
from modelcsi.artifact.layer import TAR, Layer
from modelcsi.artifact.members import Form, Member, MemberType, Reading
from modelcsi.artifact.selection import ROOT, Selection
from modelcsi.artifact.tar import Data, Other, Start, TarParser
from modelcsi.artifact.tree import build_tree, wants_member
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from tests import images
from tests.images import (
    Change,
    Tree,
    applied,
    below,
    directory,
    file,
    hardlink,
    opaque,
    random_layers,
    symlink,
    whiteout,
)

_DEFAULT = Selection()


class Read:
    """What a puller does with an image, without a store: its rounds of reading, and the tree."""

    def __init__(
        self, *layers: Sequence[Change], selection: Selection = _DEFAULT, known: Reading | None = None
    ) -> None:
        self.rounds = 0
        self.contents: dict[tuple[Digest, int], bytes] = {}
        self._tars = [images.tar(layer) for layer in layers]
        self.layers = tuple(
            Layer(Descriptor(images.OCI_LAYER, Digest.of(content), len(content)), TAR, is_image=True)
            for content in self._tars
        )
        self._known = known
        self.selection = settled(self.layers, selection, self._read)
        artifact = Artifact(Digest.of(b"manifest"), "image", self.layers, overlay=True)
        self.tree: FileTree = build_tree(artifact, self._read(self.selection), self.selection)

    def _read(self, selection: Selection) -> Mapping[Digest, Sequence[Member]]:
        wanted = reading_of(self.layers[0], selection)
        if self._known is None or not self._known.covers(wanted):
            self._known = wanted if self._known is None else self._known.joined(wanted)
            self.rounds += 1
        known = self._known
        return {
            layer.digest: self._members(layer, content, selection, known)
            for layer, content in zip(self.layers, self._tars, strict=True)
        }

    def _members(self, layer: Layer, content: bytes, selection: Selection, reading: Reading) -> list[Member]:
        parser = TarParser(layer.where, lambda path: concerns(reading, path))
        members: list[Member] = []
        data = b""
        for event in parser.feed(memoryview(content)):
            if isinstance(event, Start):
                members.append(event.member)
                data = b""
            elif isinstance(event, Other):
                pass
            elif isinstance(event, Data):
                data += event.view
            elif members[-1].type is MemberType.FILE and wants_member(layer, members[-1].path, selection):
                members[-1] = replace(members[-1], sha256=Digest.of(data).hex)
                self.contents[layer.digest, members[-1].number or 0] = data
        parser.finish()
        return members

    @property
    def shown(self) -> Tree:
        """The tree, with the contents of the files."""
        result: Tree = {}
        for entry in self.tree.entries:
            if entry.type is EntryType.FILE:
                assert entry.layer is not None
                assert entry.member is not None
                result[entry.path] = self.contents[entry.layer, entry.member]
            else:
                result[entry.path] = entry.target or None
        return result


def shown(*layers: Sequence[Change], **selection: object) -> Tree:
    """What a volume of an image with these layers shows."""
    return Read(*layers, selection=Selection(**selection)).shown  # type: ignore[arg-type]  # as the test says


def refusal(*layers: Sequence[Change], **selection: object) -> str:
    """Why an image is refused."""
    with pytest.raises(UnsupportedArtifact) as raised:
        shown(*layers, **selection)
    return raised.value.message


@given(st.randoms(use_true_random=False))
def test_layers_are_applied_as_the_specification_says(rng: random.Random) -> None:
    """Whatever images builders make: what is shown is what a table of paths gives, in which one layer after the other is entered."""
    layers = [[directory("models"), file("models/keep", b"k")], *random_layers(rng)]
    expected = applied(layers)
    if not any(what is not None for what in below(expected, "models").values()):
        return

    assert below(expected, "models") == shown(*layers)


BASE = [
    directory("models"),
    file("models/a", b"1"),
    directory("models/d"),
    file("models/d/x", b"x"),
    file("models/d/y"),
]


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        ([file("models/a", b"2")], {"a": b"2", "d": None, "d/x": b"x", "d/y": b"content"}),
        ([whiteout("models/a")], {"d": None, "d/x": b"x", "d/y": b"content"}),
        ([whiteout("models/d")], {"a": b"1"}),
        ([whiteout("models/d"), file("models/d/z", b"z")], {"a": b"1", "d": None, "d/z": b"z"}),
        ([file("models/d/z", b"z"), opaque("models/d")], {"a": b"1", "d": None, "d/z": b"z"}),
        ([opaque("models/d")], {"a": b"1", "d": None}),
        ([opaque("models"), file("models/n", b"n")], {"n": b"n"}),
        ([opaque(""), file("models/n", b"n")], {"n": b"n"}),
        ([whiteout("models"), file("models/n", b"n")], {"n": b"n"}),
        ([file("models/d", b"f")], {"a": b"1", "d": b"f"}),
        (
            [directory("models/a"), file("models/a/b", b"b")],
            {"a": None, "a/b": b"b", "d": None, "d/x": b"x", "d/y": b"content"},
        ),
        ([file("models/a/b", b"b"), whiteout("models/d")], {"a": None, "a/b": b"b"}),
        ([symlink("models/d", "a")], {"a": b"1", "d": "a"}),
        (
            [hardlink("models/h", "models/d/x"), whiteout("models/a")],
            {"d": None, "d/x": b"x", "d/y": b"content", "h": b"x"},
        ),
        (
            [file("models/d/.wh..wh.plnk"), file("models/.wh.none")],
            {"a": b"1", "d": None, "d/x": b"x", "d/y": b"content"},
        ),
    ],
)
def test_one_layer_over_another(upper: list[Change], expected: Tree) -> None:
    """Replaced, hidden, emptied, made another kind of thing: whiteouts are about the layers below, wherever in the tar they are."""
    assert expected == shown(BASE, upper)


def test_a_hard_link_keeps_what_a_later_layer_replaces() -> None:
    """It is the file's second name, not a second way to the first."""
    assert {"a": b"2", "h": b"1"} == shown(
        [file("models/a", b"1")], [hardlink("models/h", "models/a")], [file("models/a", b"2")]
    )


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[file("models/m", b"1"), file("model/n", b"2"), file("o.gguf")]], {"m": b"1"}),
        ([[file("model/n", b"2"), file("o.gguf")]], {"n": b"2"}),
        ([[directory("models"), file("model/n", b"2")]], {"n": b"2"}),
        ([[file("models", b"1"), file("model/n", b"2")]], {"n": b"2"}),
        ([[file("o.gguf", b"3"), file("README", b"r")]], {"o.gguf": b"3", "README": b"r"}),
        ([[file("models/m", b"1"), file("o.gguf", b"3")], [whiteout("models")]], {"o.gguf": b"3"}),
        ([[file("lib/o.safetensors", b"3")]], {"lib": None, "lib/o.safetensors": b"3"}),
        ([[file("Model.GGUF", b"3")]], {"Model.GGUF": b"3"}),
        ([[file("model.joblib", b"3")]], {"model.joblib": b"3"}),
        ([[symlink("models", "srv/v1"), file("srv/v1/m", b"1")]], {"m": b"1"}),
        ([[symlink("models", "/srv/now"), file("srv/v2/m", b"1")], [symlink("srv/now", "v2")]], {"m": b"1"}),
        ([[symlink("models", "nowhere"), file("model/n", b"2")]], {"n": b"2"}),
        ([[symlink("models", "/"), file("model/n", b"2")]], {"n": b"2"}),
        ([[symlink("models", "models"), file("model/n", b"2")]], {"n": b"2"}),
    ],
)
def test_which_directory_is_shown(layers: list[list[Change]], expected: Tree) -> None:
    """/models if it has files, else /model, else the root, if anything in there looks like a model."""
    assert expected == shown(*layers)


@pytest.mark.parametrize(
    ("sub_path", "expected"),
    [
        ("models/v1", {"m": b"1"}),
        ("models/now", {"m": b"2"}),
        ("opt", {"tool": b"3"}),
        ("opt/models", {"m": b"2"}),
        (
            ROOT,
            {
                "models": None,
                "models/v1": None,
                "models/v1/m": b"1",
                "models/v2": None,
                "models/v2/m": b"2",
                "models/now": "v2",
                "opt": None,
                "opt/tool": b"3",
            },
        ),
    ],
)
def test_sub_path_is_from_the_root_of_the_image(sub_path: str, expected: Tree) -> None:
    """It replaces /models, may be a link, and "." is all of the image."""
    layers = [
        [file("models/v1/m", b"1"), file("models/v2/m", b"2"), symlink("models/now", "v2")],
        [file("opt/tool", b"3")],
    ]
    if sub_path == "opt/models":
        layers.append([symlink("opt/models", "/models/now")])

    assert expected == shown(*layers, sub_path=sub_path)


@pytest.mark.parametrize(
    ("sub_path", "message"),
    [
        ("nowhere", "no directory 'nowhere'"),
        ("models/m", "'models/m' is no directory"),
        ("models/e", "'/models/e' of the image is empty"),
    ],
)
def test_a_sub_path_that_shows_nothing(sub_path: str, message: str) -> None:
    """It says why."""
    assert message in refusal([file("models/m"), directory("models/e")], sub_path=sub_path)


@pytest.mark.parametrize(
    "layer",
    [
        [file("bin/sh"), file("etc/passwd"), file("app/main.py")],
        [file("usr/lib/python3/x.pth"), file("opt/venv/lib/site-packages/a.npz"), file("lib/firmware/x.bin")],
        [directory("models")],
        [],
    ],
)
def test_a_plain_image_is_refused(layer: list[Change]) -> None:
    """Programs are no model, nor what operating systems and Python's packages name like weights."""
    assert "a container image without a model" in refusal(layer)


def test_a_plain_image_may_be_shown_on_purpose() -> None:
    """Who says subPath means it."""
    assert {"sh": b"content"} == shown([file("bin/sh")], sub_path="bin")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("m", "m"),
        ("./d/../m", "./d/../m"),
        ("/models/m", "m"),
        ("//models/./d/n", "d/n"),
        ("/models/gone", "gone"),
        ("/models", "."),
        ("../models/m", "m"),
        ("/models/d/../m", "d/../m"),
        ("d/up/m", "d/up/m"),
        ("/models/d/up/m", "d/up/m"),
    ],
)
def test_links_that_lead_inside(link: str, expected: str) -> None:
    """With the image's root as the root, as in a container; what would leave the volume is written another way."""
    layer = [file("models/m"), file("models/d/n"), symlink("models/d/up", ".."), symlink("models/l", link)]

    assert expected == shown(layer)["l"]


def test_links_below_a_directory_lead_up_to_it() -> None:
    """Relative to where they are."""
    assert "../../m" == shown([file("models/m"), symlink("models/a/b/l", "/models/m")])["a/b/l"]


def test_links_of_an_image_that_is_shown_as_a_whole() -> None:
    """Absolute ones become relative."""
    assert {"usr": None, "usr/x": b"content", "bin": "usr", "usr/l": "../usr/x"} == shown(
        [file("usr/x"), symlink("bin", "/usr"), symlink("usr/l", "/usr/x")], sub_path=ROOT
    )


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../etc/passwd",
        "../../models/m",
        "/../models/m",
        "d/../../../etc",
        "/models/../etc/passwd",
        "a\nb",
    ],
)
def test_links_that_leave_what_is_shown(target: str) -> None:
    """Are refused, by name and layer."""
    message = refusal([file("models/m"), symlink("models/l", target), file("etc/passwd")])

    assert "unsafe link 'l' -> " in message
    assert "in layer sha256:" in message


def test_a_chain_of_links_that_leaves() -> None:
    """Each of them stays inside as text."""
    layer = [file("models/m"), symlink("models/p/q/up", "../.."), symlink("models/l", "p/q/up/../x")]

    assert "unsafe link 'l'" in refusal(layer)


def test_a_link_that_is_left_out_harms_nobody() -> None:
    """Neither does a device."""
    layer = [file("models/m", b"1"), symlink("models/l", "/etc/passwd"), Change("models/null", tarfile.CHRTYPE)]

    assert {"m": b"1"} == shown(layer, exclude=("l", "null"))


@pytest.mark.parametrize("type", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(type: bytes) -> None:
    """Outside of what is shown, or hidden in the end, they are ignored; else refused."""
    device = Change("models/dev", type)

    assert {"m": b"1"} == shown([Change("dev/null", type), file("models/m", b"1")])
    assert {"m": b"1"} == shown([device, file("models/m", b"1")], [whiteout("models/dev")])
    assert "'models/dev' in layer sha256:" in refusal([device, file("models/m", b"1")])


@pytest.mark.parametrize(
    "outside",
    [
        symlink("etc/mtab", "/proc/mounts"),
        symlink("etc/up", "../../../../x"),
        hardlink("etc/hard", "etc/none"),
        Change("dev/sparse", b"S"),
        file("/absolute/name"),
        file("etc/a\nb"),
        file("e/" * 70 + "deep"),
        file("etc/" + "n" * 300),
        file("etc/x"),
    ],
)
def test_what_is_outside_is_of_no_concern(outside: Change) -> None:
    """Base layers have all of it."""
    assert {"m": b"1"} == shown([outside, file("models/m", b"1")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (file("/models/x"), "it is absolute"),
        (file("models/a\nb"), "control characters"),
        (file("models/" + "e/" * 70 + "deep"), "directories deep"),
        (file("models/" + "n" * 300), "over 255 bytes"),
        (file("etc/../../x"), "it leaves the artifact"),
        (file("../models/x"), "it leaves the artifact"),
        (hardlink("models/x", "etc/passwd"), "which is no file before it"),
        (hardlink("models/x", "models/d"), "which is no file before it"),
        (Change("models/x", b"S"), "a sparse file"),
        (file("models/.wh."), "the whiteout of no name"),
        (file("models/.wh..."), "the whiteout of no name"),
        (file("models/m/below"), "which is no directory"),
        (file("models/d"), "both a directory and none"),
        (symlink("models/d", "m"), "both a directory and none"),
    ],
)
def test_what_is_shown_obeys_the_rules_of_all_artifacts(change: Change, message: str) -> None:
    """Names, links and contradictions within one layer."""
    assert message in refusal([file("models/m"), directory("models/d"), change])


def test_a_hard_link_to_a_symbolic_link() -> None:
    """Is another one of the same target, wherever it is."""
    layer = [file("models/m"), symlink("models/l", "m"), directory("models/d"), hardlink("models/d/h", "models/l")]

    assert "m" == shown(layer)["d/h"]


def test_a_hard_link_to_what_is_not_shown() -> None:
    """Refused, also where the file is known, since a volume that shows more has the same layers."""
    layers = [[file("models/b/x"), file("models/a/m")], [hardlink("models/a/h", "models/b/x")]]

    assert "which is no file before it" in refusal(*layers, sub_path="models/a")
    with pytest.raises(UnsupportedArtifact, match="outside of what is shown"):
        Read(*layers, selection=Selection(sub_path="models/a"), known=EVERYTHING)


_NAMES = st.lists(
    st.sampled_from(["models", "model", "a", "b.gguf", "..", ".", "", ".wh.a", ".wh..wh..opq", "é", "\n"]),
    min_size=1,
    max_size=5,
)
_CHANGES = st.builds(
    Change,
    path=_NAMES.map("/".join),
    type=st.sampled_from(
        [*(tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE) * 3, tarfile.CHRTYPE, b"S", b"V"]
    ),
    target=_NAMES.map("/".join),
)


@given(st.lists(st.lists(_CHANGES, max_size=6), min_size=1, max_size=3), st.sampled_from(["", ROOT, "a", "models/a"]))
def test_any_layers_are_shown_or_refused(layers: list[list[Change]], sub_path: str) -> None:
    """Whatever names, types and targets: refused, or everything is inside."""
    try:
        tree = shown([file("models/m")], *layers, sub_path=sub_path)
    except UnsupportedArtifact:
        return

    for path, what in tree.items():
        assert not {"", ".", ".."}.intersection(path.split("/"))
        if isinstance(what, str):
            assert not what.startswith("/")
            assert not escapes(path, tree)


def escapes(path: str, tree: Tree) -> bool:
    """Whether opening a path leaves the tree, as a kernel walks it."""
    here: list[str] = []
    ahead = path.split("/")
    for _ in range(2000):
        if not ahead:
            return False
        name = ahead.pop(0)
        if name in {"", "."}:
            continue
        if name == "..":
            if not here:
                return True
            here.pop()
            continue
        what = tree.get("/".join([*here, name]))
        if isinstance(what, str):
            ahead = [*what.split("/"), *ahead]
        else:
            here.append(name)
    return False


@given(st.data())
def test_layers_may_be_cut_anywhere(data: st.DataObject) -> None:
    """What is passed over, of whatever kind and however long, does not depend on how the bytes arrive."""
    others = [
        file("usr/large", b"l" * 3000),
        Change("usr/sparse", b"S"),
        symlink("usr/l", "/"),
        file("usr/" + "n" * 200),
    ]
    content = images.tar([others[0], file("models/a", b"1" * 700), *others[1:], file("models/b")])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=20)))
    reading = reading_of(Layer(Descriptor("", Digest.of(b""), 0), TAR, is_image=True), _DEFAULT)
    whole, in_parts = TarParser("", partial(concerns, reading)), TarParser("", partial(concerns, reading))
    expected = [event.member for event in whole.feed(memoryview(content)) if isinstance(event, Start)]
    views: list[bytes] = []
    members = []
    for start, end in itertools.pairwise([0, *cuts, len(content)]):
        for event in in_parts.feed(memoryview(content)[start:end]):
            if isinstance(event, Start):
                members.append(event.member)
            elif isinstance(event, Data | Other):
                views.append(bytes(event.view))
    in_parts.finish()

    assert [(1, "models/a"), (5, "models/b")] == [(member.number, member.path) for member in members]
    assert (expected, content) == (members, b"".join(views))


def test_a_sparse_member_that_is_of_no_concern() -> None:
    """Its header goes on in blocks that look like anything."""
    header = bytearray(images.tar([Change("usr/sparse", b"S", b"d" * 512)])[:512])
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = bytes(504) + b"\1" + bytes(7)
    content = bytes(header) + more + bytes(512) + b"d" * 512 + images.tar([file("models/m")])
    reading = reading_of(Layer(Descriptor("", Digest.of(b""), 0), TAR, is_image=True), _DEFAULT)
    parser = TarParser("", partial(concerns, reading))
    members = [event.member.path for event in parser.feed(memoryview(content)) if isinstance(event, Start)]
    parser.finish()

    assert ["models/m"] == members


def test_filters_are_on_the_paths_that_are_shown() -> None:
    """Not on those of the image; unwanted files are not kept."""
    layers = [[file("models/a/w.safetensors"), file("models/a/config.json", b"{}")], [file("models/b.txt", b"b")]]
    read = Read(*layers, selection=Selection(include=("/a",), exclude_weights=True))

    assert {"a": None, "a/config.json": b"{}"} == read.shown
    assert [b"{}"] == list(read.contents.values())


def test_a_hard_link_to_a_file_that_is_left_out() -> None:
    """Goes with it."""
    layers = [[file("models/a.bin"), file("models/m", b"1")], [hardlink("models/link", "models/a.bin")]]
    read = Read(*layers, selection=Selection(exclude=("*.bin",)))

    assert {"m": b"1"} == read.shown
    assert ["'link' is left out with 'a.bin', of which it is another name"] == list(read.tree.warnings)


@pytest.mark.parametrize(
    ("layers", "sub_path", "rounds"),
    [
        ([[file("models/m")]], "", 1),
        ([[file("model/m")]], "", 1),
        ([[file("opt/m")]], "opt", 1),
        ([[file("m.gguf")]], "", 2),
        ([[file("m.gguf")]], ROOT, 1),
        ([[symlink("models", "srv"), file("srv/m")]], "", 2),
        ([[symlink("models/now", "v1"), file("models/v1/m")]], "models/now", 2),
    ],
)
def test_layers_are_read_once(layers: list[list[Change]], sub_path: str, rounds: int) -> None:
    """But for an image that shows its root without being told to, and one whose directory is behind a link."""
    assert rounds == Read(*layers, selection=Selection(sub_path=sub_path)).rounds


def test_links_without_end() -> None:
    """From directory to directory: given up."""
    layer = [symlink("models", "d0/x"), *(symlink(f"d{number}", f"/d{number + 1}") for number in range(9))]

    assert "lead to no directory" in refusal([*layer, file("d9/y/m")])


def test_a_base_layer_of_more_members_than_the_limit() -> None:
    """Of those that are not shown nothing is recorded."""
    base = tarfile_of_many(120_000)
    layer = Layer(Descriptor(images.OCI_LAYER, Digest.of(base), len(base)), TAR, is_image=True)
    reading = reading_of(layer, _DEFAULT)
    parser = TarParser(layer.where, lambda path: concerns(reading, path))
    members = [event.member.path for event in parser.feed(memoryview(base)) if isinstance(event, Start)]
    parser.finish()

    assert ["models", "models/m"] == members


def tarfile_of_many(count: int) -> bytes:
    """A tar of a directory of models behind many other things."""
    block = images.tar([file("usr/share/doc/x", b"")])[:512]
    return block * count + images.tar([directory("models"), file("models/m", b"1")])


@pytest.mark.parametrize(
    ("one", "other", "covers", "joined"),
    [
        (("models",), ("models/a",), True, ("models",)),
        (("models/a",), ("models",), False, ("models",)),
        (("",), ("models", "model"), True, ("",)),
        (("model", "models"), ("models2",), False, ("model", "models", "models2")),
        (("a", "b"), ("b", "a"), True, ("a", "b")),
    ],
)
def test_readings(one: tuple[str, ...], other: tuple[str, ...], covers: bool, joined: tuple[str, ...]) -> None:
    """What was read around a directory is known of all below it."""
    first, second = Reading(Form.IMAGE, one), Reading(Form.IMAGE, other)

    assert (covers, joined) == (first.covers(second), first.joined(second).directories)
    assert (True, True) == (first.joined(second).covers(first), first.joined(second).covers(second))
    assert (True, False) == (Reading().covers(first), first.covers(Reading()))
    assert first == Reading.from_json(first.to_json())


@pytest.mark.parametrize(
    "odd",
    [directory("/"), hardlink("models/link", "/models/m"), file("models/.wh..wh.plnk/1.2")],
    ids=["root", "absolute hard link", "AUFS"],
)
def test_what_other_builders_write(odd: Change) -> None:
    """kaniko has an entry for the root, and links to where a file was in the build; AUFS left directories of its own."""
    seen = shown([file("models/m", b"m"), odd])

    assert {"m": b"m"} == {path: content for path, content in seen.items() if path != "link"}
    assert seen.get("link", b"m") == b"m"
