"""Models of Docker Model Runner under its own names, v0.1 (which named nothing) and v0.2 (annotated as in ModelPack).

What it writes in the CNCF form is ModelPack.
"""

from __future__ import annotations

from modelcsi.artifact.annotations import told_path
from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, read_named
from modelcsi.artifact.kinds.names import is_known
from modelcsi.artifact.kinds.reading import file_layer, tar_layer, undecided_layer
from modelcsi.artifact.layer import TAR, Layer, fallback_name
from modelcsi.artifact.mediatypes import DOCKER_PREFIX, canonical, codec_of, is_image_layer, is_weight_type
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest

_CONFIG = f"{DOCKER_PREFIX}model.config."


def _matches(manifest: Manifest) -> bool:
    return config_type(manifest).startswith(_CONFIG)


def _read(manifest: Manifest) -> Contents:
    return read_named(manifest, _read_layer)


DOCKER_MODEL = Kind("docker-model", _matches, _read)


def _read_layer(descriptor: Descriptor, name: str) -> Layer | None:
    """The layer; None for one that has neither a known type nor a name.

    1. a directory or a vLLM configuration, which are tars, 2. an image layer, which is a tar or a file, 3. a file.
    """
    media_type = canonical(descriptor.media_type)
    codec = codec_of(media_type) if media_type.startswith(DOCKER_PREFIX) else None
    if codec is not None and codec.is_tar:
        return tar_layer(descriptor, codec)
    if is_image_layer(media_type):
        return undecided_layer(descriptor, codec_of(media_type) or TAR)
    path = told_path(descriptor, name)
    if path is None and is_known(media_type):
        path = fallback_name(descriptor.digest)
    return file_layer(descriptor, path, is_weight=is_weight_type(media_type)) if path else None
