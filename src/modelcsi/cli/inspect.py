"""`modelcsi inspect`: what a reference means, and what a choice of its files would download.

Without fetching a layer, but for small tars, whose members no manifest names.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.facts import model_facts, producer_of
from modelcsi.artifact.layer import Codec, Layer
from modelcsi.artifact.paths import shown
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import FileEntry
from modelcsi.cli.advice import advice
from modelcsi.cli.build import registry_of, settings_of_flags
from modelcsi.cli.selection import selection_of
from modelcsi.cli.terminal import draw_table
from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, Forbidden, ModelCsiError, NotFound, Unauthenticated, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import MAX_CONFIG_BYTES, Index, Manifest, parse_json_object, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pack.classify import class_of_media_type
from modelcsi.pull.documents import Recognised, Recogniser
from modelcsi.pull.listing import Choice, Listing, base_files, list_artifact
from modelcsi.pull.resolve import refuse_referrers
from modelcsi.pull.smallblob import read_small_blob
from modelcsi.quantities import format_size
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Repository, ResolvedManifest

_RESOLVE_SECONDS = 60.0
_EMPTY_CONFIG_BYTES = 2
"""`{}`: what AIKit and ORAS write."""
_ID_CHARACTERS = 19
_LISTING_BYTES = 8 << 20
"""Of tars that are read to list their files: what a person does not wait for."""


def run_inspect(options: argparse.Namespace) -> int:
    """Print what the manifest, the config and the files of a reference are."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    reference = Reference.parse(options.reference)
    selection = selection_of(options)
    repository, resolved = _resolve(options, reference)
    top = parse_manifest(resolved.content, resolved.media_type)
    value: dict[str, Any] = {
        "reference": str(reference),
        "digest": str(resolved.digest),
        "media_type": top.media_type,
        "artifact_type": top.artifact_type,
    }
    recognised, problem = _recognise(reference, resolved, repository)
    if isinstance(top, Index):
        value |= {"kind": "index", "manifests": [_describe_entry(entry) for entry in top.manifests]}
        value["child"] = None if recognised is None else str(recognised.artifact.digest)
    manifest = parse_manifest(recognised.manifest) if recognised is not None else top
    if isinstance(manifest, Manifest):
        value |= _describe(manifest, recognised.artifact if recognised else None, repository)
    value |= {"files": [], "files_complete": False, "unread_layers": [], "selection": None, "warnings": []}
    if recognised is not None:
        try:
            limit = None if options.files else _LISTING_BYTES
            listing = list_artifact(recognised.artifact, repository, limit, selection)
            described, problem = _describe_files(listing, selection)
            value |= described
        except UnsupportedArtifact as error:
            problem = str(error)
            value["warnings"] = [*recognised.artifact.warnings, f"cannot be mounted: {problem}"]
    else:
        value["warnings"] = [f"cannot be mounted: {problem}"]
    value |= {"mountable": not problem, "reason": problem or None}
    print(json.dumps(value, indent=2) if options.json else _text(value, is_chosen=selection != Selection()))
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


