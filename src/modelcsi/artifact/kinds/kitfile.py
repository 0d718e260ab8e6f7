"""The Kitfile of KitOps, as it lies in the config of a ModelKit or in an annotation: which entry a layer is of.

Only what placing the layers takes is read. The Kitfile is information: what is not understood of it is left out.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelcsi.artifact.mediatypes import canonical
from modelcsi.artifact.paths import shown
from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_json_object
from modelcsi.oci.reference import Reference

KITFILE_ANNOTATION = "ml.kitops.modelkit.kitfile"
_HINT = "mount that one as well, or pack all of the files into one artifact"
_SECTIONS = {"code": "code", "prompts": "code", "datasets": "dataset", "docs": "docs"}
"""Kitfile key -> the class of layers that its entries have, one each and in order; `model` is apart."""
_CLASS = re.compile(
    r"application/vnd\.kitops\.modelkit\.(\w+)\.v1\..+|application/vnd\.(?:cncf|cnai)\.model\.([\w.]+)\.v1\..+"
)
_MODELPACK_CLASSES = {"weight": "model", "weight.config": "modelpart", "doc": "docs"}


@dataclass(frozen=True, slots=True)
class KitfileEntry:
    """One thing that the Kitfile packs. Paths are as they are written."""

    path: str
    digest: str = ""
    """Of its layer; empty before KitOps 0.5, and for content that is elsewhere."""
    remote_path: str = ""


@dataclass(frozen=True)
class Kitfile:
    """The entries by the class of their layers (`model`, `modelpart`, `code`, `dataset`, `docs`), in order."""

    entries: Mapping[str, Sequence[KitfileEntry]]

    @cached_property  # asked for each layer
    def is_old(self) -> bool:
        """Whether it was written before KitOps 0.5: no entry names its layer."""
        return not any(entry.digest for entries in self.entries.values() for entry in entries)


def parse_kitfile(content: bytes) -> Kitfile | None:
    """The Kitfile in JSON; None for nothing, and for what is no such thing."""
    try:
        document = parse_json_object(content, "the Kitfile", MAX_MANIFEST_BYTES)
    except UnsupportedArtifact:
        return None
    found: dict[str, list[KitfileEntry]] = defaultdict(list)
    model = document.get("model")
    if isinstance(model, dict):
        found["model"] = _entries([model])
        found["modelpart"] = _entries(model.get("parts"))
    for section, layer_class in _SECTIONS.items():
        found[layer_class] += _entries(document.get(section))
    return Kitfile(found)


def layer_class(media_type: str) -> str:
    """The class of a layer by its canonical type, in KitOps' words; empty for a type that is none of KitOps'."""
    match = _CLASS.fullmatch(media_type)
    if match is None:
        return ""
    return match[1] or _MODELPACK_CLASSES.get(match[2], match[2])


def refuse_what_is_elsewhere(kitfile: Kitfile, manifest: Manifest) -> None:
    """Refuse a Kitfile of which a part is in another ModelKit, or in a bucket. Raises UnsupportedArtifact."""
    digests = {str(layer.digest) for layer in manifest.layers}
    has_model = any(layer_class(canonical(layer.media_type)) == "model" for layer in manifest.layers)
    for name, entries in kitfile.entries.items():
        for entry in entries:
            if entry.digest in digests:
                continue
            if entry.remote_path:
                raise UnsupportedArtifact(
                    f"the ModelKit's {name} {shown(entry.path)} is not in it, but at {shown(entry.remote_path)}",
                    hint=_HINT,
                )
            if name == "model" and not entry.digest and not has_model and is_reference(entry.path):
                raise UnsupportedArtifact(
                    f"the ModelKit's model is not in it, but in another ModelKit: {shown(entry.path)}", hint=_HINT
                )


def is_reference(path: str) -> bool:
    """Whether a Kitfile's path names another ModelKit (KitOps, `IsModelKitReference`: it has a tag or a digest, and parses)."""
    if ":" not in path and "@" not in path:
        return False
    try:
        Reference.parse(path.partition(",")[0])
    except InvalidRequest:
        return False
    return True


def parent_of(entry: KitfileEntry) -> str:
    """The directory of an entry's path, which members of old ModelKits are relative to; empty for the root."""
    path = posixpath.normpath(entry.path.strip() or ".")
    return posixpath.dirname(path)


def _entries(value: Any) -> list[KitfileEntry]:
    """One for each object of a list, so that their order stays that of the layers; other things in it have no layer."""
    if not isinstance(value, list):
        return []
    return [
        KitfileEntry(_text(item, "path"), _text(item, "digest"), _text(item, "remotePath"))
        for item in value
        if isinstance(item, dict)
    ]


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""
