from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from modelcsi.artifact.artifact import MAX_CONFIG_BYTES, Artifact, recognise, wanted_config
from modelcsi.artifact.kinds.kitfile import KITFILE_ANNOTATION
from modelcsi.artifact.layer import RAW, TAR, TAR_GZIP, TAR_ZSTD, Codec
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import build_tree, wants_member
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest, UnreadableConfig, parse_manifest
from tests.unit.artifact.builders import FILEPATH, MODELPACK, directory, file, hardlink, layer, manifest, paths, symlink

KIT = "application/vnd.kitops.modelkit."
CONFIG = f"{KIT}config.v1+json"
MANIFEST = f"{KIT}manifest.v1+json"
DIGEST = Digest.of(b"manifest")
ELSEWHERE = "registry.test/org/base:v1"


def kit_layer(kind: str, content: bytes = b"", /, **annotations: str) -> dict[str, Any]:
    """A layer of a ModelKit, `model.v1.tar` for short `model`."""
    media_type = kind if ".v1." in kind else f"{kind}.v1.tar"
    return layer(f"{KIT}{media_type}", content or kind.encode(), **annotations)


def kit(*layers: dict[str, Any], kitfile: dict[str, Any] | bytes, artifact_type: str | None = None) -> Artifact:
    """A ModelKit, read with its config."""
    content = kitfile if isinstance(kitfile, bytes) else json.dumps(kitfile).encode()
    parsed = kit_manifest(*layers, config=content, artifact_type=artifact_type)
    return recognise(parsed, Digest.of(b"manifest"), content)


def kit_manifest(*layers: dict[str, Any], config: bytes = b"{}", artifact_type: str | None = None) -> Manifest:
    """Its manifest."""
    parsed = manifest(*layers, artifact_type=artifact_type, config=CONFIG)
    return replace(parsed, config=Descriptor(CONFIG, Digest.of(config), len(config)))


OLD = {
    "model": {"name": "m", "path": "./models/llama/", "parts": [{"path": "parts/a.bin"}, {"path": "b.bin"}]},
    "code": [{"path": "src/app"}, {"path": "."}],
    "datasets": [{"path": " data/train.csv "}],
    "docs": [{"path": "docs/README.md"}, {"path": "LICENSE"}],
}


def test_members_of_old_kits_lie_beside_their_entry() -> None:
    """Before KitOps 0.5 they were relative to the parent; entries and layers match by their order in each class."""
    kinds = ["model", "modelpart", "modelpart", "code", "code", "dataset", "docs", "docs"]
    found = kit(*(kit_layer(kind, b"%d" % number) for number, kind in enumerate(kinds)), kitfile=OLD).layers

    assert ["models", "parts", "", "src", "", "data", "docs", ""] == [item.prefix for item in found]


def test_order_of_entries_is_that_of_their_class() -> None:
    """However the classes are mixed in the manifest."""
    kinds = ["docs", "code", "modelpart", "docs", "model", "modelpart"]
    found = kit(*(kit_layer(kind, b"%d" % number) for number, kind in enumerate(kinds)), kitfile=OLD).layers

    assert ["docs", "src", "parts", "", "models", ""] == [item.prefix for item in found]


def test_tree_of_an_old_kit() -> None:
    """Members, hard links and their targets move together; a symbolic link is relative anyway."""
    found = kit(kit_layer("model"), kitfile=OLD)
    members = [directory("llama"), file("llama/w.bin"), hardlink("llama/h", "llama/w.bin"), symlink("llama/s", "w.bin")]
    tree = build_tree(found, {found.layers[0].digest: members}, Selection())

    assert ["models/", "models/llama/", "models/llama/h", "models/llama/s", "models/llama/w.bin"] == paths(tree)


def test_selection_sees_the_place_in_the_artifact() -> None:
    """Not the name in the tar."""
    (found,) = kit(kit_layer("model"), kitfile=OLD).layers

    assert "models/llama/x" == found.place("llama/x")
    assert not wants_member(found, "llama/w.safetensors", Selection(exclude_weights=True))


def test_place_that_is_too_deep() -> None:
    """The limits are those of the whole path."""
    deep = {"model": {"path": "/".join("p" * 40) + "/model"}}
    (found,) = kit(kit_layer("model"), kitfile=deep).layers
    with pytest.raises(UnsupportedArtifact, match="directories deep"):
        found.place("/".join("m" * 40))


@pytest.mark.parametrize("path", ["../m/x", "/models/x", "a/../../b/x"])
def test_unsafe_path_in_an_old_kitfile(path: str) -> None:
    """The Kitfile is as untrusted as a tar."""
    with pytest.raises(UnsupportedArtifact, match="unsafe path"):
        kit(kit_layer("model"), kitfile={"model": {"path": path}})


