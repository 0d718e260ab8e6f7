from __future__ import annotations

import pytest

from modelcsi.artifact.artifact import Artifact, recognise
from modelcsi.artifact.layer import RAW, TAR, TAR_GZIP, Codec
from modelcsi.oci.digest import Digest
from tests.unit.artifact.builders import IMAGE_LAYER, layer, manifest

DOCKER = "application/vnd.docker.ai."


def model(*layers: dict[str, object], version: str = "v0.1") -> Artifact:
    """A model of Docker Model Runner with these layers."""
    config = f"{DOCKER}model.config.{version}+json"
    return recognise(manifest(*layers, artifact_type=None, config=config), Digest.of(b"manifest"))


@pytest.mark.parametrize(
    ("media_type", "path", "is_weight"),
    [
        ("gguf.v3", "model.gguf", True),
        ("gguf.v3.lora", "adapter.gguf", True),
        ("gguf.v3.mmproj", "model.mmproj", True),
        ("mmproj", "model.mmproj", True),
        ("safetensors", "model.safetensors", True),
        ("dduf", "model.dduf", True),
        ("license", "LICENSE", False),
        ("chat.template.jinja", "template.jinja", False),
    ],
)
def test_known_names_of_the_first_version(media_type: str, path: str, is_weight: bool) -> None:
    """It named nothing; the names are those of the runner's own bundle."""
    (found,) = model(layer(f"{DOCKER}{media_type}")).layers

    assert (path, is_weight, RAW) == (found.path, found.is_weight, found.codec)


@pytest.mark.parametrize(("media_type", "suffix"), [("gguf.v3", "gguf"), ("safetensors", "safetensors")])
def test_shards_are_counted(media_type: str, suffix: str) -> None:
    """As Hugging Face counts them, in the manifest's order; what lies between them does not count."""
    shards = [layer(f"{DOCKER}{media_type}", b"%d" % number) for number in range(3)]
    found = model(shards[0], layer(f"{DOCKER}license"), *shards[1:]).layers

    assert [
        f"model-00001-of-00003.{suffix}",
        "LICENSE",
        f"model-00002-of-00003.{suffix}",
        f"model-00003-of-00003.{suffix}",
    ] == [item.path for item in found]


def test_two_licences_and_two_projectors() -> None:
    """None hides another."""
    kinds = ["license", "mmproj", "license", "gguf.v3.mmproj"]
    found = model(*(layer(f"{DOCKER}{kind}", b"%d" % number) for number, kind in enumerate(kinds))).layers

    assert ["LICENSE", "model.mmproj", "LICENSE.2", "model-2.mmproj"] == [item.path for item in found]


def test_second_version_is_annotated() -> None:
    """The annotations of ModelPack tell path and mode."""
    metadata = '{"name":"config.json","mode":493,"mtime":"1970-01-01T00:00:01Z","typeflag":0}'
    file = layer(f"{DOCKER}model.file", filepath="d/config.json", metadata=metadata)
    (found,) = model(file, version="v0.2").layers

    assert ("d/config.json", 0o755, 10**9) == (found.path, found.mode, found.mtime_ns)


@pytest.mark.parametrize(
    ("media_type", "codec"),
    [
        (f"{DOCKER}vllm.config.tar", TAR),
        (f"{DOCKER}dir.tar", TAR),
        (f"{DOCKER}dir.tar+gzip", TAR_GZIP),
    ],
)
def test_directories_are_tars_at_the_root(media_type: str, codec: Codec) -> None:
    """Their members say where they belong."""
    (found,) = model(layer(media_type)).layers

    assert (codec, None, "", False) == (found.codec, found.path, found.prefix, found.undecided)


def test_nameless_file_is_named_by_its_digest() -> None:
    """Its type tells only that it is a file of the model."""
    (found,) = model(layer(f"{DOCKER}model.file")).layers

    assert found.has_fallback_name


def test_other_layers_need_a_name() -> None:
    """A later version may have types that nobody here knows."""
    found = model(
        layer(f"{DOCKER}gguf.v3"), layer(f"{DOCKER}hologram", b"1"), layer("text/plain", b"2", title="README")
    )

    assert ["model.gguf", "README"] == [item.path for item in found.layers]
    assert 1 == len(found.warnings)


def test_image_layer_is_a_tar_if_its_bytes_are_one() -> None:
    """As in ModelPack."""
    (found,) = model(layer(IMAGE_LAYER, title="x")).layers

    assert (True, "x") == (found.undecided, found.path)
