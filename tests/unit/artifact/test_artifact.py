from __future__ import annotations

import json
from typing import Any

import pytest

from modelcsi.artifact.artifact import recognise
from modelcsi.artifact.layer import RAW, RAW_GZIP, RAW_ZSTD, TAR, TAR_GZIP, TAR_ZSTD, Codec
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest, parse_manifest
from tests.unit.artifact.builders import FILEPATH, IMAGE_LAYER, MODELPACK, artifact, descriptor, layer, manifest
from tests.unit.artifact.builders import RAW as MODEL_RAW

MANIFEST_DIGEST = Digest.of(b"manifest")
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ONE_FILE = json.dumps({"name": "x", "mode": 0o755, "typeflag": 0, "mtime": "1970-01-01T00:00:01Z"})


@pytest.mark.parametrize(
    ("artifact_type", "config", "media_type", "kind"),
    [
        (MODELPACK, None, "application/octet-stream", "modelpack"),
        (None, "application/vnd.cncf.model.config.v1+json", "text/plain; charset=utf-8", "modelpack"),
        (None, None, "application/vnd.cncf.model.weight.v1.raw", "modelpack"),
        ("application/vnd.cnai.model.manifest.v1+json", None, "x/y", "modelpack"),
        (None, "application/vnd.cnai.model.config.v1+json", "x/y", "modelpack"),
        (None, None, "application/vnd.cnai.model.doc.v1.raw", "modelpack"),
        ("application/vnd.cncf.modelpack.manifest.v1+json", None, "x/y", "modelpack"),
        (None, "application/vnd.cncf.modelpack.config.v1+json", "x/y", "modelpack"),
        (None, IMAGE_CONFIG, "application/vnd.cnai.model.weight.v1.tar", "modelpack"),
        ("application/vnd.unknown.artifact.v1", None, "x/y", "generic"),
        (None, "application/vnd.unknown.config.v1+json", "x/y", "generic"),
        (None, None, "x/y", "generic"),
        ("application/vnd.acme.model", IMAGE_CONFIG, "x/y", "generic"),
    ],
)
def test_kind(artifact_type: str | None, config: str | None, media_type: str, kind: str) -> None:
    """Any one of artifactType, config and layers may be what tells the kind; each of them may be missing."""
    parsed = manifest(layer(media_type, filepath="f"), artifact_type=artifact_type, config=config)

    assert kind == recognise(parsed, MANIFEST_DIGEST).kind


@pytest.mark.parametrize(
    ("artifact_type", "config", "media_type", "kind"),
    [
        (None, DOCKER_CONFIG, "application/vnd.ollama.image.model", "ollama"),
        ("application/vnd.kitops.modelkit.manifest.v1+json", None, "x/y", "modelkit"),
        (None, "application/vnd.kitops.modelkit.config.v1+json", "x/y", "modelkit"),
        (None, "application/vnd.docker.ai.model.config.v0.1+json", "x/y", "docker-model"),
        (None, "application/vnd.docker.ai.model.config.v0.2+json", "x/y", "docker-model"),
        (None, IMAGE_CONFIG, "application/vnd.acme", "generic"),
    ],
)
def test_kind_of_other_producers(artifact_type: str | None, config: str | None, media_type: str, kind: str) -> None:
    """What the config or a layer tells goes before the forms that these producers borrow."""
    parsed = manifest(layer(media_type, title="f"), artifact_type=artifact_type, config=config)

    assert kind == recognise(parsed, MANIFEST_DIGEST).kind


