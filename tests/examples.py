"""Reads tests/artifacts: real artifacts, and the tree that each must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.index import Platform
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Index, parse_manifest
from modelcsi.pull.documents import Recogniser
from tests.fakes.content import Content

_ROOT = Path(__file__).parent / "artifacts"

EXPECTED: dict[str, dict[str, Any]] = json.loads((_ROOT / "expected.json").read_text())
NAMES = tuple(EXPECTED)
MOUNTABLE = tuple(name for name in NAMES if "tree" in EXPECTED[name])
INDEXES = tuple(name for name in NAMES if "child" in EXPECTED[name])


class Example:
    """The documents of one example, from its files: what `pull` reads them through."""

    def manifest(self, descriptor: Descriptor) -> bytes:
        """An entry of an index."""
        return blob(descriptor.digest)

    def config(self, descriptor: Descriptor, *, is_needed: bool) -> bytes:
        """A manifest's config."""
        return blob(descriptor.digest)


def recognised(name: str) -> Artifact:
    """The example, recognised; an index on a node of amd64."""
    content = manifest_bytes(name)
    recogniser = Recogniser(node=Platform("linux", "amd64"))
    return recogniser.recognise(Digest.of(content), content, Example()).artifact


def manifest_bytes(name: str) -> bytes:
    """The manifest as a registry serves it."""
    return (_ROOT / name / "manifest.json").read_bytes()


def blob(digest: Digest) -> bytes:
    """A config or layer that one of the manifests names."""
    return (_ROOT / "blobs" / digest.algorithm / digest.hex).read_bytes()


def serve(content: Content, repository: str, name: str) -> None:
    """Put an example into a fake registry, under its name as the tag."""
    _serve(content, repository, manifest_bytes(name), name)


def _serve(content: Content, repository: str, manifest: bytes, tag: str = "") -> None:
    """What a manifest names comes before it: a real registry checks that."""
    parsed = parse_manifest(manifest)
    if isinstance(parsed, Index):
        for entry in parsed.manifests:
            _serve(content, repository, blob(entry.digest))
    else:
        for descriptor in filter(None, (parsed.config, *parsed.layers)):
            content.blobs[repository][str(descriptor.digest)] = blob(descriptor.digest)
    content.add_manifest(repository, manifest, tag, parsed.media_type)
