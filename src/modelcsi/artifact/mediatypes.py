"""Media types of layers, as far as several kinds share them."""

from __future__ import annotations

import re

from modelcsi.artifact.layer import Codec, Compression

# The third is only in the guide of modelpack.org.
MODELPACK_PREFIXES = ("application/vnd.cncf.model.", "application/vnd.cnai.model.", "application/vnd.cncf.modelpack.")
MODELKIT_PREFIX = "application/vnd.kitops.modelkit."
DOCKER_PREFIX = "application/vnd.docker.ai."
MODEL_PREFIXES = (*MODELPACK_PREFIXES, MODELKIT_PREFIX, DOCKER_PREFIX)
"""The formats whose types tell how a layer is packed; a layer of one may stand in an artifact of another."""

_WEIGHT = re.compile(
    r"application/vnd\.(?:cncf|cnai)\.(?:modelpack\.)?model\.weight\.v1\..*"
    r"|application/vnd\.kitops\.modelkit\.(?:model|modelpart)\.v1\..*"
    r"|application/vnd\.docker\.ai\.(?:gguf|safetensors|dduf|mmproj).*"
)

EMPTY = "application/vnd.oci.empty.v1+json"

# Docker writes `.tar.gzip` and once wrote `.tar.zstd`; a nondistributable (foreign) layer decodes like its plain twin.
_IMAGE_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer(?:\.nondistributable)?\.v1|docker\.image\.rootfs(?:\.foreign)?\.diff)"
    r"\.tar(?:[+.](?:gzip|zstd))?"
)
_CODEC_SUFFIX = re.compile(r"[./](raw|tar)(?:[+.](gzip|zstd))?$")


def canonical(media_type: str) -> str:
    """The type without parameters, in lower case."""
    return media_type.partition(";")[0].strip().lower()


def is_image_layer(media_type: str) -> bool:
    """Whether a canonical type is that of a container image's layer, in which ORAS also pushes plain files."""
    return _IMAGE_LAYER.fullmatch(media_type) is not None


def is_encrypted(media_type: str) -> bool:
    """Whether the content can only be read with a key (ocicrypt)."""
    return media_type.endswith("+encrypted") or "+encrypted+" in media_type


def is_weight_type(media_type: str) -> bool:
    """Whether a canonical type is that of weights in one of the `MODEL_PREFIXES`, whatever the artifact around it."""
    return _WEIGHT.fullmatch(media_type) is not None


def codec_of(media_type: str) -> Codec | None:
    """The codec that the end of a canonical type tells; None when it tells none."""
    match = _CODEC_SUFFIX.search(media_type)
    return Codec(is_tar=match[1] == "tar", compression=Compression(match[2] or "")) if match else None
