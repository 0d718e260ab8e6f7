"""From the first manifest to the artifact: the way through indexes, and the config where the kind needs it.

What has to be read besides the first manifest are *documents*: indexes, their entries, a config. They are kept like
manifests, as contents of the artifact, so that a volume whose artifact is here needs no request.
"""

from __future__ import annotations

import platform
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from modelcsi.artifact.artifact import Artifact, needs_config, recognise, wanted_config
from modelcsi.artifact.index import Platform, walk
from modelcsi.errors import CorruptContent, NotFound, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from modelcsi.store.content import ContentStore

_CACHED_BYTES = 2 << 20
"""Sum of the manifests whose artifacts are kept in memory: these take several times as much. Most have a few KiB."""
_MAX_DOCUMENTS_BYTES = 16 << 20
"""Of one artifact, all together: four times the largest manifest."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
_VARIANTS = {"armv7l": "v7", "armv6l": "v6"}


class Documents(Protocol):
    """Where documents come from; what they bring need not be verified yet."""

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The manifest or index that an entry of an index names."""

    def config(self, descriptor: Descriptor, *, is_needed: bool) -> bytes:
        """A manifest's config. Raises NotFound; where it is not needed, the manifest alone will do then."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """An artifact, and all that was read to know it."""

    artifact: Artifact
    manifest: bytes = field(repr=False)
    """The artifact's own."""
    documents: Mapping[Digest, bytes] = field(default_factory=dict, repr=False)
    """The others, by digest; without those whose descriptors hold them."""


class StoredDocuments:
    """What is here, whoever may see it: for a start."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Raises NotFound."""
        content = self._content.manifest(descriptor.digest)
        if content is None:
            raise NotFound(f"{descriptor.digest} is not on this node")
        return content

    def config(self, descriptor: Descriptor, *, is_needed: bool) -> bytes:  # noqa: ARG002
        """Raises NotFound."""
        return self.manifest(descriptor)


class Recogniser:
    """Makes artifacts of manifests and keeps those that were used last; any thread."""

    def __init__(self, limit_bytes: int = _CACHED_BYTES, node: Platform | None = None) -> None:
        """`limit_bytes` bounds the sum of the manifests; one of over an eighth of it is not kept. `node`: this one."""
        self.kept_bytes = 0
        self._limit_bytes = limit_bytes
        self._node = node or _this_node()
        self._lock = threading.Lock()  # guards _kept and kept_bytes
        self._kept: OrderedDict[Digest, tuple[Artifact, Descriptor | None, int]] = OrderedDict()

    def recognise(self, digest: Digest, content: bytes, documents: Documents) -> Recognised:
        """The artifact that a manifest or an index leads to, on this node.

        Raises CorruptContent, UnsupportedArtifact, and what `documents` raises.
        """
        if not digest.matches(content):
            raise CorruptContent(f"the manifest {digest} has other bytes")
        reading = _Reading(documents)
        again = self._made_again(digest, content, reading)
        if again is not None:
            return again
        parsed = parse_manifest(content)
        if isinstance(parsed, Index):
            digest, content, parsed = self._follow(digest, content, parsed, reading)
            again = self._made_again(digest, content, reading)
            if again is not None:
                return again
        config = wanted_config(parsed)
        told = None if config is None else reading.config(config, is_needed=needs_config(parsed))
        artifact = recognise(parsed, digest, told)
        if len(content) <= self._limit_bytes // 8 and (config is None or told is not None):
            self._keep(artifact, config, len(content))
        return Recognised(artifact, content, reading.found)

    def _follow(
        self, digest: Digest, content: bytes, index: Index, reading: _Reading
    ) -> tuple[Digest, bytes, Manifest]:
        reading.found[digest] = content
        try:
            *_, entry = walk(index, self._node, reading.manifest)
        except UnsupportedArtifact as error:
            raise UnsupportedArtifact(f"{digest}: {error.message}", hint=error.hint) from error
        parsed = reading.manifest(entry)
        assert isinstance(parsed, Manifest), "that is where the way ends"
        return entry.digest, reading.take(entry), parsed

    def _made_again(self, digest: Digest, content: bytes, reading: _Reading) -> Recognised | None:
        """What is kept. The config is read again, too: another repository with the same manifest need not have it."""
        artifact, config = self._find(digest) or (None, None)
        if artifact is None or (config is not None and reading.config(config, is_needed=False) is None):
            return None
        return Recognised(artifact, content, reading.found)

    def _find(self, digest: Digest) -> tuple[Artifact, Descriptor | None] | None:
        with self._lock:
            if digest not in self._kept:
                return None
            self._kept.move_to_end(digest)
            return self._kept[digest][:2]

    def _keep(self, artifact: Artifact, config: Descriptor | None, size_bytes: int) -> None:
        with self._lock:
            if artifact.digest in self._kept:
                return
            self._kept[artifact.digest] = (artifact, config, size_bytes)
            self.kept_bytes += size_bytes
            while self.kept_bytes > self._limit_bytes:
                _, (*_, freed_bytes) = self._kept.popitem(last=False)
                self.kept_bytes -= freed_bytes


class _Reading:
    """Reads documents, each once, and verifies them."""

    def __init__(self, documents: Documents) -> None:
        self.found: dict[Digest, bytes] = {}
        self._documents = documents
        self._parsed: dict[Digest, tuple[bytes, Manifest | Index]] = {}
        self._read_bytes = 0

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        """An entry of an index."""
        if descriptor.digest not in self._parsed:
            content = self._read(descriptor, self._documents.manifest, "manifest")
            self._parsed[descriptor.digest] = (content, parse_manifest(content, descriptor.media_type))
        return self._parsed[descriptor.digest][1]

    def config(self, descriptor: Descriptor, *, is_needed: bool) -> bytes | None:
        """A config; None for one that is not found, and need not be."""
        try:
            return self._read(descriptor, partial(self._documents.config, is_needed=is_needed), "config")
        except NotFound:
            if is_needed:
                raise
            return None

    def take(self, descriptor: Descriptor) -> bytes:
        """The bytes of an entry that was read, which is a document no longer, but the artifact's manifest."""
        self.found.pop(descriptor.digest, None)
        return self._parsed[descriptor.digest][0]

    def _read(self, descriptor: Descriptor, read: Callable[[Descriptor], bytes], what: str) -> bytes:
        if descriptor.data is not None:
            return descriptor.data
        self._read_bytes += descriptor.size
        if descriptor.size > MAX_MANIFEST_BYTES or self._read_bytes > _MAX_DOCUMENTS_BYTES:
            raise UnsupportedArtifact(
                f"the {what} {descriptor.digest} has {descriptor.size} bytes: too many, alone or with the others of the index"
            )
        content = b"" if descriptor.size == 0 else read(descriptor)
        if len(content) != descriptor.size or not descriptor.digest.matches(content):
            raise CorruptContent(
                f"the {what} {descriptor.digest} has {len(content)} bytes, or others than promised; {descriptor.size} were"
            )
        self.found[descriptor.digest] = content
        return content


def _this_node() -> Platform:
    machine = platform.machine()
    return Platform("linux", _ARCHITECTURES.get(machine, machine), _VARIANTS.get(machine, ""))
