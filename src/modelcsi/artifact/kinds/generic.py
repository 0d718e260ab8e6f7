"""Artifacts of no model format: files and directories as `oras push`, oras-go, oras-py and AIKit's generic mode push them."""

from __future__ import annotations

from dataclasses import replace

from modelcsi.artifact.annotations import TITLE_KEY, told_path
from modelcsi.artifact.kinds.kind import Contents, Kind, read_named
from modelcsi.artifact.kinds.reading import file_layer, is_oras_directory, oras_directory
from modelcsi.artifact.layer import TAR_GZIP, Layer
from modelcsi.artifact.mediatypes import canonical, codec_of
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest


def _read(manifest: Manifest) -> Contents:
    return read_named(manifest, _read_layer)


GENERIC = Kind("generic", lambda _: True, _read)


def _read_layer(descriptor: Descriptor, name: str) -> Layer | None:
    """The layer; None without a name, as in oras' own pull.

    1. A directory that says so: its members carry the title as prefix, and its type may be anything. 2. Perhaps a
    directory of oras-py, which says nothing. 3. A file, whatever its type: `oras push` gives files a tar's type.
    """
    codec = codec_of(canonical(descriptor.media_type))
    if is_oras_directory(descriptor):
        return oras_directory(descriptor)
    path = told_path(descriptor, name)
    if path is None:
        return None
    layer = file_layer(descriptor, path)
    if codec == TAR_GZIP and descriptor.annotations.get(TITLE_KEY):
        return replace(layer, codec=TAR_GZIP, undecided=True, tar_root=path)
    return layer
