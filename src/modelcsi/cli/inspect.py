"""`modelcsi inspect`: what a reference means, without fetching a layer."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from typing import Any

from modelcsi.artifact.artifact import Artifact, recognise
from modelcsi.artifact.layer import Codec, Layer
from modelcsi.artifact.paths import shown
from modelcsi.cli.build import registry_of, settings_of_flags
from modelcsi.cli.terminal import draw_table
from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, Forbidden, ModelCsiError, Unauthenticated, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import MAX_CONFIG_BYTES, Index, Manifest, parse_json_object, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pack.classify import class_of_media_type
from modelcsi.quantities import format_size
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Repository, ResolvedManifest

_RESOLVE_SECONDS = 60.0
_READ_BYTES = 1 << 20
_EMPTY_CONFIG_BYTES = 2
"""`{}`: what AIKit and ORAS write."""
_ID_CHARACTERS = 19
_TEXT_FACTS = {
    "name": ("descriptor", "name"),
    "title": ("descriptor", "title"),
    "version": ("descriptor", "version"),
    "family": ("descriptor", "family"),
    "vendor": ("descriptor", "vendor"),
    "created": ("descriptor", "createdAt"),
    "architecture": ("config", "architecture"),
    "format": ("config", "format"),
    "precision": ("config", "precision"),
    "quantization": ("config", "quantization"),
    "parameters": ("config", "paramSize"),
}


def run_inspect(options: argparse.Namespace) -> int:
    """Print what the manifest and the config of a reference say."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    reference = Reference.parse(options.reference)
    repository, resolved = _resolve(options, reference)
    manifest = parse_manifest(resolved.content, resolved.media_type)
    known = {
        "reference": str(reference),
        "digest": str(resolved.digest),
        "media_type": manifest.media_type,
        "artifact_type": manifest.artifact_type,
    }
    if isinstance(manifest, Index):
        value = known | _describe_index(manifest)
    else:
        value = known | _describe(manifest, resolved, repository)
    print(json.dumps(value, indent=2) if options.json else _text(value))
    return 0


def _resolve(options: argparse.Namespace, reference: Reference) -> tuple[Repository, ResolvedManifest]:
    """With each of the keychain's credentials in turn; the error is the first one's."""
    registry, keychain = registry_of(settings_of_flags(options.docker_config, options.registry_config))
    first_refusal: ModelCsiError | None = None
    for credentials in keychain.candidates(reference, Caller()):
        repository = registry.repository(reference, credentials)
        try:
            return repository, repository.resolve(reference.target, Deadline.after(_RESOLVE_SECONDS))
        except (Unauthenticated, Forbidden) as error:
            first_refusal = first_refusal or error
    assert first_refusal is not None, "a keychain names at least one candidate"
    raise first_refusal


def _describe_index(index: Index) -> dict[str, Any]:
    entries = [
        {
            "digest": str(entry.digest),
            "media_type": entry.media_type,
            "artifact_type": entry.artifact_type,
            "platform": None if entry.platform is None else dict(entry.platform),
            "size_bytes": entry.size,
            "annotations": dict(entry.annotations),
        }
        for entry in index.manifests
    ]
    return {"kind": "index", "manifests": entries}


def _describe(manifest: Manifest, resolved: ResolvedManifest, repository: Repository) -> dict[str, Any]:
    artifact, problem = _recognise(manifest, resolved)
    sizes = {layer.digest: layer.size for layer in manifest.layers}
    value: dict[str, Any] = {
        "kind": artifact.kind if artifact else None,
        "size_bytes": sum(sizes.values()),
        "model": _facts(manifest.config, repository),
    }
    if artifact:
        value["layers"] = [_describe_layer(layer.descriptor, layer) for layer in artifact.layers]
        value["warnings"] = list(artifact.warnings)
    else:
        value["layers"] = [_describe_layer(descriptor, None) for descriptor in manifest.layers]
        value["warnings"] = [f"cannot be mounted: {problem}"]
    return value