def with_digests(*layers: dict[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """A Kitfile since 0.5 with these code entries."""
    entries = [{"path": path, "digest": item["digest"]} for path, item in zip(paths, layers, strict=True)]
    return {"manifestVersion": "1.0.0", "code": entries}


def test_members_of_kits_since_0_5_are_full_paths() -> None:
    """Nothing is annotated, and nothing moves."""
    code = kit_layer("code")
    (found,) = kit(code, kitfile=with_digests(code, paths=("src/deep/app.py",))).layers

    assert ("", None) == (found.prefix, found.sole_member_path)


def test_annotation_of_kits_since_1_10() -> None:
    """It may move a tar's only file, as in ModelPack; no prefix is added to it."""
    weights = kit_layer("model", filepath="d/model.safetensors")
    (found,) = kit(weights, kitfile={"model": {"path": "d/model.safetensors"}}, artifact_type=MANIFEST).layers

    assert ("", "d/model.safetensors", True) == (found.prefix, found.sole_member_path, found.is_weight)


@pytest.mark.parametrize(
    "kitfile", [b"", b"{}", b"not JSON", b"[]", b'{"model": 1, "code": {"a": 1}, "docs": [1, null]}']
)
def test_kitfile_that_tells_nothing(kitfile: bytes) -> None:
    """It is information: members stay where they are."""
    (found,) = kit(kit_layer("model"), kitfile=kitfile).layers

    assert ("", TAR) == (found.prefix, found.codec)


def test_annotated_kitfile_that_is_not_utf8() -> None:
    """JSON carries half of a surrogate pair into an annotation; what no bytes can be is no Kitfile."""
    document = {"schemaVersion": 2, "artifactType": MODELPACK, "layers": [layer(filepath="f")]}
    parsed = parse_manifest(json.dumps(document | {"annotations": {KITFILE_ANNOTATION: "\ud800"}}).encode())
    assert isinstance(parsed, Manifest)

    assert ["f"] == [found.path for found in recognise(parsed, Digest.of(b"")).layers]


def test_kit_without_its_config() -> None:
    """Some tools write an empty config beside the artifactType."""
    parsed = manifest(kit_layer("docs"), artifact_type=MANIFEST)

    assert (None, "modelkit") == (wanted_config(parsed), recognise(parsed, Digest.of(b"manifest")).kind)


def test_config_is_asked_for() -> None:
    """Only where a Kitfile is, and not where the descriptor holds it."""
    parsed = kit_manifest(kit_layer("docs"))
    assert parsed.config is not None
    inline = replace(parsed, config=replace(parsed.config, data=b"{}"))

    assert (parsed.config, None) == (wanted_config(parsed), wanted_config(inline))
    assert wanted_config(manifest(layer(filepath="x"))) is None


def test_config_in_the_descriptor_is_used() -> None:
    """It was checked when it was parsed."""
    content = json.dumps(OLD).encode()
    parsed = kit_manifest(kit_layer("model"), config=content)
    assert parsed.config is not None
    inline = replace(parsed, config=replace(parsed.config, data=content))

    assert "models" == recognise(inline, Digest.of(b"manifest")).layers[0].prefix


@pytest.mark.parametrize(("size", "is_refused"), [(MAX_CONFIG_BYTES, False), (MAX_CONFIG_BYTES + 1, True)])
def test_large_config(size: int, is_refused: bool) -> None:
    """It is kept in memory."""
    parsed = replace(kit_manifest(kit_layer("docs")), config=Descriptor(CONFIG, Digest.of(b"x"), size))
    if not is_refused:
        assert parsed.config == wanted_config(parsed)
        return
    with pytest.raises(UnsupportedArtifact, match="are the limit"):
        wanted_config(parsed)


def test_config_that_cannot_be_checked() -> None:
    """Its digest is of another algorithm: only kits without annotations need it."""
    problem = UnreadableConfig(CONFIG, UnsupportedArtifact("digest algorithm 'blake3' is not supported"))
    told, untold = (
        replace(
            kit_manifest(kit_layer("docs", **found), artifact_type=MANIFEST), config=None, unreadable_config=problem
        )
        for found in ({"filepath": "."}, {})
    )

    assert wanted_config(told) is None
    assert ("modelkit", 1) == (recognise(told, DIGEST).kind, len(recognise(told, DIGEST).warnings))
    with pytest.raises(UnsupportedArtifact, match="blake3"):
        wanted_config(untold)


def test_large_config_that_is_not_needed() -> None:
    """As if there were none."""
    config = Descriptor(CONFIG, Digest.of(b"x"), MAX_CONFIG_BYTES + 1)
    parsed = replace(kit_manifest(kit_layer("docs", filepath="docs")), config=config)

    assert wanted_config(parsed) is None
    assert ("the config could not be read: whether a part of the artifact is elsewhere is not known",) == recognise(
        parsed, DIGEST
    ).warnings


def test_another_config_than_the_manifest_names() -> None:
    """Never read."""
    with pytest.raises(CorruptContent):
        recognise(kit_manifest(kit_layer("docs")), Digest.of(b"manifest"), b'{"a": 1}')


@pytest.mark.parametrize(
    ("media_type", "codec", "path", "is_weight"),
    [
        ("model.v1.tar", TAR, None, True),
        ("modelpart.v1.tar+gzip", TAR_GZIP, None, True),
        ("dataset.v1.tar+zstd", TAR_ZSTD, None, False),
        ("docs.v1.raw", RAW, "d/f", False),
        ("mcpb.v1.raw", RAW, "d/f", False),
    ],
)
def test_codecs(media_type: str, codec: Codec, path: str | None, is_weight: bool) -> None:
    """By the type of each layer."""
    (found,) = kit(kit_layer(media_type, filepath="d/f"), kitfile=b"{}").layers

    assert (codec, path, is_weight) == (found.codec, found.path, found.is_weight)


def test_raw_layer_without_annotation_is_at_its_entry() -> None:
    """The Kitfile names it by its digest."""
    code = kit_layer("code.v1.raw")
    (found,) = kit(code, kitfile=with_digests(code, paths=("./src/app.py",))).layers

    assert "src/app.py" == found.path


@pytest.mark.parametrize(
    "kitfile",
    [
        {"model": {"path": ELSEWHERE}},
        {"model": {"path": "base:v1"}},
        {"model": {"path": f"registry.test/base@{Digest.of(b'base')}", "parts": [{"path": "lora"}]}},
    ],
)
def test_model_in_another_kit_is_refused(kitfile: dict[str, Any]) -> None:
    """Its files are not here: an empty mount would be worse. The reference is named."""
    with pytest.raises(UnsupportedArtifact, match="another ModelKit") as caught:
        kit(kit_layer("modelpart"), kitfile=kitfile)

    assert kitfile["model"]["path"] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("remote", [ELSEWHERE, "s3://bucket/train"])
def test_dataset_that_is_elsewhere_is_refused(remote: str) -> None:
    """The place is named."""
    with pytest.raises(UnsupportedArtifact, match=remote):
        kit(kit_layer("model"), kitfile={"datasets": [{"path": "data", "remotePath": remote}]})


@pytest.mark.parametrize("path", ["model:q4.gguf", "models/llama", "Model:v1", "C:\\models\\x"])
def test_path_with_its_layer_is_no_reference(path: str) -> None:
    """A colon is legal in a file's name."""
    weights = kit_layer("model")
    new = {"model": {"path": path, "digest": weights["digest"]}}

    assert [1, 1] == [len(kit(weights, kitfile=kitfile).layers) for kitfile in (new, {"model": {"path": path}})]


def test_dataset_that_is_packed_may_name_its_origin() -> None:
    """Its layer is here."""
    data = kit_layer("dataset")
    entry = {"path": "data", "remotePath": "s3://bucket/train", "digest": data["digest"]}

    assert 1 == len(kit(data, kitfile={"datasets": [entry]}).layers)


def test_kit_in_modelpack_form_that_is_elsewhere_is_refused() -> None:
    """`kit pack --use-model-pack` keeps the Kitfile in an annotation."""
    parsed = replace(
        manifest(layer(filepath="a"), artifact_type=MODELPACK),
        annotations={"ml.kitops.modelkit.kitfile": json.dumps({"datasets": [{"remotePath": "s3://x/y"}]})},
    )
    with pytest.raises(UnsupportedArtifact, match="s3://x/y"):
        recognise(parsed, Digest.of(b"manifest"))


def test_kit_in_modelpack_form() -> None:
    """Its own entries are its layers."""
    weights = layer("application/vnd.cncf.model.weight.v1.tar", **{FILEPATH: "a"})
    kitfile = json.dumps({"model": {"path": "registry.test/a:v1", "digest": weights["digest"]}})
    parsed = replace(manifest(weights), annotations={"ml.kitops.modelkit.kitfile": kitfile})

    assert 1 == len(recognise(parsed, Digest.of(b"manifest")).layers)
