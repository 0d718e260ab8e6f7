"""Container images that carry a model (KServe model cars, RamaLama, olot): OCI's, and Docker's schema 2.

Here they are only recognised: how layers cover each other, and which directory is shown, is `image_tree`'s concern.
"""

from __future__ import annotations

from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, layer_types, read_named
from modelcsi.artifact.layer import TAR, Layer
from modelcsi.artifact.mediatypes import canonical, codec_of, is_image_layer
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest

_CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})


def _matches(manifest: Manifest) -> bool:
    """The layers count, too: `oras push --config` can give any files the config of an image."""
    types = layer_types(manifest)
    return (
        manifest.artifact_type is None
        and config_type(manifest) in _CONFIGS
        and (not types or any(map(is_image_layer, types)))
    )


def _read(manifest: Manifest) -> Contents:
    return read_named(manifest, _read_layer)


IMAGE = Kind("image", _matches, _read, is_overlay=True)


def _read_layer(descriptor: Descriptor, _: str) -> Layer | None:
    media_type = canonical(descriptor.media_type)
    return Layer(descriptor, codec_of(media_type) or TAR, is_image=True) if is_image_layer(media_type) else None
