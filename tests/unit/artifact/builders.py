"""Small artifacts for tests: manifests as a registry would serve them, and tars by the standard library."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from modelcsi.artifact.artifact import Artifact, recognise
from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tar import Data, End, Other, Start, TarParser
from modelcsi.artifact.tree import EntryType, FileEntry, FileTree, build_tree
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest, parse_manifest

MODELPACK = "application/vnd.cncf.model.manifest.v1+json"
RAW = "application/vnd.cncf.model.weight.v1.raw"
TAR = "application/vnd.cncf.model.weight.v1.tar"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"
FILEPATH = "org.cncf.model.filepath"
METADATA = "org.cncf.model.file.metadata+json"
TITLE = "org.opencontainers.image.title"
WHERE = "layer sha256:test"
_EVERYTHING = Selection()


def layer(
    media_type: str = RAW, content: bytes = b"content", /, *, artifact_type: str | None = None, **annotations: Any
) -> dict[str, Any]:
    """The descriptor of a layer with `content`; annotations by the short names `filepath`, `metadata`, `title`."""
    names = {"filepath": FILEPATH, "metadata": METADATA, "title": TITLE}
    value = descriptor(media_type, content)
    if annotations:
        value["annotations"] = {names.get(key, key): text for key, text in annotations.items()}
    if artifact_type:
        value["artifactType"] = artifact_type
    return value


def descriptor(media_type: str, content: bytes = b"{}") -> dict[str, Any]:
    """A descriptor of `content`."""
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def manifest(
    *layers: Mapping[str, Any],
    artifact_type: str | None = MODELPACK,
    config: str | None = "application/vnd.oci.empty.v1+json",
) -> Manifest:
    """A manifest with these layers."""
    document: dict[str, Any] = {"schemaVersion": 2, "layers": list(layers)}
    if artifact_type:
        document["artifactType"] = artifact_type
    if config:
        document["config"] = descriptor(config)
    parsed = parse_manifest(json.dumps(document).encode())
    assert isinstance(parsed, Manifest)
    return parsed


def artifact(*layers: Mapping[str, Any], artifact_type: str | None = MODELPACK) -> Artifact:
    """What a manifest with these layers is recognised as."""
    return recognise(manifest(*layers, artifact_type=artifact_type), Digest.of(b"manifest"))


def tar_info(name: str, content: bytes = b"", *, type: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """A member's header."""
    info = tarfile.TarInfo(name)
    info.type = type
    info.linkname = target
    info.size = len(content)
    info.mode = 0o644
    info.mtime = 1_700_000_000
    return info


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def files_tar(files: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar with these regular files."""
    return tar_of(*((tar_info(name, content), content) for name, content in files.items()), format=format)


def feed(content: bytes, cuts: Sequence[int] = ()) -> tuple[list[tuple[Member, bytes]], bytes]:
    """Members with their data, and the stream put together again from the events, for a stream cut at `cuts`.

    Checks the order of events: Start, then Data, then End.
    """
    parser = TarParser(WHERE)
    members: list[tuple[Member, bytes]] = []
    again = bytearray()
    current: Member | None = None
    data = bytearray()
    edges = [0, *sorted(cut for cut in cuts if cut <= len(content)), len(content)]
    for start, end in itertools.pairwise(edges):
        for event in parser.feed(memoryview(content)[start:end]):
            match event:
                case Start(member):
                    assert current is None
                    current = member
                    data.clear()
                case Data(view):
                    assert current is not None
                    assert len(view) > 0
                    data += view
                    again += view
                case End():
                    assert current is not None
                    members.append((current, bytes(data)))
                    current = None
                case Other(view):
                    assert current is None
                    assert len(view) > 0
                    again += view
    parser.finish()
    return members, bytes(again)


def members_of(content: bytes) -> list[Member]:
    """The members of a tar."""
    return [member for member, _ in feed(content)[0]]


def header(name: str, type: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = "") -> bytes:
    """One header block as GNU tar writes it."""
    info = tar_info(name, content, type=type, target=target)
    return info.tobuf(tarfile.GNU_FORMAT)[-512:]


def padded(content: bytes) -> bytes:
    """Content, filled up to whole blocks."""
    return content + bytes(-len(content) % 512)


def extended(type: bytes, body: bytes) -> bytes:
    """An extended header with its body."""
    return header("ext", type, body) + padded(body)


def pax(**records: str) -> bytes:
    """A pax header for the next member."""
    return extended(b"x", b"".join(record(key, value.encode()) for key, value in records.items()))


def record(key: str, value: bytes) -> bytes:
    """One pax record."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return str(length).encode() + rest


END = bytes(1024)
"""What ends a tar."""

SAMPLE = tar_of(
    (tar_info("d", type=tarfile.DIRTYPE), b""),
    (tar_info("d/" + "n" * 120, b"x" * 1000), b"x" * 1000),
    (tar_info("é.txt", b"y" * 512), b"y" * 512),
    (tar_info("d/l", type=tarfile.SYMTYPE, target="../é.txt"), b""),
    (tar_info("h", type=tarfile.LNKTYPE, target="é.txt"), b""),
    (tar_info("empty"), b""),
    format=tarfile.PAX_FORMAT,
)
"""A tar of each kind of member, with a long name and a name beyond ASCII."""


def file(path: str, content: str = "", size: int = 3, mode: int = 0o644) -> Member:
    """A regular member; equal contents are equal digests."""
    return Member(path, MemberType.FILE, size, mode, 5, sha256=content or path)


def directory(path: str) -> Member:
    """A directory member."""
    return Member(path, MemberType.DIRECTORY, 0, 0o700, 6)


def symlink(path: str, target: str) -> Member:
    """A symbolic link."""
    return Member(path, MemberType.SYMLINK, 0, 0o777, 7, target)


def hardlink(path: str, target: str) -> Member:
    """A hard link."""
    return Member(path, MemberType.HARDLINK, 0, 0o600, 8, target)


def tars(*listed: list[Member], **annotations: str) -> tuple[Artifact, dict[Digest, list[Member]]]:
    """A ModelPack artifact of tars with these members."""
    contents = [f"tar {number}".encode() for number in range(len(listed))]
    result = artifact(*(layer(TAR, content, **annotations) for content in contents))
    return result, dict(zip(map(Digest.of, contents), listed, strict=True))


def tree(*listed: list[Member], selection: Selection = _EVERYTHING, **annotations: str) -> FileTree:
    """The tree of such an artifact."""
    found, members = tars(*listed, **annotations)
    return build_tree(found, members, selection)


def paths(found: FileTree) -> list[str]:
    """The paths of a tree, directories with a slash."""
    return [entry.path + "/" * (entry.type is EntryType.DIRECTORY) for entry in found.entries]


def entry_at(found: FileTree, path: str) -> FileEntry:
    """The entry at a path."""
    return next(entry for entry in found.entries if entry.path == path)
