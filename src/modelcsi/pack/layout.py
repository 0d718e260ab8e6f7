"""OCI image layouts on disk (image-spec, image-layout.md): written whole, or not at all; read with checks.

A layout is built under a temporary name beside its final one and renamed when it is complete. Nothing is synced to the disk:
what a power cut takes is packed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.errors import CorruptContent, InvalidRequest, StoreFull, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, Index, Manifest, parse_json_object, parse_manifest
from modelcsi.oci.reference import Reference

_REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT_FILE = "oci-layout"
_INDEX_FILE = "index.json"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class LayoutWriter:
    """Collects blobs, then names the manifest; one thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    def add(self, media_type: str, pieces: Iterable[bytes], annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Write a blob; the same bytes twice are one file."""
        new = self._blobs / ".new"
        hasher = hashlib.sha256()
        size = 0
        with new.open("wb", buffering=1 << 20) as file:
            for piece in pieces:
                hasher.update(piece)
                size += len(piece)
                file.write(piece)
        digest = Digest("sha256", hasher.hexdigest())
        new.rename(self._blobs / digest.hex)
        return Descriptor(media_type, digest, size, dict(annotations or {}))

    def discard(self, blob: Descriptor) -> None:
        """Remove a blob that nothing else is equal to."""
        (self._blobs / blob.digest.hex).unlink()

    def finish(self, manifest: Descriptor, artifact_type: str, tag: str | None) -> None:
        """Write what makes the directory a layout: its one manifest, under `tag`."""
        entry = descriptor_json(manifest) | {"artifactType": artifact_type}
        if tag:
            entry["annotations"] = {_REF_NAME: tag}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        (self._root / _LAYOUT_FILE).write_bytes(to_json({"imageLayoutVersion": "1.0.0"}))
        (self._root / _INDEX_FILE).write_bytes(to_json(index))


@contextlib.contextmanager
def new_layout(output: Path) -> Iterator[LayoutWriter]:
    """A writer whose result is `output` when the block ends well, and nothing when it does not.

    A layout of one artifact that is there already is replaced. Raises InvalidRequest when something else is, or when the
    place cannot be written; StoreFull.
    """
    check_output(output)
    with _write_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        try:
            built = work / "new"
            yield LayoutWriter(built)
            _replace(output, built, work / "old")
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _replace(output: Path, new: Path, old: Path) -> None:
    if output.exists():
        output.rename(old)
    try:
        new.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise


def check_output(output: Path) -> None:
    """Refuse to replace anything but an empty directory or a layout of at most one artifact; nothing is changed yet."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir() and not output.is_symlink():
        if not any(output.iterdir()):
            return
        if (output / _LAYOUT_FILE).is_file() and len(_read_index(output).manifests) <= 1:
            return
    raise InvalidRequest(
        f"{output} exists and is not the layout of one artifact", hint="name another one with --output"
    )


@dataclass(frozen=True, slots=True)
class PackedArtifact:
    """One manifest of a layout, and where its blobs are."""

    root: Path
    digest: Digest
    manifest: Manifest = field(repr=False)
    content: bytes = field(repr=False)
    """The manifest's bytes: they are what the digest is of, and are never made again from the values."""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Layers and config, each digest once."""
        config = () if self.manifest.config is None else (self.manifest.config,)
        unique = {descriptor.digest: descriptor for descriptor in (*self.manifest.layers, *config)}
        return tuple(unique.values())

    def blob(self, digest: Digest) -> Path:
        """The file of a blob."""
        return _blob(self.root, digest)


def open_layout(root: Path, reference: Reference) -> PackedArtifact:
    """The artifact in a layout that `reference` means: the only one, else that of its digest or its tag.

    Raises InvalidRequest when there is none, CorruptContent when blobs are missing or damaged, UnsupportedArtifact.
    """
    if not (root / _LAYOUT_FILE).is_file():
        raise InvalidRequest(f"{root} is not an OCI image layout", hint="push takes what `modelcsi pack` wrote")
    entry = _chosen(root, _read_index(root), reference)
    content = _read_blob(root, entry)
    manifest = parse_manifest(content, entry.media_type)
    if isinstance(manifest, Index):
        raise UnsupportedArtifact(f"{entry.digest} in {root} is an index; only a single artifact can be pushed")
    packed = PackedArtifact(root, entry.digest, manifest, content)
    for descriptor in packed.blobs:
        path = packed.blob(descriptor.digest)
        if not path.is_file() or path.stat().st_size != descriptor.size:
            raise CorruptContent(
                f"{path} is absent or has not the {descriptor.size} bytes of its descriptor", hint="pack it again"
            )
    return packed


def descriptor_json(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor as it is written."""
    value: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.annotations:
        value["annotations"] = dict(sorted(descriptor.annotations.items()))
    return value


def to_json(value: object) -> bytes:
    """Compact, in the order of the keys: equal values give equal bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _chosen(root: Path, index: Index, reference: Reference) -> Descriptor:
    entries = list(index.manifests)
    if reference.digest:
        entries = [entry for entry in entries if entry.digest == reference.digest]
        if not entries:
            raise InvalidRequest(f"{root} does not hold {reference.digest}", hint="name it by a tag, or pack it again")
    elif len(entries) > 1:
        entries = [entry for entry in entries if entry.annotations.get(_REF_NAME) in {reference.tag, str(reference)}]
    if len({entry.digest for entry in entries}) != 1:
        tags = ", ".join(sorted(entry.annotations.get(_REF_NAME, "?") for entry in index.manifests[:10])) or "nothing"
        raise InvalidRequest(f"{root} holds {tags}: which of them {reference} is cannot be told")
    return entries[0]


def _read_index(root: Path) -> Index:
    try:
        content = (root / _INDEX_FILE).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{root}/{_INDEX_FILE} cannot be read: {error.strerror}") from error
    parse_json_object(content, f"{root}/{_INDEX_FILE}", MAX_MANIFEST_BYTES)
    index = parse_manifest(content, OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidRequest(f"{root}/{_INDEX_FILE} is not the index of a layout")
    return index


def _read_blob(root: Path, entry: Descriptor) -> bytes:
    path = _blob(root, entry.digest)
    try:
        content = path.read_bytes() if entry.size <= MAX_MANIFEST_BYTES else b""
    except OSError as error:
        raise CorruptContent(f"{path} cannot be read: {error.strerror}", hint="pack it again") from error
    if not entry.digest.matches(content):
        raise CorruptContent(f"{path} has other bytes than its name says", hint="pack it again")
    return content


def _blob(root: Path, digest: Digest) -> Path:
    return root / "blobs" / digest.algorithm / digest.hex


@contextlib.contextmanager
def _write_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreFull(
                f"no space left while writing {output}", hint="free some, or name another place with --output"
            ) from error
        raise InvalidRequest(
            f"{output} cannot be written: {error.strerror or error}", hint="name another place with --output"
        ) from error
