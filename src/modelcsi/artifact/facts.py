"""What a config and a manifest say of the model and of the program that packed it. Information for people, never a condition.

Nothing here is an error: what cannot be understood says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelcsi.artifact.annotations import PRODUCER, PRODUCER_KEY, TITLE_KEY, filepath_annotation, parse_file_metadata
from modelcsi.artifact.mediatypes import EMPTY
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest

_FACTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "name": (("descriptor", "name"), ("package", "name"), ("model", "name")),
    "title": (("descriptor", "title"), ("config", "Labels", "org.opencontainers.image.title")),
    "version": (("descriptor", "version"), ("package", "version"), ("model", "version")),
    "family": (("descriptor", "family"), ("model_family",)),
    "vendor": (("descriptor", "vendor"),),
    "created": (("descriptor", "createdAt"), ("descriptor", "created"), ("created",)),
    "architecture": (("config", "architecture"),),
    "format": (("config", "format"), ("model", "format"), ("model_format",), ("model", "framework")),
    "precision": (("config", "precision"),),
    "quantization": (("config", "quantization"), ("config", "puantization"), ("file_type",)),
    "parameters": (("config", "paramSize"), ("config", "parameterSize"), ("config", "parameters"), ("model_type",)),
}
"""Where each fact is: ModelPack (with the slips of its first versions), ModelKit, Docker Model Runner, images, Ollama."""
_LICENSES = (
    *(("descriptor", "licenses"), ("model", "license"), ("package", "license")),
    ("config", "Labels", "org.opencontainers.image.licenses"),
)
_ANNOTATED = frozenset({"title", "version", "vendor", "created"})
_IMAGE_PREFIX = "org.opencontainers.image."
_KITFILE_KEY = "ml.kitops.modelkit.kitfile"
_MAX_TEXT = 500


def model_facts(config: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    """Name, licences, format, precision and the like, as far as they are told; `annotations` are the manifest's."""
    documents = [config, _kitfile(annotations)]
    facts: dict[str, Any] = {}
    for name, places in _FACTS.items():
        texts = [text for document in documents for place in places if (text := _text(_at(document, place)))]
        if name in _ANNOTATED:
            texts.append(annotations.get(f"{_IMAGE_PREFIX}{name}", ""))
        text = next(filter(None, texts), "")
        if text:
            facts[name] = text[:_MAX_TEXT]
    licenses = [item for document in documents for place in _LICENSES for item in _texts(_at(document, place))]
    licenses = licenses or _texts(annotations.get(f"{_IMAGE_PREFIX}licenses"))
    if licenses:
        facts["licenses"] = list(dict.fromkeys(licenses))
    return facts


def producer_of(manifest: Manifest, config: Mapping[str, Any]) -> str | None:
    """The program that packed the artifact, where it left a trace; None: it may be any.

    1. an annotation, 2. a vendor's media types, 3. habits that no other producer has.
    """
    annotations = manifest.annotations
    types = [manifest.artifact_type or "", manifest.config.media_type if manifest.config else ""]
    types += [layer.media_type for layer in manifest.layers]
    if annotations.get(PRODUCER_KEY) == PRODUCER:
        return PRODUCER
    if any(key.startswith("ml.kitops.") for key in annotations) or _has_type(types, "application/vnd.kitops."):
        return " ".join(filter(None, ("KitOps", annotations.get("ml.kitops.modelkit.cli-version", "")[:_MAX_TEXT])))
    if annotations.keys() & {"org.cncf.modctl.modelfile", "org.cnai.modctl.modelfile"}:
        return "modctl"
    if _has_type(types, "application/vnd.ollama."):
        return "Ollama"
    if _has_type(types, "application/vnd.docker.ai."):
        return "Docker Model Runner"
    return _producer_by_habits(manifest, config, types)


def _producer_by_habits(manifest: Manifest, config: Mapping[str, Any], types: list[str]) -> str | None:
    """The facts are those of docs/artifacts.md."""
    titles = [layer.annotations.get(TITLE_KEY, "") for layer in manifest.layers]
    untested = {layer.annotations.get("org.cncf.model.file.mediatype.untested") for layer in manifest.layers}
    label = _text(_at(config, ("config", "Labels", "org.containers.type")))
    has_bare_digests = any(len(digest) == 64 for digest in _texts(_at(config, ("modelfs", "diffIds"))))
    has_olot = any(key.startswith("olot.") for layer in manifest.layers for key in layer.annotations)
    has_model_types = _has_type(types, "application/vnd.cncf.model.")
    if label.startswith("ai.image.model") or any(map(_is_ramalama, manifest.layers)):
        return "RamaLama"
    if has_olot or has_bare_digests:
        return "olot"
    if any(title.startswith("allfiles.tar") for title in titles):
        return "AIKit"
    if has_model_types and untested == {"false"}:
        return "Docker Model Runner"
    if has_model_types and untested == {"true"} and manifest.config and manifest.config.digest == Digest.of(b"{}"):
        return "AIKit"
    if manifest.config and manifest.config.size == 0 and manifest.artifact_type is None and any(titles):
        return "oras-py"
    is_empty = manifest.config is not None and manifest.config.media_type == EMPTY
    return "ORAS" if is_empty and titles and all(titles) else None


def _has_type(types: list[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in types)


def _is_ramalama(layer: Descriptor) -> bool:
    """The title is the blob's name, beside a path."""
    try:
        path = filepath_annotation(layer)
    except UnsupportedArtifact:
        return False
    title = layer.annotations.get(TITLE_KEY, "")
    return title.startswith("sha256-") and path is not None and parse_file_metadata(layer).is_regular_file


def _kitfile(annotations: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        value = json.loads(annotations.get(_KITFILE_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _at(document: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = document
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item[:_MAX_TEXT] for item in values if isinstance(item, str) and item]