def _recognise(manifest: Manifest, resolved: ResolvedManifest) -> tuple[Artifact | None, str]:
    """What cannot be mounted is still shown: that is when people look."""
    try:
        return recognise(manifest, resolved.digest), ""
    except UnsupportedArtifact as error:
        return None, str(error)


def _describe_layer(descriptor: Descriptor, layer: Layer | None) -> dict[str, Any]:
    file_class = class_of_media_type(descriptor.media_type)
    return {
        "path": None if layer is None else layer.path or layer.sole_member_path,
        "class": file_class.value if file_class else "weight" if layer is not None and layer.is_weight else None,
        "codec": None if layer is None else _codec_text(layer.codec),
        "size_bytes": descriptor.size,
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
    }


def _codec_text(codec: Codec) -> str:
    return ("tar" if codec.is_tar else "raw") + (f"+{codec.compression.value}" if codec.compression.value else "")


def _facts(config: Descriptor | None, repository: Repository) -> dict[str, Any]:
    """What the config says of the model; it is information, so one that cannot be understood says nothing."""
    if config is None or not _EMPTY_CONFIG_BYTES < config.size <= MAX_CONFIG_BYTES:
        return {}
    try:
        document = parse_json_object(_read(config, repository), "the config", MAX_CONFIG_BYTES)
    except UnsupportedArtifact:
        return {}
    facts: dict[str, Any] = {}
    for name, (section, key) in _TEXT_FACTS.items():
        values = document.get(section)
        if isinstance(values, Mapping) and isinstance(values.get(key), str) and values[key]:
            facts[name] = values[key]
    descriptor = document.get("descriptor")
    licenses = descriptor.get("licenses") if isinstance(descriptor, Mapping) else None
    if isinstance(licenses, list) and licenses:
        facts["licenses"] = [item for item in licenses if isinstance(item, str)]
    return facts


def _read(descriptor: Descriptor, repository: Repository) -> bytes:
    if descriptor.data is not None:
        return descriptor.data
    with repository.open_blob(descriptor) as stream:
        content = b"".join(iter(lambda: stream.read(_READ_BYTES), b""))
    if not descriptor.digest.matches(content):
        raise CorruptContent(f"the config {descriptor.digest} has other bytes than its digest says")
    return content


def _text(value: dict[str, Any]) -> str:
    lines = [f"{value['reference']}", f"  digest       {value['digest']}"]
    kind = value["kind"] or "not a model that can be mounted"
    lines.append(f"  kind         {kind} ({value['artifact_type'] or value['media_type']})")
    if value["kind"] == "index":
        rows = [
            [entry["digest"], _platform(entry["platform"]), entry["artifact_type"] or entry["media_type"]]
            for entry in value["manifests"]
        ]
        return "\n".join([*lines, "", draw_table(["DIGEST", "PLATFORM", "TYPE"], rows) if rows else "  no entries"])
    lines.append(f"  size         {format_size(value['size_bytes'])} in {len(value['layers'])} layers")
    for name, fact in value["model"].items():
        lines.append(f"  {name:12s} {_printable(', '.join(fact) if isinstance(fact, list) else fact)}")
    rows = [
        [
            _printable(layer["path"] or "(many files)" if layer["codec"] else ""),
            format_size(layer["size_bytes"]),
            layer["codec"] or layer["media_type"],
            layer["class"] or "",
            layer["digest"][:_ID_CHARACTERS],
        ]
        for layer in value["layers"]
    ]
    lines += ["", draw_table(["PATH", "SIZE", "CODEC", "CLASS", "DIGEST"], rows)] if rows else []
    lines += [f"warning: {warning}" for warning in value["warnings"]]
    return "\n".join(lines)


def _platform(platform: Mapping[str, str] | None) -> str:
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key)) if platform else ""


def _printable(text: str) -> str:
    """What a registry says must not move the cursor."""
    return text if text.isprintable() else shown(text)
