"""What a producer pushes, and what must be in its mount."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import ARTIFACT_MANIFEST, OCI_MANIFEST
from tests.fakes.content import Content

EMPTY = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Layer:
    """A layer: bytes, type, annotations, other fields of its descriptor."""

    content: bytes
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """An artifact, and what is in its mount: files, or a part of the text of the refusal."""

    producer: str
    version: str
    kind: str
    layers: tuple[Layer, ...]
    artifact_type: str = ""
    config_type: str = EMPTY
    config: bytes = b"{}"
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = OCI_MANIFEST
    files: Mapping[str, bytes] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    """Of the files whose modes the producer promises to keep."""
    refusal: str = ""

    @property
    def name(self) -> str:
        """As the table in the documentation has it."""
        return f"{self.producer}, {self.version}"

    def push(self, content: Content, repository: str, tag: str) -> Digest:
        """Put it into a fake registry."""
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.media_type != ARTIFACT_MANIFEST:
            document["config"] = _descriptor(content, repository, self.config, self.config_type)
        document["blobs" if self.media_type == ARTIFACT_MANIFEST else "layers"] = [
            _descriptor(content, repository, layer.content, layer.media_type)
            | ({"annotations": dict(layer.annotations)} if layer.annotations else {})
            | dict(layer.fields)
            for layer in self.layers
        ]
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return content.add_manifest(repository, document, tag, self.media_type)


def _descriptor(content: Content, repository: str, data: bytes, media_type: str) -> dict[str, Any]:
    found = content.add_blob(repository, data, media_type)
    return {"mediaType": media_type, "digest": str(found.digest), "size": found.size}
