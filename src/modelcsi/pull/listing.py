"""The files of an artifact without pulling it: those that the manifest tells, and those of tars that are read for it.

A tar is read as it is unpacked, with the same rules, but nothing is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelcsi.artifact.annotations import parse_file_metadata
from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.image_tree import image_reading, settled
from modelcsi.artifact.layer import Layer, is_tar_head, sniff_codec
from modelcsi.artifact.members import AS_TAR, Member, MemberType, Reading
from modelcsi.artifact.selection import Selection, idle_patterns
from modelcsi.artifact.tar import Start, TarParser
from modelcsi.artifact.tree import EntryType, FileEntry, build_tree, wanted_layers
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.decode import decode
from modelcsi.pull.filling import is_told
from modelcsi.pull.unpack import is_bomb, member_filter, peek, whole_file
from modelcsi.registry.client import Repository

_READ_BYTES = 1 << 20
_SNIFF_BYTES = 512


@dataclass(frozen=True, slots=True)
class Listing:
    """What is known of an artifact's files."""

    artifact: Artifact
    members: dict[Digest, tuple[Member, ...]]
    unread: frozenset[Digest]
    """Tars whose files are not known: reading them would take more bytes than allowed."""

    def files(self, selection: Selection) -> tuple[FileEntry, ...]:
        """The files and links that `selection` shows, with the paths that it shows. Raises UnsupportedArtifact."""
        known = tuple(layer for layer in self.artifact.layers if layer.digest not in self.unread)
        if not known or (self.artifact.overlay and self.unread):  # any layer may hide what another one has
            return ()
        members = {digest: _as_kept(digest, found) for digest, found in self.members.items()}
        tree = build_tree(replace(self.artifact, layers=known), members, selection)
        return tuple(entry for entry in tree.entries if entry.type is not EntryType.DIRECTORY)

    def choice(self, selection: Selection) -> Choice:
        """What `selection` means here."""
        layers = [layer for layer in wanted_layers(self.artifact, selection) if not is_told(layer)]
        base = _base(self.artifact, selection)
        paths: list[str] = []
        files: tuple[FileEntry, ...] = ()
        problem = ""
        try:
            paths = [entry.path for entry in self.files(base)]
            files = self.files(selection)
        except UnsupportedArtifact as error:
            if not any(layer.digest in self.unread for layer in layers):  # what is not known may hold what is wanted
                problem = str(error)
        root = "" if base.root else selection.root
        wanted = frozenset(f"{root}/{entry.path}" if root else entry.path for entry in files)
        return Choice(
            wanted,
            sum(entry.size for entry in files),
            frozenset(layer.digest for layer in layers),
            sum(layer.size for layer in layers),
            {} if self.unread or not paths else idle_patterns(selection, paths),
            problem,
        )


