"""Artifacts of no model format: files and directories as `oras push`, oras-go, oras-py and AIKit's generic mode push them."""

from __future__ import annotations

from modelcsi.artifact.annotations import TITLE_KEY, parse_file_metadata, told_path
from modelcsi.artifact.kinds.kind import Contents, Kind
from modelcsi.artifact.layer import RAW, TAR_GZIP, Layer
from modelcsi.artifact.mediatypes import EMPTY, canonical, codec_of
from modelcsi.artifact.paths import shown
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest

_UNPACK = "io.deis.oras.content.unpack"


def _read(manifest: Manifest) -> Contents:
    layers: list[Layer] = []
    warnings: list[str] = []
    for descriptor in manifest.layers:
        layer = _read_layer(descriptor)
        if layer is not None:
            layers.append(layer)
        elif canonical(descriptor.media_type) != EMPTY:
            warnings.append(f"layer {descriptor.digest} of type {shown(descriptor.media_type)} has no name: left out")
    return Contents(tuple(layers), tuple(warnings))


GENERIC = Kind("generic", lambda _: True, _read)


def _read_layer(descriptor: Descriptor) -> Layer | None:
    """The layer; None without a name, as in oras' own pull.

    1. A directory that says so: its members carry the title as prefix, and its type may be anything. 2. Perhaps a
    directory of oras-py, which says nothing. 3. A file, whatever its type: `oras push` gives files a tar's type.
    """
    codec = codec_of(canonical(descriptor.media_type))
    if descriptor.annotations.get(_UNPACK) == "true":
        return Layer(descriptor, codec if codec is not None and codec.is_tar else TAR_GZIP)
    path = told_path(descriptor)
    if path is None:
        return None
    metadata = parse_file_metadata(descriptor)
    if codec == TAR_GZIP and descriptor.annotations.get(TITLE_KEY):
        return Layer(
            descriptor,
            TAR_GZIP,
            path,
            mode=metadata.mode,
            mtime_ns=metadata.mtime_ns,
            undecided=True,
            tar_root=path,
        )
    return Layer(descriptor, RAW, path, mode=metadata.mode, mtime_ns=metadata.mtime_ns)
