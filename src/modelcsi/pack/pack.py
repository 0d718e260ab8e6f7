"""From a directory to a ModelPack artifact: one layer per file, in modctl's order, in an OCI image layout.

The same files, modes and name give the same digest, whoever packs them, wherever and whenever: nothing of the clock, the owner
or the directory's own path goes in. Nor do the files' times, unless that is wanted: a model's are those of a download or of a
checkout, and in a tar they would make other blobs of the same weights, which every node would pull again. Without them every
file is of SOURCE_DATE_EPOCH (reproducible-builds.org), or of 1970, as AIKit and KitOps write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from modelcsi.artifact.annotations import PRODUCER, PRODUCER_KEY
from modelcsi.artifact.layer import TAR, Codec, Compression
from modelcsi.artifact.paths import base_name
from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import MAX_MANIFEST_BYTES, OCI_MANIFEST
from modelcsi.oci.reference import Reference
from modelcsi.pack.classify import FileClass, classify
from modelcsi.pack.encode import LayerStream
from modelcsi.pack.facts import ModelFacts, read_facts
from modelcsi.pack.layout import LayoutWriter, descriptor_json, new_layout, to_json
from modelcsi.pack.walk import SourceFile, Walked
from modelcsi.pull.unpack import is_bomb

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_FILEPATH = "org.cncf.model.filepath"
_METADATA = "org.cncf.model.file.metadata+json"
_TITLE = "org.opencontainers.image.title"
_CREATED = "org.opencontainers.image.created"
_MAX_TAR_FRAME_BYTES = 16 << 10
"""What a tar adds to a file, at most: headers, long names, padding."""
_CLASS_ORDER = {file_class: number for number, file_class in enumerate(FileClass)}


@dataclass(frozen=True, slots=True)
class PackSettings:
    """How to pack."""

    reference: Reference
    """Its tag names the artifact in the layout, the last part of its repository is the model's name."""
    codec: Codec
    """Of every layer; one that shrinks so much that it would be taken for an attack is a plain tar."""
    source_date_epoch: int | None = None
    """Seconds since 1970: when the model is said to be made, and the latest time of a file. None: nobody says."""
    keeps_times: bool = False
    """Files keep their own times."""

    def mtime_seconds(self, file: SourceFile) -> int:
        """The time that a file has in the artifact."""
        if not self.keeps_times:
            return self.source_date_epoch or 0
        own = file.mtime_seconds
        return own if self.source_date_epoch is None else min(own, self.source_date_epoch)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One file in the artifact."""

    path: str
    file_class: FileClass
    descriptor: Descriptor
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class Packed:
    """What was written."""

    digest: Digest
    layers: tuple[PackedLayer, ...]
    facts: ModelFacts


def pack(
    walked: Walked, output: Path, settings: PackSettings, on_read: Callable[[int], None] = lambda _: None
) -> Packed:
    """Pack the files into a new layout at `output`; `on_read` is told of each piece of a file that was read.

    Returning normally means that `output` is complete. Raises InvalidRequest (the reference, the output, a file that changes
    or cannot be read), UnsupportedArtifact (too many files), StoreFull.
    """
    if settings.reference.digest:
        raise InvalidRequest(
            f"{settings.reference} has a digest, which only packing tells", hint="write it as registry/repository:tag"
        )
    facts = read_facts(walked.files)
    with new_layout(output) as layout:
        layers = tuple(
            _add_layer(layout, file, file_class, settings, on_read) for file_class, file in _in_order(walked.files)
        )
        config = layout.add(_CONFIG_TYPE, [_config(layers, facts, settings)])
        content = _manifest(config, layers, settings)
        if len(content) > MAX_MANIFEST_BYTES:
            raise UnsupportedArtifact(
                f"the manifest of {len(layers)} files has {len(content)} bytes; {MAX_MANIFEST_BYTES} are the limit",
                hint="pack fewer files; a dataset of many small ones belongs into an archive",
            )
        manifest = layout.add(OCI_MANIFEST, [content])
        layout.finish(manifest, ARTIFACT_TYPE, settings.reference.tag)
    return Packed(manifest.digest, layers, facts)


def _in_order(files: tuple[SourceFile, ...]) -> list[tuple[FileClass, SourceFile]]:
    classed = [(classify(file.path, file.size), file) for file in files]
    return sorted(classed, key=lambda item: (_CLASS_ORDER[item[0]], item[1].path))


def _add_layer(
    layout: LayoutWriter,
    file: SourceFile,
    file_class: FileClass,
    settings: PackSettings,
    on_read: Callable[[int], None],
) -> PackedLayer:
    layer = _encoded(layout, file, file_class, settings, on_read)
    is_compressed = settings.codec.compression is not Compression.NONE
    if is_compressed and is_bomb(file.size + _MAX_TAR_FRAME_BYTES, layer.descriptor.size):
        # Weights of zeros: the driver would refuse them as a decompression bomb.
        layout.discard(layer.descriptor)
        return _encoded(layout, file, file_class, replace(settings, codec=TAR), lambda _: None)
    return layer


def _encoded(
    layout: LayoutWriter,
    file: SourceFile,
    file_class: FileClass,
    settings: PackSettings,
    on_read: Callable[[int], None],
) -> PackedLayer:
    mtime_seconds = settings.mtime_seconds(file)
    stream = LayerStream(file, settings.codec, on_read, mtime_seconds=mtime_seconds)
    media_type = f"application/vnd.cncf.model.{file_class.value}.v1.{_suffix(settings.codec)}"
    descriptor = layout.add(media_type, stream, _annotations(file, mtime_seconds, settings.codec))
    return PackedLayer(file.path, file_class, descriptor, stream.diff_id)


def _suffix(codec: Codec) -> str:
    form = "tar" if codec.is_tar else "raw"
    return f"{form}+{codec.compression.value}" if codec.compression.value else form


def _annotations(file: SourceFile, mtime_seconds: int, codec: Codec) -> dict[str, str]:
    metadata = {
        "name": base_name(file.path),
        "mode": file.mode,
        "uid": 0,
        "gid": 0,
        "size": file.size,
        "mtime": _rfc3339(mtime_seconds),
        "typeflag": 0,
    }
    annotations = {_FILEPATH: file.path, _METADATA: json.dumps(metadata, separators=(",", ":"), ensure_ascii=False)}
    if not codec.is_tar:
        # What CRI-O, podman and oras name a file by. Not on tars: those tools would give the tar the file's name.
        annotations[_TITLE] = file.path
    return annotations


def _config(layers: tuple[PackedLayer, ...], facts: ModelFacts, settings: PackSettings) -> bytes:
    descriptor: dict[str, object] = {"name": base_name(settings.reference.repository)}
    if facts.family:
        descriptor["family"] = facts.family
    if facts.licenses:
        descriptor["licenses"] = list(facts.licenses)
    if settings.source_date_epoch is not None:
        descriptor["createdAt"] = _rfc3339(settings.source_date_epoch)
    diff_ids = [str(layer.diff_id) for layer in layers]
    return to_json(
        {
            "descriptor": descriptor,
            "modelfs": {"type": "layers", "diffIds": diff_ids},
            "config": facts.config(),
        }
    )


def _manifest(config: Descriptor, layers: tuple[PackedLayer, ...], settings: PackSettings) -> bytes:
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": descriptor_json(config),
        "layers": [descriptor_json(layer.descriptor) for layer in layers],
    }
    annotations = {PRODUCER_KEY: PRODUCER}
    if settings.source_date_epoch is not None:
        annotations[_CREATED] = _rfc3339(settings.source_date_epoch)
    manifest["annotations"] = annotations
    return to_json(manifest)


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
