"""Models of Ollama: each layer is one file, which its media type names (docs/artifacts.md), or its field `name`.

The manifest is one of Docker's, with the config of an image, so that this kind is asked before images are.
"""

from __future__ import annotations

from modelcsi.artifact.annotations import told_path
from modelcsi.artifact.kinds.kind import Contents, Kind, layer_types, read_named
from modelcsi.artifact.kinds.names import OLLAMA_PREFIX, is_known
from modelcsi.artifact.kinds.reading import file_layer
from modelcsi.artifact.layer import Layer, fallback_name
from modelcsi.artifact.mediatypes import canonical
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest

_WEIGHTS = frozenset(f"{OLLAMA_PREFIX}{name}" for name in ("model", "projector", "adapter", "draft", "tensor"))


def _matches(manifest: Manifest) -> bool:
    return any(name.startswith("application/vnd.ollama.") for name in layer_types(manifest))


def _read(manifest: Manifest) -> Contents:
    return read_named(manifest, _read_layer)


OLLAMA = Kind("ollama", _matches, _read)


def _read_layer(descriptor: Descriptor, name: str) -> Layer | None:
    """The layer; None for one that has neither a known type nor a name."""
    media_type = canonical(descriptor.media_type)
    path = told_path(descriptor, name)
    if path is None and is_known(media_type):
        path = fallback_name(descriptor.digest)
    return file_layer(descriptor, path, is_weight=media_type in _WEIGHTS) if path else None
