"""ModelPack (modelpack/model-spec): current cncf names, legacy cnai ones, and manifests that mix them.

Read here: what modctl, KitOps, AIKit, RamaLama, olot, Docker Model Runner and `oras push --artifact-type` write under these
names. The config is never needed: some producers leave it empty.
"""

from __future__ import annotations

from modelcsi.artifact.annotations import told_path
from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, read_named
from modelcsi.artifact.kinds.kitfile import KITFILE_ANNOTATION, parse_kitfile, refuse_what_is_elsewhere
from modelcsi.artifact.kinds.names import is_known
from modelcsi.artifact.kinds.reading import file_layer, is_oras_directory, oras_directory, tar_layer, undecided_layer
from modelcsi.artifact.layer import RAW, TAR, Layer, fallback_name
from modelcsi.artifact.mediatypes import (
    MODEL_PREFIXES,
    MODELPACK_PREFIXES,
    canonical,
    codec_of,
    is_image_layer,
    is_weight_type,
)
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest

_WEIGHT_FLAG = "org.cnai.model.model"
"""How artifacts of November 2024 mark weights: their layers have the types of image layers."""
_RAW_ENDINGS = (".v1.gguf", ".v1.safetensors")
"""Docker Model Runner's own endings: the content as it is."""


def _matches(manifest: Manifest) -> bool:
    types = (canonical(manifest.artifact_type or ""), config_type(manifest), *map(_model_type, manifest.layers))
    return any(name.startswith(MODELPACK_PREFIXES) for name in types)


def _read(manifest: Manifest) -> Contents:
    kitfile = parse_kitfile(manifest.annotations.get(KITFILE_ANNOTATION, "").encode("utf-8", "surrogatepass"))
    if kitfile is not None:
        refuse_what_is_elsewhere(kitfile, manifest)
    return read_named(manifest, _read_layer)


MODELPACK = Kind("modelpack", _matches, _read)


def _model_type(descriptor: Descriptor) -> str:
    """The type that says what a layer is: of its descriptor's artifactType where that is ModelPack's (November 2024)."""
    own = canonical(descriptor.artifact_type or "")
    return own if own.startswith(MODELPACK_PREFIXES) else canonical(descriptor.media_type)


def _read_layer(descriptor: Descriptor, name: str) -> Layer | None:
    """The layer; None for one that has neither a known type nor a name.

    1. a directory of ORAS, 2. a tar by its type, 3. an image layer, which is a tar or a file, 4. a file by its type,
    compressed or not, 5. any other type: a file if it has a name (RamaLama: octet-stream, text/plain).
    """
    media_type = _model_type(descriptor)
    is_own = media_type.startswith(MODELPACK_PREFIXES)
    codec = codec_of(media_type) if media_type.startswith(MODEL_PREFIXES) else None
    is_weight = is_weight_type(media_type) or descriptor.annotations.get(_WEIGHT_FLAG) == "true"
    if codec is None and is_oras_directory(descriptor):
        return oras_directory(descriptor)
    if codec is not None and codec.is_tar:
        return tar_layer(descriptor, codec, is_weight=is_weight)
    if is_image_layer(media_type):
        return undecided_layer(descriptor, codec_of(media_type) or TAR, is_weight=is_weight)
    path = told_path(descriptor, name)
    is_file = codec is not None or (is_own and media_type.endswith(_RAW_ENDINGS)) or is_known(media_type)
    if path is None and is_file:
        path = fallback_name(descriptor.digest)
    return file_layer(descriptor, path, codec or RAW, is_weight=is_weight) if path else None
