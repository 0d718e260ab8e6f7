from __future__ import annotations

from typing import Any

import pytest

from modelcsi.artifact.kinds.names import KNOWN_NAMES, known_names
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.manifest import MAX_LAYERS
from tests.unit.artifact.builders import artifact, layer, manifest

OLLAMA = "application/vnd.ollama.image."
DOCKER = "application/vnd.docker.ai."


def ollama(kind: str, content: bytes = b"", /, **fields: Any) -> dict[str, Any]:
    """A layer of Ollama; `name` is a field of its descriptor."""
    return layer(f"{OLLAMA}{kind}", content or kind.encode()) | fields


def paths(*layers: dict[str, Any]) -> list[str | None]:
    """The paths of the artifact's layers."""
    return [found.path for found in artifact(*layers, artifact_type=None).layers]


def test_ollama_names_each_kind() -> None:
    """These names are a promise: pods name them in their commands."""
    kinds = ["model", "projector", "adapter", "template", "system", "params", "messages", "license", "prompt", "embed"]

    assert [
        "model.gguf",
        "projector.gguf",
        "adapter.gguf",
        "template",
        "system",
        "params.json",
        "messages.json",
        "LICENSE",
        "prompt",
        "embed",
    ] == paths(*map(ollama, kinds))


def test_several_of_one_kind_are_numbered() -> None:
    """In the manifest's order, and none hides another."""
    kinds = ["license", "model", "license", "projector", "license", "projector", "params", "params", "system", "system"]

    assert [
        *("LICENSE", "model.gguf", "LICENSE.2", "projector.gguf", "LICENSE.3", "projector-2.gguf"),
        *("params.json", "params-2.json", "system", "system-2"),
    ] == paths(*(ollama(kind, b"%d" % number) for number, kind in enumerate(kinds)))


def test_the_same_licence_twice() -> None:
    """One digest at two paths: the second is not left out."""
    assert ["LICENSE", "LICENSE.2"] == paths(ollama("license"), ollama("license"))


def test_a_field_names_the_layer() -> None:
    """Ollama's own safetensors have a layer for each tensor, and files in directories."""
    layers = (
        ollama("tensor", name="model.embed_tokens.weight"),
        ollama("json", name="tokenizer/config.json"),
        ollama("draft", name="draft.safetensors", **{"from": "/home/x/draft"}),
    )

    assert ["model.embed_tokens.weight", "tokenizer/config.json", "draft.safetensors"] == paths(*layers)


def test_a_name_that_is_taken_is_passed_over() -> None:
    """Names of the layers' own come first, wherever they stand."""
    layers = (
        ollama("license"),
        ollama("params"),
        ollama("json", name="./params.json"),
        ollama("model", name="LICENSE"),
    )

    assert ["LICENSE.2", "params-2.json", "params.json", "LICENSE"] == paths(*layers)


def test_annotations_go_before_the_known_name() -> None:
    """Docker Model Runner v0.2 and repackaged models say where their files belong."""
    found = layer(f"{DOCKER}gguf.v3", title="m.gguf"), layer(f"{DOCKER}gguf.v3", b"2", filepath="d/n.gguf")

    assert ["", ""] == known_names(manifest(*found).layers)


@pytest.mark.parametrize("kind", ["tensor", "json"])
def test_known_type_without_any_name(kind: str) -> None:
    """It surely belongs to the model: it is named by its digest."""
    assert [f"sha256-{ollama(kind)['digest'][7:]}"] == paths(ollama(kind))


def test_unknown_type_without_any_name() -> None:
    """It is left out, with a warning."""
    found = artifact(ollama("model"), ollama("hologram"), artifact_type=None)

    assert (["model.gguf"], 1) == ([item.path for item in found.layers], len(found.warnings))
    assert "hologram" in found.warnings[0]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\0b"])
def test_unsafe_name_of_a_field(name: str) -> None:
    """The field is as untrusted as an annotation."""
    with pytest.raises(UnsupportedArtifact, match="unsafe path"):
        artifact(ollama("tensor", name=name), artifact_type=None)


def test_a_field_that_is_no_text_is_read_over() -> None:
    """It is no field of the specification; anything may be in it."""
    assert ["model.gguf"] == paths(ollama("model", name=["x"]))


def test_names_of_ten_thousand_layers() -> None:
    """All differ, and the last takes no longer than the first."""
    layers = manifest(*[ollama("license", b"%d" % number) for number in range(MAX_LAYERS)]).layers
    names = known_names(layers)

    assert (MAX_LAYERS, f"LICENSE.{MAX_LAYERS}") == (len(set(names)), names[-1])


@pytest.mark.parametrize("name", sorted(set(KNOWN_NAMES.values())))
def test_known_names_are_base_names(name: str) -> None:
    """They stand in the root."""
    assert "/" not in name
    assert name


@pytest.mark.parametrize("kind", ["model", "projector", "adapter", "draft", "tensor"])
def test_weights_of_ollama(kind: str) -> None:
    """What excludeModelWeights leaves out, by any name."""
    found = artifact(ollama(kind, name="x"), ollama("license"), artifact_type=None).layers

    assert [True, False] == [item.is_weight for item in found]
