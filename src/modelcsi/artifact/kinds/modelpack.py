"""ModelPack (modelpack/model-spec): current cncf names, legacy cnai ones, and manifests that mix them.

Read here: what modctl, KitOps, AIKit, RamaLama, olot, Docker Model Runner and `oras push --artifact-type` write under these
names. The config is never needed: some producers leave it empty.
"""

from __future__ import annotations

from modelcsi.artifact.annotations import (
    FileMetadata,
    filepath_annotation,
    parse_file_metadata,
    told_path,
)
from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, read_named
from modelcsi.artifact.layer import RAW, TAR, Codec, Compression, Layer, fallback_name
from modelcsi.artifact.mediatypes import canonical, codec_of, is_image_layer
from modelcsi.artifact.paths import base_name
from modelcsi.artifact.selection import has_weight_name
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest

# The third is only in the guide of modelpack.org.
_PREFIXES = ("application/vnd.cncf.model.", "application/vnd.cnai.model.", "application/vnd.cncf.modelpack.")
_WEIGHT = ".model.weight.v1."
_WEIGHT_FLAG = "org.cnai.model.model"
"""How artifacts of November 2024 mark weights: their layers have the types of image layers."""
_RAW_ENDINGS = (".v1.gguf", ".v1.safetensors")
"""Docker Model Runner's own endings: the content as it is."""


def _matches(manifest: Manifest) -> bool:
    return any(
        name.startswith(_PREFIXES)
        for name in (manifest.artifact_type or "", config_type(manifest), *map(_model_type, manifest.layers))
    )


def _read(manifest: Manifest) -> Contents:
    return read_named(manifest, _read_layer)


MODELPACK = Kind("modelpack", _matches, _read)


def _model_type(descriptor: Descriptor) -> str:
    """The type that says what a layer is: of its descriptor's artifactType where that is ModelPack's (November 2024)."""
    own = canonical(descriptor.artifact_type or "")
    return own if own.startswith(_PREFIXES) else canonical(descriptor.media_type)


def _read_layer(descriptor: Descriptor) -> Layer | None:
    """The layer; None for one that has neither a known type nor a name.

    1. a tar by its type, 2. an image layer, which is a tar or a file, 3. a file by its type, 4. any other type: a file if
    it has a name (RamaLama: octet-stream, text/plain).
    """
    media_type = _model_type(descriptor)
    is_known = media_type.startswith(_PREFIXES)
    codec = codec_of(media_type) if is_known else None
    metadata = parse_file_metadata(descriptor)
    if codec is not None and codec.is_tar:
        return _tar(descriptor, codec, metadata)
    if codec is not None and codec.compression is not Compression.NONE:
        raise UnsupportedArtifact(
            f"layer {descriptor.digest} is a compressed file ({media_type}), which ModelPack does not have",
            hint="pack it raw, or as tar with compression",
        )
    if is_image_layer(media_type):
        return _undecided(descriptor, codec_of(media_type) or TAR, metadata)
    path = told_path(descriptor)
    if path is None and (codec == RAW or (is_known and media_type.endswith(_RAW_ENDINGS))):
        path = fallback_name(descriptor.digest)
    return _file(descriptor, path, metadata) if path else None


def _file(descriptor: Descriptor, path: str, metadata: FileMetadata) -> Layer:
    return Layer(
        descriptor, RAW, path, mode=metadata.mode, mtime_ns=metadata.mtime_ns, is_weight=_is_weight(descriptor)
    )


def _tar(descriptor: Descriptor, codec: Codec, metadata: FileMetadata) -> Layer:
    path = _sole_member_path(descriptor, metadata)
    return Layer(
        descriptor,
        codec,
        sole_member_path=path,
        is_weight=_is_weight(descriptor),
        is_one_file=_is_one_file(path, metadata),
    )


def _undecided(descriptor: Descriptor, codec: Codec, metadata: FileMetadata) -> Layer:
    sole_member_path = _sole_member_path(descriptor, metadata)
    return Layer(
        descriptor,
        codec,
        path=told_path(descriptor) or fallback_name(descriptor.digest),
        sole_member_path=sole_member_path,
        mode=metadata.mode,
        mtime_ns=metadata.mtime_ns,
        is_weight=_is_weight(descriptor),
        undecided=True,
        is_one_file=_is_one_file(sole_member_path, metadata),
    )


def _sole_member_path(descriptor: Descriptor, metadata: FileMetadata) -> str | None:
    """The annotation counts for AIKit's weights, modctl <= v0.0.1-rc.1 and `modctl attach`, whose members lost their
    directories. It is a pseudo name where the metadata counts files: AIKit's class tar `code`.
    """
    path = filepath_annotation(descriptor)
    return None if metadata.has_files else path


def _is_one_file(path: str | None, metadata: FileMetadata) -> bool:
    """KitOps annotates directories too, and writes no metadata for tars; but no directory is called `x.safetensors`."""
    if path is None:
        return False
    is_described = metadata.is_regular_file and base_name(metadata.name or "") == base_name(path)
    return is_described or has_weight_name(path)


def _is_weight(descriptor: Descriptor) -> bool:
    return _WEIGHT in _model_type(descriptor) or descriptor.annotations.get(_WEIGHT_FLAG) == "true"
