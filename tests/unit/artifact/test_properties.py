"""What holds of names, paths, links and selections whatever their makers write; a real file system is the judge where one can be."""

from __future__ import annotations

import json
import os
import posixpath
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.artifact.artifact import recognise
from modelcsi.artifact.links import check_links
from modelcsi.artifact.paths import MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES, check_link_target, normalise_path
from modelcsi.artifact.selection import Selection, explain_nothing
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest, parse_manifest
from tests.unit.artifact.builders import WHERE, descriptor

_DOCUMENTED = st.text(alphabet="ab./", min_size=1, max_size=12)
_ANY = st.text(max_size=300)


@given(st.one_of(_ANY, _DOCUMENTED, st.lists(_ANY, max_size=80).map("/".join)))
@settings(max_examples=400)
def test_any_path_means_what_the_file_system_means_by_it(text: str) -> None:
    """Refused, or within every limit, printable, and the place below the root at which the text itself would arrive."""
    try:
        path = normalise_path(text, WHERE)
    except UnsupportedArtifact:
        return

    assert posixpath.normpath(posixpath.join("/root", text)) == f"/root/{path}"
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert all(0 < len(part.encode()) <= MAX_COMPONENT_BYTES for part in path.split("/"))
    assert len(path.split("/")) <= MAX_DEPTH
    assert not any(ord(character) < 0x20 or ord(character) == 0x7F for character in path)


_PLACES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
_TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "..", "."]), min_size=1, max_size=6).map("/".join)


@given(st.dictionaries(_PLACES, _TARGETS, min_size=1, max_size=6), st.sets(_PLACES, max_size=4))
@settings(max_examples=300, deadline=None)
def test_links_that_are_kept_stay_inside_for_the_kernel(links: dict[str, str], directories: set[str]) -> None:
    """Whatever opens a link of an accepted tree arrives below its root, or nowhere."""
    try:
        for path, target in links.items():
            check_link_target(path, target, WHERE)
        check_links(links, dict.fromkeys(links, WHERE))
    except UnsupportedArtifact:
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch).resolve() / "outer" / "root"
        root.mkdir(parents=True)
        made = _make(root, links, directories)

        assert [] == [path for path in made if not _arrives_below(root, path)]


def _make(root: Path, links: dict[str, str], directories: set[str]) -> list[Path]:
    """The links on a real file system, as far as it has room for all of them: a link is in no link's place, nor below one."""
    for path in sorted(directories | {posixpath.dirname(path) for path in links} - {""}):
        if not any(path == link or path.startswith(f"{link}/") for link in links):
            (root / path).mkdir(parents=True, exist_ok=True)
    made = []
    for path, target in links.items():
        if not any(path.startswith(f"{link}/") for link in links) and not (root / path).is_dir():
            (root / path).symlink_to(target)
            made.append(root / path)
    return made


def _arrives_below(root: Path, link: Path) -> bool:
    try:
        fd = os.open(link, os.O_PATH)
    except OSError:  # it leads nowhere, or in circles
        return True
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}")).is_relative_to(root)
    finally:
        os.close(fd)


_OLLAMA = "application/vnd.ollama.image"
_KNOWN = [f"{_OLLAMA}.{kind}" for kind in ("model", "license", "template", "params", "system", "projector", "tensor")]
_DOCKER = [f"application/vnd.docker.ai.{kind}" for kind in ("gguf.v3", "safetensors", "license", "chat.template.jinja")]
_TOLD = st.sampled_from(
    [None, None, None, "LICENSE", "LICENSE.2", "template", "template/x", "./params.json", "model.gguf", "a/b"]
)


@st.composite
def _layers(draw: st.DrawFn) -> list[dict[str, Any]]:
    types = st.sampled_from(draw(st.sampled_from([_KNOWN, _DOCKER])))
    layers = []
    for number in range(draw(st.integers(1, 8))):
        layer = descriptor(draw(types), b"%d" % number)
        if told := draw(_TOLD):
            layer["annotations"] = {"org.cncf.model.filepath": told}
        layers.append(layer)
    return layers


@given(_layers(), st.randoms())
@settings(max_examples=300)
def test_names_that_types_give_never_collide(layers: list[dict[str, Any]], chance: Any) -> None:
    """Neither with each other nor with those that annotations give, nor with their directories; and the same in every run."""
    told = [layer.get("annotations", {}).get("org.cncf.model.filepath") for layer in layers]
    given_paths = [normalise_path(path, WHERE) if path else None for path in told]
    first, second = _paths(layers), _paths([dict(chance.sample(sorted(layer.items()), len(layer))) for layer in layers])
    named = [path for path, given_path in zip(first, given_paths, strict=True) if given_path is None]

    assert first == second
    assert len(named) == len(set(named) - set(given_paths))
    assert not any(path.startswith(f"{name}/") for name in named for path in filter(None, given_paths))


def _paths(layers: list[dict[str, Any]]) -> list[str]:
    is_ollama = layers[0]["mediaType"].startswith(_OLLAMA)
    config = descriptor(
        "application/vnd.docker.container.image.v1+json"
        if is_ollama
        else "application/vnd.docker.ai.model.config.v0.1+json"
    )
    parsed = parse_manifest(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode())
    assert isinstance(parsed, Manifest)
    return [layer.path or "" for layer in recognise(parsed, Digest.of(b"")).layers]


_PATTERNS = st.lists(st.text(alphabet="ab*?/!.[]\\", min_size=1, max_size=6), max_size=3).map(tuple)
_SELECTIONS = st.builds(
    Selection,
    exclude_weights=st.booleans(),
    exclude_patterns=_PATTERNS,
    include=_PATTERNS,
    exclude=_PATTERNS,
    sub_path=st.sampled_from(["", ".", "a", "a/b"]),
)
_FILES = st.lists(st.sampled_from(["a", "b", "ab", "a.bin", "b.safetensors"]), min_size=1, max_size=4).map("/".join)


@given(_SELECTIONS)
def test_a_selection_is_what_its_key_says(selection: Selection) -> None:
    """Views of a store are named by it, and a start reads it again."""
    assert selection == Selection.from_key(selection.key())
    assert str(selection)


@given(_SELECTIONS, _FILES, st.booleans())
@settings(max_examples=600)
def test_a_directory_that_is_left_out_has_no_wanted_file(selection: Selection, path: str, is_weight: bool) -> None:
    """A tar of which that is said is not fetched."""
    parents = [path[:end] for end, character in enumerate(path) if character == "/"]

    assert not selection.wants(path, is_weight=is_weight) or all(map(selection.may_want_below, parents))
    assert not selection.is_everything or selection.wants(path, is_weight=is_weight)


@given(_SELECTIONS, _FILES, _PATTERNS)
def test_what_is_excluded_is_less(selection: Selection, path: str, more: tuple[str, ...]) -> None:
    """Patterns that take nothing back, added to `exclude`, never make a file wanted."""
    plain = tuple(pattern for pattern in more if not pattern.startswith("!"))
    wider = Selection(
        selection.exclude_weights,
        selection.exclude_patterns,
        selection.include,
        selection.exclude + plain,
        selection.sub_path,
    )

    assert selection.wants(path, is_weight=False) >= wider.wants(path, is_weight=False)


@given(_SELECTIONS, st.lists(_FILES, max_size=5))
def test_nothing_is_explained_whatever_was_chosen(selection: Selection, files: list[str]) -> None:
    """A sentence of bounded length."""
    message, hint = explain_nothing(selection, files)

    assert 0 < len(message) < 4000
    assert len(hint) < 4000
