"""How a descriptor becomes a layer, as far as the annotations of ModelPack say it: nearly every producer writes them."""

from __future__ import annotations

from modelcsi.artifact.annotations import FileMetadata, filepath_annotation, parse_file_metadata, told_path
from modelcsi.artifact.layer import RAW, TAR_GZIP, Codec, Layer, fallback_name
from modelcsi.artifact.mediatypes import canonical, codec_of
from modelcsi.artifact.paths import base_name
from modelcsi.artifact.selection import has_weight_name
from modelcsi.oci.descriptor import Descriptor

_UNPACK = "io.deis.oras.content.unpack"


def is_oras_directory(descriptor: Descriptor) -> bool:
    """Whether `oras push` packed a directory, and says so."""
    return descriptor.annotations.get(_UNPACK) == "true"


def oras_directory(descriptor: Descriptor) -> Layer:
    """A directory of ORAS: its members carry the title as prefix, and its type may be anything."""
    codec = codec_of(canonical(descriptor.media_type))
    return Layer(descriptor, codec if codec is not None and codec.is_tar else TAR_GZIP)


def file_layer(descriptor: Descriptor, path: str, codec: Codec = RAW, *, is_weight: bool = False) -> Layer:
    """A layer that is the file at `path`, compressed or not; mode and time are those of the metadata."""
    metadata = parse_file_metadata(descriptor)
    return Layer(descriptor, codec, path, mode=metadata.mode, mtime_ns=metadata.mtime_ns, is_weight=is_weight)


def tar_layer(descriptor: Descriptor, codec: Codec, *, is_weight: bool = False, prefix: str = "") -> Layer:
    """A tar, whose members lie below `prefix`."""
    metadata = parse_file_metadata(descriptor)
    path = _sole_member_path(descriptor, metadata)
    is_one_file = _is_one_file(path, metadata)
    return Layer(descriptor, codec, sole_member_path=path, is_weight=is_weight, is_one_file=is_one_file, prefix=prefix)


def undecided_layer(descriptor: Descriptor, codec: Codec, *, is_weight: bool = False) -> Layer:
    """A tar of this codec if its bytes are one, else a file."""
    metadata = parse_file_metadata(descriptor)
    sole_member_path = _sole_member_path(descriptor, metadata)
    return Layer(
        descriptor,
        codec,
        path=told_path(descriptor) or fallback_name(descriptor.digest),
        sole_member_path=sole_member_path,
        mode=metadata.mode,
        mtime_ns=metadata.mtime_ns,
        is_weight=is_weight,
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
