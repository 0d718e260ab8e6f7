"""The tree of files that an artifact means, and which parts of which layers it needs.

Built from values alone: the manifest's layers and the recorded members of its tars. Everything that may conflict is decided
here, before anything is linked into place: the same path twice, a file where another layer has a directory, links that leave.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.links import check_links
from modelcsi.artifact.members import MAX_MEMBERS, Member, MemberType
from modelcsi.artifact.paths import shown
from modelcsi.artifact.selection import Selection, explain_nothing
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest

_FILE_MODE = 0o444
_DIRECTORY_MODE = 0o555
_SYMLINK_MODE = 0o777
_READABLE_BITS = 0o555
_MAX_PATH_CHARACTERS = 32 << 20
"""Of all paths of a tree, parents included: they stay in memory."""
_MAX_WARNINGS = 100


class EntryType(enum.Enum):
    """What a pod sees; hard links are files."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of a tree. `layer` and `member`, or `data`, say where a file's bytes are."""

    path: str
    type: EntryType
    size: int = 0
    mode: int = _FILE_MODE
    """What is shown: 0o444 or 0o555, directories 0o555, symbolic links 0o777."""
    mtime_ns: int | None = None
    """None: the artifact does not say."""
    target: str = ""
    layer: Digest | None = None
    """Of a file; None for directories, symbolic links and files with `data`."""
    member: int | None = None
    """None: the whole blob is the file; else its place among the members of that tar, never that of a hard link."""
    sha256: str = field(default="", compare=False)
    """Of a member that was kept; follows from `layer` and `member`. That of a whole blob is its digest."""
    data: bytes | None = None
    """All of a file that is in no layer."""