def _as_kept(digest: Digest, members: tuple[Member, ...]) -> tuple[Member, ...]:
    """As a pull keeps them where a link of the tar is wanted: with the file that it names, wanted or not."""
    if not any(member.type is MemberType.HARDLINK for member in members):
        return members
    return tuple(
        replace(member, sha256=member.sha256 or f"{digest}:{number}") if member.type is MemberType.FILE else member
        for number, member in enumerate(members)
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """What a selection leaves, as far as the files are known."""

    paths: frozenset[str]
    """As `Listing.files` lists them without the selection."""
    size_bytes: int
    layers: frozenset[Digest]
    """To be downloaded."""
    download_bytes: int
    idle_patterns: dict[str, list[str]]
    problem: str
    """Why it cannot be mounted; empty if it can."""


def list_artifact(
    artifact: Artifact, repository: Repository, limit_bytes: int | None, selection: Selection | None = None
) -> Listing:
    """Read the tars of an artifact, the smallest first, as long as that takes at most `limit_bytes`; None: all of them.

    Of an image, what concerns the directory that `selection` shows is known then. Raises what reading them raises.
    """
    if artifact.overlay:
        return _list_image(artifact, repository, limit_bytes, selection or Selection())
    members: dict[Digest, tuple[Member, ...]] = {}
    unread: set[Digest] = set()
    left = limit_bytes
    for layer in sorted(artifact.layers, key=lambda layer: layer.size):
        if not layer.codec.is_tar:
            if layer.codec.is_packed_file and (size := parse_file_metadata(layer.descriptor).size) is not None:
                members[layer.digest] = (whole_file(size, 0, 0),)
            continue
        if layer.digest in members:
            continue
        told = _told_member(layer)
        if told is not None:
            members[layer.digest] = (told,)
        elif left is None or layer.size <= left:
            left = None if left is None else left - layer.size
            found = _read_members(layer, repository)
            if found is not None:
                members[layer.digest] = found
        else:
            unread.add(layer.digest)
    return Listing(artifact, members, frozenset(unread))


def _list_image(artifact: Artifact, repository: Repository, limit_bytes: int | None, selection: Selection) -> Listing:
    layers = {layer.digest: layer for layer in artifact.layers}
    members: dict[Digest, tuple[Member, ...]] = {}
    known: Reading | None = None
    if limit_bytes is not None and sum(layer.size for layer in layers.values()) > limit_bytes:
        return Listing(artifact, {}, frozenset(layers))

    def read(asked: Selection) -> dict[Digest, tuple[Member, ...]]:
        nonlocal known
        if known is None or not known.covers(image_reading(asked)):
            known = image_reading(asked) if known is None else known.joined(image_reading(asked))
            for layer in layers.values():
                members[layer.digest] = _read_members(layer, repository, known) or ()
        return members

    settled(artifact.layers, selection, read)
    return Listing(artifact, members, frozenset())


def base_files(listing: Listing, selection: Selection) -> tuple[FileEntry, ...]:
    """All files, with the paths that patterns are held against. Raises UnsupportedArtifact."""
    return listing.files(_base(listing.artifact, selection))


def _base(artifact: Artifact, selection: Selection) -> Selection:
    """What of an image is shown depends on subPath, and patterns are on paths of what is shown."""
    return Selection(sub_path=selection.sub_path) if artifact.overlay else Selection()


def _told_member(layer: Layer) -> Member | None:
    """The one file of a tar whose annotations leave no doubt, and tell its size."""
    metadata = parse_file_metadata(layer.descriptor)
    path = layer.sole_member_path
    if not layer.is_one_file or path is None or metadata.size is None or layer.undecided:
        return None
    return Member(path, MemberType.FILE, metadata.size, metadata.mode or 0, metadata.mtime_ns or 0)


def _read_members(layer: Layer, repository: Repository, reading: Reading = AS_TAR) -> tuple[Member, ...] | None:
    """The members of a tar; None when an undecided layer is a file."""
    head, pieces = peek(_pieces(layer, repository))
    codec = sniff_codec(layer.codec, head)
    decoded = decode(codec.compression, pieces, layer.where)
    first, decoded = peek(decoded)
    if layer.undecided and not is_tar_head(first[:_SNIFF_BYTES]):
        return None
    parser, members, unpacked = TarParser(layer.where, member_filter(reading)), list[Member](), 0
    for data in decoded:
        unpacked += len(data)
        if is_bomb(unpacked, layer.size):
            raise UnsupportedArtifact(f"{layer.where} unpacks to over {unpacked} bytes from {layer.size}")
        members += [event.member for event in parser.feed(memoryview(data)) if isinstance(event, Start)]
    parser.finish()
    if layer.undecided and not all(layer.admits(member.path) for member in members):
        return None
    return tuple(members)


def _pieces(layer: Layer, repository: Repository) -> Iterator[bytes]:
    """The verified bytes of a layer."""
    if is_told(layer):
        yield layer.descriptor.data or b""
        return
    digest = hashlib.new(layer.digest.algorithm)
    with repository.open_blob(layer.descriptor) as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
            yield piece
    if digest.hexdigest() != layer.digest.hex:
        raise CorruptContent(f"{layer.where} has other bytes than its digest says")
