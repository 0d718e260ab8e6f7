"""Manifests and indexes (image-spec, manifest.md and image-index.md), read from untrusted bytes within limits.

The limits are those of containerd and oras where they have one (4 MiB of manifest), else generous multiples of what was met
in the field (450 layers, 250 KiB).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor, parse_annotations, parse_descriptor
from modelcsi.oci.digest import Digest

MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 8 << 20
MAX_LAYERS = 10_000

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"
"""Of image-spec 1.1's release candidates: no config, and `blobs` instead of `layers`. Old artifacts of ORAS have it."""
_MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST, ARTIFACT_MANIFEST})
_INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
ACCEPTED_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX, ARTIFACT_MANIFEST)


@dataclass(frozen=True, slots=True)
class UnreadableConfig:
    """A config whose digest cannot be checked: of another algorithm, or malformed. It has a type, and few need its content."""

    media_type: str
    problem: UnsupportedArtifact = field(compare=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One artifact: a config (None when the document names none, or an unreadable one) and its layers in order."""

    media_type: str
    artifact_type: str | None
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(hash=False)
    unreadable_config: UnreadableConfig | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests under one digest."""

    media_type: str
    artifact_type: str | None
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(hash=False)


def parse_manifest(content: bytes, content_type: str = "") -> Manifest | Index:
    """The manifest or index in `content`, whose digest the caller has checked.

    What it is, is told by the body's `mediaType`, else by its shape; `content_type` (of the HTTP answer) only breaks a tie,
    since registries are known to send `text/plain`. Raises UnsupportedArtifact for a document over the limits, with
    duplicate keys, with `manifests` beside `layers` or `config` (containerd GHSA-5j5w-g665-5m35), or of another kind.
    """
    document = parse_json_object(content, "the manifest", MAX_MANIFEST_BYTES)
    media_type = document.get("mediaType") or ""
    if not isinstance(media_type, str):
        raise UnsupportedArtifact("the manifest's mediaType is not a string")
    has_manifests = document.get("manifests") is not None
    for field_name in ("layers", "config", "blobs"):
        if has_manifests and document.get(field_name) is not None:
            raise UnsupportedArtifact(
                f"the manifest has both {field_name} and manifests: its meaning depends on who reads it"
            )
    if "fsLayers" in document or document.get("schemaVersion") == 1:
        raise UnsupportedArtifact(
            "the manifest is a Docker image's of schema 1, which names no types",
            hint="push the artifact again with a current tool",
        )
    guess = media_type or content_type.partition(";")[0].strip().lower()
    is_index = has_manifests or (guess in _INDEX_TYPES and not document.keys() & {"layers", "config"})
    if (is_index and media_type in _MANIFEST_TYPES) or (not is_index and media_type in _INDEX_TYPES):
        raise UnsupportedArtifact(f"the manifest calls itself {media_type} and has the fields of another type")
    artifact_type = document.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise UnsupportedArtifact("the manifest's artifactType is not a string")
    annotations = parse_annotations(document.get("annotations"), "the manifest")
    if is_index:
        entries = _parse_descriptors(document.get("manifests"), "manifests")
        return Index(media_type or OCI_INDEX, artifact_type or None, entries, annotations)
    layers_field = "blobs" if media_type == ARTIFACT_MANIFEST else "layers"
    if layers_field not in document and "config" not in document:
        raise UnsupportedArtifact("the document is neither a manifest nor an index")
    config = _parse_config(document.get("config"))
    return Manifest(
        media_type=media_type or OCI_MANIFEST,
        artifact_type=artifact_type or None,
        config=config if isinstance(config, Descriptor) else None,
        layers=_parse_descriptors(document.get(layers_field), layers_field),
        annotations=annotations,
        unreadable_config=config if isinstance(config, UnreadableConfig) else None,
    )


def parse_json_object(content: bytes, what: str, max_bytes: int) -> dict[str, Any]:
    """The JSON object in untrusted `content`; `what` names it in errors.

    Stricter than the `json` module: a duplicate key, NaN, deep nesting or invalid UTF-8 raise UnsupportedArtifact, since two
    readers may understand such a document differently.
    """
    if len(content) > max_bytes:
        raise UnsupportedArtifact(f"{what} has {len(content)} bytes; {max_bytes} are the limit")
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnsupportedArtifact(f"{what} is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise UnsupportedArtifact(f"{what} is not a JSON object")
    return value


def _parse_config(value: object) -> Descriptor | UnreadableConfig | None:
    if value in (None, {}):  # `{}` says as little as none
        return None
    if isinstance(value, dict) and isinstance(digest := value.get("digest"), str):
        try:
            Digest.parse(digest)
        except UnsupportedArtifact as error:
            media_type = value.get("mediaType")
            return UnreadableConfig(media_type if isinstance(media_type, str) else "", error)
    return parse_descriptor(value, "config")


def _parse_descriptors(value: object, field: str) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UnsupportedArtifact(f"{field} of the manifest is not a list")
    if len(value) > MAX_LAYERS:
        raise UnsupportedArtifact(f"the manifest has {len(value)} {field}; {MAX_LAYERS} are the limit")
    return tuple(parse_descriptor(item, f"{field}[{number}]") for number, item in enumerate(value))


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key[:80]!r}")
        result[key] = value
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
