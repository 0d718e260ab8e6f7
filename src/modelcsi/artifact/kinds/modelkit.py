"""ModelKits of KitOps in all three ages.

1. before 0.5: the Kitfile names no layers, and a tar's members are relative to the parent of its entry's path;
2. 0.5 to 1.9: members are full paths, nothing is annotated;
3. since 1.10: the layers are annotated as in ModelPack.
A mount has what was packed; `kit unpack` also writes the Kitfile, which lies in the config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from modelcsi.artifact.annotations import filepath_annotation, has_filepath, told_path
from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, read_named
from modelcsi.artifact.kinds.kitfile import (
    Kitfile,
    KitfileEntry,
    layer_class,
    parent_of,
    parse_kitfile,
    refuse_what_is_elsewhere,
)
from modelcsi.artifact.kinds.reading import file_layer, tar_layer, undecided_layer
from modelcsi.artifact.layer import TAR, Layer, fallback_name
from modelcsi.artifact.mediatypes import (
    MODEL_PREFIXES,
    MODELKIT_PREFIX,
    canonical,
    codec_of,
    is_image_layer,
    is_weight_type,
)
from modelcsi.artifact.paths import normalise_path
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest


def _matches(manifest: Manifest) -> bool:
    types = (canonical(manifest.artifact_type or ""), config_type(manifest))
    return any(name.startswith(MODELKIT_PREFIX) for name in types)


def _reads_config(manifest: Manifest) -> bool:
    return config_type(manifest).startswith(MODELKIT_PREFIX)


def _needs_config(manifest: Manifest) -> bool:
    """Not since KitOps 1.10."""
    return not all(map(has_filepath, manifest.layers))


def _read(manifest: Manifest) -> Contents:
    content = manifest.config.data if manifest.config else None
    kitfile = parse_kitfile(content or b"") or Kitfile({})
    refuse_what_is_elsewhere(kitfile, manifest)
    entries = _entries_of_layers(kitfile, manifest)
    return read_named(manifest, lambda descriptor, name: _read_layer(descriptor, name, next(entries), kitfile))


MODELKIT = Kind("modelkit", _matches, _read, _reads_config, _needs_config)


def _entries_of_layers(kitfile: Kitfile, manifest: Manifest) -> Iterator[KitfileEntry | None]:
    """The entry of each layer: the one that names it, else by the order within its class."""
    by_digest = {entry.digest: entry for entries in kitfile.entries.values() for entry in entries if entry.digest}
    numbers: Counter[str] = Counter()
    for layer in manifest.layers:
        name = layer_class(canonical(layer.media_type))
        entries = kitfile.entries.get(name, ())
        number = numbers[name]
        numbers[name] += 1
        if kitfile.is_old:
            yield entries[number] if number < len(entries) else None
        else:
            yield by_digest.get(str(layer.digest))


def _read_layer(descriptor: Descriptor, name: str, entry: KitfileEntry | None, kitfile: Kitfile) -> Layer | None:
    """The layer; None for one that has neither a known type nor a name.

    1. a tar by its type, 2. an image layer, which is a tar or a file, 3. a file by its type, compressed or not, 4. any
    other type: a file if it has a name.
    """
    media_type = canonical(descriptor.media_type)
    codec = codec_of(media_type) if media_type.startswith(MODEL_PREFIXES) else None
    is_weight = is_weight_type(media_type)
    if codec is not None and codec.is_tar:
        prefix = parent_of(entry) if entry and kitfile.is_old and filepath_annotation(descriptor) is None else ""
        where = f"layer {descriptor.digest}"
        return tar_layer(descriptor, codec, is_weight=is_weight, prefix=normalise_path(prefix, where) if prefix else "")
    if is_image_layer(media_type):
        return undecided_layer(descriptor, codec_of(media_type) or TAR)
    path = told_path(descriptor, name or (entry.path.strip() if entry else ""))
    if codec is None:
        return file_layer(descriptor, path) if path else None
    return file_layer(descriptor, path or fallback_name(descriptor.digest), codec, is_weight=is_weight)
