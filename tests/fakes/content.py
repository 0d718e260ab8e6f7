"""What a fake registry holds: blobs, manifests and tags per repository."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_MANIFEST

MODEL_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
RAW_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
FILE_PATH = "org.cncf.model.filepath"


class Content:
    """Several registries may serve one content: a registry and the object store that it redirects to."""

    def __init__(self) -> None:
        self.blobs: dict[str, dict[str, bytes]] = defaultdict(dict)
        """Repository -> digest -> bytes."""
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = defaultdict(dict)
        """Repository -> tag or digest -> media type and bytes."""

    def add_blob(self, repository: str, content: bytes, media_type: str = RAW_WEIGHT) -> Descriptor:
        """Store a blob; the descriptor is what a manifest says about it."""
        digest = Digest.of(content)
        self.blobs[repository][str(digest)] = content
        return Descriptor(media_type, digest, len(content))

    def add_manifest(
        self, repository: str, manifest: bytes | Mapping[str, object], tag: str = "", media_type: str = OCI_MANIFEST
    ) -> Digest:
        """Store a manifest under its digest, and under a tag."""
        content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        digest = Digest.of(content)
        self.manifests[repository][str(digest)] = (media_type, content)
        if tag:
            self.tag(repository, tag, digest)
        return digest

    def tag(self, repository: str, tag: str, digest: Digest) -> None:
        """Let a tag name a manifest; it may have named another."""
        self.manifests[repository][tag] = self.manifests[repository][str(digest)]

    def push(self, repository: str, tag: str, files: Mapping[str, bytes]) -> Digest:
        """Store a ModelPack artifact with a raw layer for each file (path -> content)."""
        layers = [
            _json(self.add_blob(repository, content)) | {"annotations": {FILE_PATH: path}}
            for path, content in files.items()
        ]
        diff_ids = [layer["digest"] for layer in layers]
        config = {"descriptor": {"name": repository}, "config": {}, "modelfs": {"type": "layers", "diffIds": diff_ids}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": MODEL_ARTIFACT,
            "config": _json(self.add_blob(repository, json.dumps(config).encode(), MODEL_CONFIG)),
            "layers": layers,
        }
        return self.add_manifest(repository, manifest, tag)


def _json(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