@dataclass(frozen=True)
class FileTree:
    """All entries, by path; the root itself is none of them, every other directory is."""

    entries: tuple[FileEntry, ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def size_bytes(self) -> int:
        """The sum of the files' sizes; what several paths share counts at each."""
        return sum(entry.size for entry in self.entries)


def wanted_layers(artifact: Artifact, selection: Selection) -> tuple[Layer, ...]:
    """The layers whose bytes are needed, in order, each digest once.

    Left out are files that nobody wants, and tars that surely hold nothing but such a file. Where a digest has several
    layers, a member is needed if `wants_member` says so for any of them.
    """
    layers: dict[Digest, Layer] = {}
    for layer in artifact.layers:
        if _may_want(layer, selection):
            layers.setdefault(layer.digest, layer)
    return tuple(layers.values())


def wants_member(layer: Layer, member_path: str, selection: Selection) -> bool:
    """Whether a member's bytes may be needed, asked while the tar streams.

    Whether the annotation's path counts is known only at its end, so a member that might get that path is wanted under
    either.
    """
    if selection.is_everything:
        return True
    place = layer.place(member_path)
    if layer.sole_member_path is not None and layer.names(member_path):
        paths = (layer.sole_member_path, place)
        return any(selection.wants(path, is_weight=layer.is_weight) for path in paths)
    # A weight-typed tar of a whole directory (KitOps) holds the model's configuration too: there only names tell.
    return selection.wants(place, is_weight=False)


def build_tree(artifact: Artifact, members: Mapping[Digest, Sequence[Member]], selection: Selection) -> FileTree:
    """The tree of what `selection` wants of `artifact`, with the paths that it shows.

    `members` has all members, wanted or not, of each wanted tar, in the tar's order; an undecided layer is a tar if it is
    there. An entry of an undecided layer without `member` needs the blob itself. Raises UnsupportedArtifact for
    conflicting paths, links that leave what is shown, and when nothing is left.
    """
    builder = _Builder()
    unread: list[str] = []
    for layer in artifact.layers:
        if layer.digest not in members and (layer.codec.is_tar and not _may_want(layer, selection)):
            unread.append(layer.sole_member_path or layer.path or "")
        elif not _is_tar(layer, members.get(layer.digest)):
            builder.add_file(layer)
        else:
            builder.add_members(layer, members[layer.digest])
    builder.check_links()
    if not builder.nodes and not unread:
        raise UnsupportedArtifact("; ".join(("the artifact has no content", *artifact.warnings[:3])))
    entries = builder.entries() if selection.is_everything else _selected(builder, selection)
    if not entries:
        files = [path for path, node in builder.nodes.items() if node.entry.type is not EntryType.DIRECTORY]
        message, hint = explain_nothing(selection, filter(None, [*files, *unread]))
        raise UnsupportedArtifact(message, hint=hint)
    if selection.root:
        entries = _shown_at_root(entries, selection.root)
    builder.warn_of_similar_names(entries)
    return FileTree(entries, (*artifact.warnings, *builder.warnings))


def _is_tar(layer: Layer, members: Sequence[Member] | None) -> bool:
    if not layer.undecided:
        return layer.codec.is_tar
    return members is not None and all(layer.admits(member.path) for member in members)


def _may_want(layer: Layer, selection: Selection) -> bool:
    if selection.is_everything:
        return True
    if not layer.codec.is_tar:
        return _wants_file(layer, selection)
    if any(root and not selection.may_want_below(root) for root in (layer.tar_root, layer.prefix)):
        return False
    path = layer.sole_member_path
    return not layer.is_one_file or path is None or selection.wants(path, is_weight=layer.is_weight)


def _wants_file(layer: Layer, selection: Selection) -> bool:
    path = layer.path
    is_unnamed = layer.has_fallback_name
    return path is not None and selection.wants(path, is_weight=layer.is_weight, is_unnamed=is_unnamed)


@dataclass(frozen=True, slots=True)
class _Node:
    """An entry and what is needed to judge it."""

    entry: FileEntry
    where: str = ""
    identity: object = None
    """Equal for nodes of equal content."""
    is_weight: bool = False
    is_unnamed: bool = False
    source: _Node | None = None
    """Of a hard link: the file that has the bytes."""
    is_kept: bool = False
    """A member whose bytes are recorded, wanted or not."""

    def is_wanted(self, selection: Selection) -> bool:
        return selection.wants(self.entry.path, is_weight=self.is_weight, is_unnamed=self.is_unnamed)


@dataclass(slots=True)
class _Builder:
    """Entries by path, implied directories included, and the rules for entering one more."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _path_characters: int = 0

    def add_file(self, layer: Layer) -> None:
        if layer.path is None:
            raise UnsupportedArtifact(f"{layer.where} is a file without a name")
        if layer.has_fallback_name:
            self.warn(
                f"{layer.where} has no name: its file is {shown(layer.path)}, and upstream's filters leave it out"
            )
        entry = FileEntry(
            layer.path,
            EntryType.FILE,
            layer.size,
            _shown_mode(layer.mode or 0),
            layer.mtime_ns,
            layer=layer.digest,
        )
        identity = layer.digest.hex
        self._enter(_Node(entry, layer.where, identity, layer.is_weight, layer.has_fallback_name))

    def add_members(self, layer: Layer, members: Sequence[Member]) -> None:
        moved = _moved_member(layer, members)
        for number, member in enumerate(members):
            if number == moved and layer.sole_member_path is not None:
                self._add_member(layer, number, replace(member, path=layer.sole_member_path))
            elif layer.prefix:
                target = layer.place(member.target) if member.type is MemberType.HARDLINK else member.target
                self._add_member(layer, number, replace(member, path=layer.place(member.path), target=target))
            else:
                self._add_member(layer, number, member)

    def _add_member(self, layer: Layer, number: int, member: Member) -> None:
        path = member.path
        is_weight = layer.is_weight and layer.names(path)
        if member.type is MemberType.DIRECTORY:
            entry = FileEntry(path, EntryType.DIRECTORY, 0, _DIRECTORY_MODE, member.mtime_ns)
            self._enter(_Node(entry, layer.where))
        elif member.type is MemberType.SYMLINK:
            entry = FileEntry(path, EntryType.SYMLINK, 0, _SYMLINK_MODE, member.mtime_ns, member.target)
            self._enter(_Node(entry, layer.where, ("symlink", member.target)))
        elif member.type is MemberType.HARDLINK:
            self._enter(self._hard_link(layer, member, is_weight=is_weight))
        else:
            entry = FileEntry(
                path,
                EntryType.FILE,
                member.size,
                _shown_mode(member.mode),
                member.mtime_ns,
                layer=layer.digest,
                member=number,
                sha256=member.sha256 or "",
            )
            identity = member.sha256 or (layer.digest, number)
            self._enter(_Node(entry, layer.where, identity, is_weight, is_kept=bool(member.sha256)))

    def _hard_link(self, layer: Layer, member: Member, *, is_weight: bool) -> _Node:
        found = self.nodes.get(member.target)
        if found is None or found.entry.type is not EntryType.FILE:
            raise UnsupportedArtifact(
                f"hard link {shown(member.path)} in {layer.where} is to {shown(member.target)}, which is no file before it"
            )
        # Two names of one file: size, mode and time are the file's, whatever the link's own header says.
        return _Node(
            replace(found.entry, path=member.path), layer.where, found.identity, is_weight, source=found.source or found
        )

    def _enter(self, node: _Node) -> None:
        path = node.entry.path
        self._enter_parents(node)
        old = self.nodes.get(path)
        if old is None:
            self._count(path)
        else:
            is_directory = node.entry.type is EntryType.DIRECTORY
            if is_directory is not (old.entry.type is EntryType.DIRECTORY):
                raise _conflict(path, node, old)
            if not is_directory and node.identity != old.identity:
                self.warn(f"{shown(path)} of {old.where} is replaced by that of {node.where}")
        self.nodes[path] = node

    def _enter_parents(self, node: _Node) -> None:
        missing: list[str] = []
        parent = node.entry.path.rpartition("/")[0]
        while parent:
            found = self.nodes.get(parent)
            if found is not None and found.entry.type is EntryType.DIRECTORY:
                break  # its own parents were entered with it
            if found is not None:
                raise _conflict(parent, node, found)
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        for path in missing:
            self._count(path)
            self.nodes[path] = _Node(FileEntry(path, EntryType.DIRECTORY, 0, _DIRECTORY_MODE), node.where)

    def _count(self, path: str) -> None:
        self._path_characters += len(path)
        if len(self.nodes) >= MAX_MEMBERS or self._path_characters > _MAX_PATH_CHARACTERS:
            raise UnsupportedArtifact(
                f"the artifact has too many files: {MAX_MEMBERS} are the limit, directories included"
            )

    def check_links(self) -> None:
        links = {path: node for path, node in self.nodes.items() if node.entry.type is EntryType.SYMLINK}
        check_links(
            {path: node.entry.target for path, node in links.items()},
            {path: node.where for path, node in links.items()},
        )

    def entries(self) -> tuple[FileEntry, ...]:
        return tuple(self.nodes[path].entry for path in sorted(self.nodes))

    def warn(self, text: str) -> None:
        """Keep a warning; a hostile artifact could cause as many as it has files."""
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text)
        elif len(self.warnings) == _MAX_WARNINGS:
            self.warnings.append("there are more warnings than these")

    def warn_of_similar_names(self, entries: Iterable[FileEntry]) -> None:
        """Names that differ here, but not on a laptop where somebody copies the model."""
        seen: dict[str, str] = {}
        for entry in entries:
            first = seen.setdefault(unicodedata.normalize("NFC", entry.path).casefold(), entry.path)
            if first != entry.path:
                self.warn(f"{shown(entry.path)} and {shown(first)} differ only in case or in the form of Unicode")


def _selected(builder: _Builder, selection: Selection) -> tuple[FileEntry, ...]:
    """The wanted files and links and their parents; with a filter, a directory without any was not asked for."""
    kept: set[str] = set()
    for path, node in builder.nodes.items():
        if node.entry.type is EntryType.DIRECTORY and selection.has_filter:
            continue
        if not node.is_wanted(selection):
            continue
        if node.source is not None and not (node.source.is_kept or node.source.is_wanted(selection)):
            target = node.source.entry.path
            builder.warn(f"{shown(path)} is left out with {shown(target)}, of which it is another name")
            continue
        kept.add(path)
        parent = path.rpartition("/")[0]
        while parent and parent not in kept:
            kept.add(parent)
            parent = parent.rpartition("/")[0]
    return tuple(builder.nodes[path].entry for path in sorted(kept))


def _shown_at_root(entries: Iterable[FileEntry], root: str) -> tuple[FileEntry, ...]:
    """What lies below a directory, as the tree of which it is the root. Raises UnsupportedArtifact for links that leave it."""
    below = tuple(
        replace(entry, path=entry.path.removeprefix(f"{root}/"))
        for entry in entries
        if entry.path.startswith(f"{root}/")
    )
    links = {entry.path: entry.target for entry in below if entry.type is EntryType.SYMLINK}
    try:
        check_links(links, dict.fromkeys(links, f"subPath {shown(root)}"), "it leaves what the volume shows")
    except UnsupportedArtifact as error:
        hint = "name a directory above it and its target, or leave the link out by exclude"
        raise UnsupportedArtifact(error.message, hint=hint) from error
    return below


def _moved_member(layer: Layer, members: Sequence[Member]) -> int | None:
    """The member that belongs at `sole_member_path`: the only regular one, of that base name, not below that path already
    (KitOps: directory `foo` whose only file is `foo/foo`).
    """
    path = layer.sole_member_path
    regular = [number for number, member in enumerate(members) if member.type in {MemberType.FILE, MemberType.HARDLINK}]
    if path is None or len(regular) != 1:
        return None
    member = members[regular[0]]
    is_below = member.path.startswith(f"{path}/")
    return regular[0] if member.type is MemberType.FILE and layer.names(member.path) and not is_below else None


def _shown_mode(mode: int) -> int:
    return mode & _READABLE_BITS | _FILE_MODE


def _conflict(path: str, node: _Node, old: _Node) -> UnsupportedArtifact:
    kinds = {EntryType.FILE: "a file", EntryType.DIRECTORY: "a directory", EntryType.SYMLINK: "a symbolic link"}
    new = kinds[node.entry.type] if path == node.entry.path else "a directory"
    return UnsupportedArtifact(f"{shown(path)} is {kinds[old.entry.type]} in {old.where} and {new} in {node.where}")