@pytest.mark.parametrize(
    ("artifact_type", "config", "media_type", "what"),
    [
        (None, IMAGE_CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json", "a signature"),
        ("application/vnd.dev.sigstore.bundle.v0.3+json", None, "x/y", "a signature"),
        ("application/vnd.dev.sigstore.bundle+json;version=0.2", None, "x/y", "a signature"),
        (None, "application/vnd.dev.cosign.artifact.sig.v1+json", "x/y", "a signature"),
        (None, "application/vnd.cncf.notary.signature", "application/jose+json", "a signature"),
        (None, None, "application/vnd.in-toto+json", "an attestation"),
        (None, IMAGE_CONFIG, "application/vnd.in-toto+json", "an attestation"),
        (None, IMAGE_CONFIG, "application/vnd.dsse.envelope.v1+json", "an attestation"),
        (None, IMAGE_CONFIG, "text/spdx+json", "a bill of materials"),
        ("application/vnd.cyclonedx+json", None, "x/y", "a bill of materials"),
        ("application/sarif+json", None, "x/y", "a report of vulnerabilities"),
        (None, "application/vnd.cncf.helm.config.v1+json", "x/y", "a Helm chart"),
        (None, "application/vnd.wasm.config.v0+json", "application/wasm", "a WebAssembly module"),
        (None, IMAGE_CONFIG, "application/vnd.wasm.content.layer.v1+wasm", "a WebAssembly module"),
        (None, "application/vnd.cncf.flux.config.v1+json", "x/y", "a Flux source"),
        (None, "application/vnd.docker.plugin.v1+json", IMAGE_LAYER, "a Docker plugin"),
        (None, "application/vnd.buildkit.cacheconfig.v0", IMAGE_LAYER, "a build cache"),
    ],
)
def test_other_things_are_refused_by_name(
    artifact_type: str | None, config: str | None, media_type: str, what: str
) -> None:
    """A person reads what it is, and what to do."""
    parsed = manifest(layer(media_type, title="f"), artifact_type=artifact_type, config=config)
    with pytest.raises(UnsupportedArtifact, match=f"the artifact is {what}.*, not a model") as caught:
        recognise(parsed, MANIFEST_DIGEST)

    assert caught.value.hint


def test_a_model_may_bring_its_bill_of_materials() -> None:
    """One layer makes no SBOM of an artifact; one signature among the layers does make it a signature."""
    files = layer(title="m.gguf"), layer("application/spdx+json", b"{}", title="sbom.json")
    parsed = manifest(*files, artifact_type="application/vnd.acme.model")

    assert ["m.gguf", "sbom.json"] == [found.path for found in recognise(parsed, MANIFEST_DIGEST).layers]


@pytest.mark.parametrize(
    ("media_type", "codec", "is_weight"),
    [
        ("application/vnd.cncf.model.weight.v1.raw", RAW, True),
        ("application/vnd.cncf.model.weight.v1.tar", TAR, True),
        ("application/vnd.cnai.model.weight.v1.tar+gzip", TAR_GZIP, True),
        ("application/vnd.cnai.model.weight.config.v1.tar+zstd", TAR_ZSTD, False),
        ("application/vnd.cncf.model.code.v1.raw", RAW, False),
        ("application/vnd.cncf.model.weight.v1.gguf", RAW, True),
        ("application/vnd.cncf.model.weight.v1.safetensors", RAW, True),
        ("application/vnd.cncf.modelpack.model.layer.v1.tar+gzip", TAR_GZIP, False),
        ("application/vnd.cnai.model.unknown.v1.tar", TAR, False),
        ("application/vnd.cncf.model.layer.v1.tar", TAR, False),
        ("application/octet-stream", RAW, False),
        ("text/plain; charset=utf-8", RAW, False),
        ("application/x-tar", RAW, False),
    ],
)
def test_codec_and_weight_by_media_type(media_type: str, codec: Codec, is_weight: bool) -> None:
    """In one manifest each layer is read by its own type, cncf and cnai alike; foreign types are files."""
    found = artifact(layer(media_type, filepath="a/f")).layers[0]

    assert (codec, is_weight, None if codec.is_tar else "a/f") == (found.codec, found.is_weight, found.path)
    assert not found.undecided


def test_raw_layer_takes_mode_and_time_from_the_metadata() -> None:
    """What modctl applies, less what a read-only mount has no use for."""
    found = artifact(layer(filepath="x", metadata=ONE_FILE)).layers[0]

    assert (0o755, 1_000_000_000) == (found.mode, found.mtime_ns)


def test_filepath_goes_before_the_title() -> None:
    """RamaLama's title is the name of the blob."""
    found = artifact(layer("application/octet-stream", filepath="m.gguf", title="sha256-00")).layers[0]

    assert "m.gguf" == found.path


@pytest.mark.parametrize("suffix", ["raw", "gguf"])
def test_nameless_file_of_a_known_type_is_named_by_its_digest(suffix: str) -> None:
    """Nothing is lost that surely belongs to the model."""
    found = artifact(layer(f"application/vnd.cncf.model.weight.v1.{suffix}")).layers[0]

    assert f"sha256-{found.digest.hex}" == found.path
    assert found.has_fallback_name


@pytest.mark.parametrize("artifact_type", [MODELPACK, None])
def test_nameless_layer_of_an_unknown_type_is_left_out_with_a_warning(artifact_type: str | None) -> None:
    """Nobody can say what it would be called."""
    found = artifact(
        layer(filepath="x", title="x"), layer("x/y", b"other"), artifact_type=artifact_type or "application/vnd.acme"
    )

    assert (1, 1) == (len(found.layers), len(found.warnings))
    assert str(Digest.of(b"other")) in found.warnings[0]


@pytest.mark.parametrize("artifact_type", [MODELPACK, "application/vnd.unknown.artifact.v1"])
@pytest.mark.parametrize("layers", [(), (layer("application/vnd.oci.empty.v1+json", b"{}"),), (layer("x/y"),)])
def test_without_layers_there_is_no_content(artifact_type: str, layers: tuple[dict[str, Any], ...]) -> None:
    """No layers, the empty placeholder, or nothing with a name."""
    with pytest.raises(UnsupportedArtifact, match="no content"):
        artifact(*layers, artifact_type=artifact_type)


def test_null_fields_are_absent() -> None:
    """Go writes null for nil maps and slices."""
    parsed = parse_manifest(b'{"layers": null, "annotations": null, "config": null, "artifactType": null}')
    assert isinstance(parsed, Manifest)

    with pytest.raises(UnsupportedArtifact, match="no content"):
        recognise(parsed, MANIFEST_DIGEST)


@pytest.mark.parametrize(
    "media_type", ["application/vnd.cncf.model.weight.v1.tar+encrypted", f"{IMAGE_LAYER}+encrypted"]
)
def test_encrypted_layers_are_refused(media_type: str) -> None:
    """A key is not there."""
    with pytest.raises(UnsupportedArtifact, match="encrypted"):
        artifact(layer(media_type, filepath="x"))


@pytest.mark.parametrize(
    ("media_type", "codec"),
    [
        ("application/vnd.cncf.model.weight.v1.raw+gzip", RAW_GZIP),
        ("application/vnd.cncf.model.weight.v1.raw+zstd", RAW_ZSTD),
        ("application/vnd.docker.ai.dir.tar", TAR),
        ("application/vnd.kitops.modelkit.code.v1.tar", TAR),
        ("application/vnd.kitops.modelkit.code.v1.tar+gzip", TAR_GZIP),
    ],
)
def test_a_type_tells_how_it_is_packed(media_type: str, codec: Codec) -> None:
    """Also a type of a sister format, or one that the format's own tools do not write."""
    found = artifact(layer(filepath="w"), layer(media_type, b"other", filepath="x")).layers[1]

    assert codec == found.codec


def test_a_directory_of_oras_in_a_modelpack() -> None:
    """`oras push` with ModelPack's artifact type packs directories as ever."""
    pushed = layer("application/octet-stream", b"tar", title="d")
    pushed["annotations"]["io.deis.oras.content.unpack"] = "true"
    found = artifact(layer(filepath="w"), pushed).layers[1]

    assert (TAR_GZIP, None) == (found.codec, found.path)


@pytest.mark.parametrize(
    "found",
    [
        layer(filepath="../x"),
        layer("application/vnd.cncf.model.weight.v1.tar", filepath="/x"),
        layer("application/octet-stream", title="a/../../x"),
        layer(IMAGE_LAYER, title="x\0"),
        layer(metadata='{"name":"../x"}'),
    ],
)
def test_unsafe_paths_are_refused_by_the_manifest_alone(found: dict[str, Any]) -> None:
    """No byte is fetched for an artifact that cannot be mounted."""
    with pytest.raises(UnsupportedArtifact, match=rf"unsafe path .* in layer {found['digest']}"):
        artifact(layer(MODEL_RAW, b"fine", filepath="fine"), found)


@pytest.mark.parametrize(
    ("annotations", "sole_member_path", "is_one_file"),
    [
        ({"filepath": "d/x", "metadata": ONE_FILE}, "d/x", True),
        ({"filepath": "d/model.safetensors"}, "d/model.safetensors", True),
        ({"filepath": "text_encoder"}, "text_encoder", False),
        ({"filepath": "d/y", "metadata": ONE_FILE}, "d/y", False),
        ({"filepath": "code", "metadata": '{"name":"code","typeflag":0,"files":1}'}, None, False),
        ({"filepath": "."}, None, False),
        ({"title": "model.safetensors"}, None, False),
        ({}, None, False),
    ],
)
def test_annotation_of_a_tar(annotations: dict[str, str], sole_member_path: str | None, is_one_file: bool) -> None:
    """Only a filepath can move a tar's only member, and not where the metadata counts files."""
    found = artifact(layer("application/vnd.cncf.model.code.v1.tar", **annotations)).layers[0]

    assert (sole_member_path, is_one_file, None) == (found.sole_member_path, found.is_one_file, found.path)


@pytest.mark.parametrize("media_type", [IMAGE_LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip"])
def test_image_layer_in_a_modelpack_is_undecided(media_type: str) -> None:
    """Only its bytes tell whether it is a tar."""
    named, nameless = artifact(layer(media_type, title="a"), layer(media_type, b"2")).layers

    assert (True, "a", None) == (named.undecided, named.path, named.tar_root)
    assert (True, True) == (nameless.undecided, nameless.has_fallback_name)


@pytest.mark.parametrize(("suffix", "codec"), [("tar", TAR), ("tar+gzip", TAR_GZIP)])
def test_artifacts_of_november_2024(suffix: str, codec: Codec) -> None:
    """Then only the layers' descriptors told that it is a model."""
    found = layer(
        IMAGE_LAYER,
        artifact_type=f"application/vnd.cnai.model.layer.v1.{suffix}",
        **{"org.cnai.model.model": "true", "org.cnai.model.filepath": "a/x.bin"},
    )
    result = recognise(manifest(found, artifact_type=None, config=IMAGE_CONFIG), MANIFEST_DIGEST)

    only = result.layers[0]
    assert ("modelpack", codec, "a/x.bin") == (result.kind, only.codec, only.sole_member_path)
    assert only.is_weight
    assert not only.undecided


@pytest.mark.parametrize(
    ("media_type", "annotations", "codec", "path", "undecided"),
    [
        (IMAGE_LAYER, {"title": "allfiles.tar"}, RAW, "allfiles.tar", False),
        (IMAGE_LAYER, {"title": "allfiles.tar.gz"}, RAW, "allfiles.tar.gz", False),
        ("application/octet-stream", {"title": "d/x"}, RAW, "d/x", False),
        (IMAGE_LAYER + "+gzip", {"title": "d"}, TAR_GZIP, "d", True),
        (IMAGE_LAYER + "+gzip", {"title": "d", "io.deis.oras.content.unpack": "true"}, TAR_GZIP, None, False),
        (IMAGE_LAYER, {"title": "d", "io.deis.oras.content.unpack": "true"}, TAR, None, False),
        ("application/vnd.acme", {"title": "d", "io.deis.oras.content.unpack": "true"}, TAR_GZIP, None, False),
        (IMAGE_LAYER, {"title": "d", "io.deis.oras.content.unpack": "false"}, RAW, "d", False),
    ],
)
def test_generic_layers(
    media_type: str, annotations: dict[str, str], codec: Codec, path: str | None, undecided: bool
) -> None:
    """A titled file stays a file; a directory says that it is one, or may be one of oras-py."""
    found = artifact(layer(media_type, **annotations), artifact_type="application/vnd.unknown.artifact.v1").layers[0]

    assert (codec, path, undecided) == (found.codec, found.path, found.undecided)
    assert ("d" if undecided else None) == found.tar_root


def test_one_digest_in_two_forms_is_refused() -> None:
    """The same bytes are kept once: as a file, or as members."""
    with pytest.raises(UnsupportedArtifact, match="in two forms"):
        artifact(layer(filepath="a"), layer("application/vnd.cncf.model.weight.v1.tar", filepath="b"))


def test_one_digest_as_a_file_and_undecided_is_a_file() -> None:
    """An empty `__init__.py` of ORAS' default type beside one that says what it is; the same bytes under two titles."""
    found = artifact(
        layer(IMAGE_LAYER, b"", title="a/__init__.py"), layer(MODEL_RAW, b"", filepath="b/__init__.py")
    ).layers

    assert [(RAW, False), (RAW, False)] == [(one.codec, one.undecided) for one in found]


def test_empty_config_of_oras_py() -> None:
    """Its config has no bytes."""
    parsed = parse_manifest(
        json.dumps(
            {"config": descriptor("application/vnd.unknown.config.v1+json", b""), "layers": [layer(title="x")]}
        ).encode()
    )
    assert isinstance(parsed, Manifest)

    assert "x" == recognise(parsed, MANIFEST_DIGEST).layers[0].path


@pytest.mark.parametrize(("size", "is_refused"), [(1 << 61, False), ((1 << 61) + 1, True)])
def test_impossible_total_is_refused(size: int, is_refused: bool) -> None:
    """Each layer's size is a number that fits; their sum, which is recorded, must fit as well. The same twice is one."""
    one = {**layer(filepath="a"), "size": 1 << 61}
    other = {**layer(MODEL_RAW, b"other", filepath="b"), "size": size}
    layers = (one, {**one, "annotations": {FILEPATH: "c"}}, other)
    if not is_refused:
        assert 3 == len(artifact(*layers).layers)
        return
    with pytest.raises(UnsupportedArtifact, match="impossible size"):
        artifact(*layers)


@pytest.mark.parametrize(
    ("artifact_type", "config", "kind"),
    [(MODELPACK, "", "modelpack"), (None, "application/vnd.docker.ai.model.config.v0.1+json", "docker-model")],
)
def test_a_config_that_nobody_needs_may_have_any_digest(artifact_type: str | None, config: str, kind: str) -> None:
    """Its type still tells the kind."""
    document = {
        "schemaVersion": 2,
        "artifactType": artifact_type,
        "config": {"mediaType": config, "digest": "blake3:ab", "size": 2},
        "layers": [layer("x/y", filepath="x")],
    }
    parsed = parse_manifest(json.dumps(document).encode())
    assert isinstance(parsed, Manifest)

    assert kind == recognise(parsed, MANIFEST_DIGEST).kind


@pytest.mark.parametrize(
    "media_type", ["application/vnd.kitops.modelkit.modelpart.v1.raw", "application/vnd.docker.ai.gguf.v3"]
)
def test_a_weight_is_one_in_any_artifact(media_type: str) -> None:
    """Types tell, not what is around them."""
    assert artifact(layer(media_type, filepath="shard.dat")).layers[0].is_weight