class _Documents:
    """What leads from an index to an artifact, from the registry."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._repository.resolve(str(descriptor.digest), Deadline.after(_RESOLVE_SECONDS)).content

    def config(self, descriptor: Descriptor, *, is_needed: bool) -> bytes:  # noqa: ARG002
        return read_small_blob(self._repository, descriptor, Deadline.after(_RESOLVE_SECONDS))


def _recognise(
    reference: Reference, resolved: ResolvedManifest, repository: Repository
) -> tuple[Recognised | None, str]:
    """What cannot be mounted is still shown: that is when people look."""
    try:
        refuse_referrers(reference, resolved.content)
        return Recogniser().recognise(resolved.digest, resolved.content, _Documents(repository)), ""
    except (UnsupportedArtifact, NotFound, CorruptContent) as error:  # of a document that leads to the artifact
        return None, advice(str(error))


def _describe_entry(entry: Descriptor) -> dict[str, Any]:
    return {
        "digest": str(entry.digest),
        "media_type": entry.media_type,
        "artifact_type": entry.artifact_type,
        "platform": None if entry.platform is None else dict(entry.platform),
        "size_bytes": entry.size,
        "annotations": dict(entry.annotations),
    }


def _describe(manifest: Manifest, artifact: Artifact | None, repository: Repository) -> dict[str, Any]:
    """What manifest and config say."""
    config = _config(manifest.config, repository)
    sizes = {layer.digest: layer.size for layer in manifest.layers}
    layers: list[tuple[Descriptor, Layer | None]] = [(descriptor, None) for descriptor in manifest.layers]
    if artifact is not None:
        layers = [(layer.descriptor, layer) for layer in artifact.layers]
    return {
        "kind": artifact.kind if artifact else None,
        "producer": producer_of(manifest, config),
        "size_bytes": sum(sizes.values()),
        "model": model_facts(config, manifest.annotations),
        "config": None if manifest.config is None else str(manifest.config.digest),
        "layers": [_describe_layer(descriptor, layer) for descriptor, layer in layers],
    }


def _describe_layer(descriptor: Descriptor, layer: Layer | None) -> dict[str, Any]:
    return {
        "path": None if layer is None else layer.path or layer.sole_member_path,
        "class": _class(descriptor, layer),
        "codec": None if layer is None else _codec_text(layer.codec),
        "size_bytes": descriptor.size,
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
    }


def _class(descriptor: Descriptor, layer: Layer | None) -> str | None:
    file_class = class_of_media_type(descriptor.media_type)
    return file_class.value if file_class else "weight" if layer is not None and layer.is_weight else None


def _codec_text(codec: Codec) -> str:
    return ("tar" if codec.is_tar else "raw") + (f"+{codec.compression.value}" if codec.compression.value else "")


def _config(config: Descriptor | None, repository: Repository) -> Mapping[str, Any]:
    """The config, if it is there and can be understood; it is information, so one that cannot be says nothing."""
    if config is None or not _EMPTY_CONFIG_BYTES < config.size <= MAX_CONFIG_BYTES:
        return {}
    with suppress(UnsupportedArtifact, NotFound, CorruptContent):
        content = config.data
        if content is None:
            content = read_small_blob(repository, config, Deadline.after(_RESOLVE_SECONDS))
        return parse_json_object(content, "the config", MAX_CONFIG_BYTES)
    return {}


def _describe_files(listing: Listing, selection: Selection) -> tuple[dict[str, Any], str]:
    """The files, what the selection makes of them, and why they cannot be mounted; empty if they can."""
    warnings, problem = list(listing.artifact.warnings), ""
    try:
        files = base_files(listing, selection)
    except UnsupportedArtifact as error:
        files, problem = (), str(error)
        warnings.append(f"cannot be mounted: {problem}")
    choice = listing.choice(selection)
    if choice.problem and not problem:
        problem = choice.problem
        warnings.append(f"cannot be mounted so: {problem}")
    by_digest = {layer.digest: layer for layer in listing.artifact.layers}
    described = {
        "files": [_describe_file(entry, choice, by_digest) for entry in files],
        "files_complete": not listing.unread,
        "unread_layers": sorted(map(str, listing.unread)),
        "selection": {
            "text": str(selection),
            "files": len(choice.paths),
            "size_bytes": choice.size_bytes,
            "download_bytes": choice.download_bytes,
            "layers": [str(digest) for digest in by_digest if digest in choice.layers],
            "unmatched_patterns": choice.idle_patterns,
        },
        "warnings": warnings,
    }
    return described, problem


def _describe_file(entry: FileEntry, choice: Choice, by_digest: Mapping[Digest, Layer]) -> dict[str, Any]:
    layer = None if entry.layer is None else by_digest[entry.layer]
    return {
        "path": entry.path,
        "type": entry.type.value,
        "size_bytes": entry.size,
        "class": None if layer is None else _class(layer.descriptor, layer),
        "codec": None if layer is None else _codec_text(layer.codec),
        "layer": None if layer is None else str(layer.digest),
        "target": entry.target or None,
        "wanted": entry.path in choice.paths,
    }


def _text(value: dict[str, Any], *, is_chosen: bool) -> str:
    lines = [f"{value['reference']}", f"  digest       {value['digest']}"]
    kind = value["kind"] or "not a model that can be mounted"
    lines.append(f"  kind         {kind} ({value['artifact_type'] or value['media_type']})")
    lines.append(f"  mountable    {'yes' if value['mountable'] else 'no'}")
    if "manifests" in value:
        lines += _index_lines(value)
    if "layers" in value:
        lines += [f"  producer     {_printable(value['producer'])}"] if value["producer"] else []
        lines.append(f"  size         {format_size(value['size_bytes'])} in {len(value['layers'])} layers")
        for name, fact in value["model"].items():
            lines.append(f"  {name:12s} {_printable(', '.join(fact) if isinstance(fact, list) else fact)}")
        lines += _file_lines(value, is_chosen=is_chosen) if value["files"] else _layer_lines(value)
        lines += _unread_lines(value)
    if value["selection"] is not None and is_chosen:
        lines += _selection_lines(value["selection"])
    return "\n".join([*lines, *(f"warning: {warning}" for warning in value["warnings"])])


def _index_lines(value: dict[str, Any]) -> list[str]:
    rows = [
        [
            entry["digest"],
            _platform(entry["platform"]),
            entry["artifact_type"] or entry["media_type"],
            "this one" if entry["digest"] == value["child"] else "",
        ]
        for entry in value["manifests"]
    ]
    table = draw_table(["DIGEST", "PLATFORM", "TYPE", "MOUNTED"], rows) if rows else "  no entries"
    return ["", table, *([""] if "layers" in value else [])]


def _file_lines(value: dict[str, Any], *, is_chosen: bool) -> list[str]:
    rows = [
        [
            _printable(file["path"]),
            format_size(file["size_bytes"]) if file["type"] == "file" else f"-> {_printable(file['target'])}",
            file["codec"] or "",
            file["class"] or "",
            (file["layer"] or "")[:_ID_CHARACTERS],
            *(["yes" if file["wanted"] else "no"] if is_chosen else []),
        ]
        for file in value["files"]
    ]
    titles = ["PATH", "SIZE", "CODEC", "CLASS", "DIGEST", *(["WANTED"] if is_chosen else [])]
    return ["", draw_table(titles, rows)]


def _unread_lines(value: dict[str, Any]) -> list[str]:
    if not value["unread_layers"]:
        return []
    sizes = {layer["digest"]: layer["size_bytes"] for layer in value["layers"]}
    size = format_size(sum(sizes[digest] for digest in value["unread_layers"]))
    return [f"tars whose files are not listed: {len(value['unread_layers'])}, of {size} in all; --files reads them"]


def _layer_lines(value: dict[str, Any]) -> list[str]:
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
    return ["", draw_table(["PATH", "SIZE", "CODEC", "CLASS", "DIGEST"], rows)] if rows else []


def _selection_lines(told: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"{told['text']}",
        f"  shows        {told['files']} files, {format_size(told['size_bytes'])}",
        f"  downloads    {format_size(told['download_bytes'])} in {len(told['layers'])} layers",
    ]
    for name, patterns in told["unmatched_patterns"].items():
        lines.append(f"  unmatched    {name} {_printable(', '.join(patterns))}")
    return lines


def _platform(platform: Mapping[str, str] | None) -> str:
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key)) if platform else ""


def _printable(text: str) -> str:
    """What a registry says must not move the cursor."""
    return text if text.isprintable() else shown(text)
