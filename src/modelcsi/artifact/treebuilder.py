"""Puts a tree together, entry by entry, and refuses what cannot be in one tree."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from modelcsi.artifact.entries import FILE_MODE, EntryType, FileEntry
from modelcsi.artifact.image_tree import ImageNode
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.links import check_links
from modelcsi.artifact.members import MAX_MEMBERS, WHOLE_FILE, Member, MemberType, numbered
from modelcsi.artifact.paths import shown
from modelcsi.artifact.selection import Selection
from modelcsi.errors import UnsupportedArtifact

_DIRECTORY_MODE = 0o555
_SYMLINK_MODE = 0o777
_READABLE_BITS = 0o555
_MAX_PATH_CHARACTERS = 32 << 20
"""Of all paths of a tree, parents included: they stay in memory."""
_MAX_WARNINGS = 100


@dataclass(frozen=True, slots=True)
class TreeNode:
    """An entry and what is needed to judge it."""

    entry: FileEntry
    where: str = ""
    identity: object = None
    """Equal for nodes of equal content."""
    is_weight: bool = False
    is_unnamed: bool = False
    source: TreeNode | None = None
    """Of a hard link: the file that has the bytes."""
    is_kept: bool = False
    """A member whose bytes are recorded, wanted or not."""

    def is_wanted(self, selection: Selection) -> bool:
        """Whether it is to be shown."""
        return selection.wants(self.entry.path, is_weight=self.is_weight, is_unnamed=self.is_unnamed)


@dataclass(slots=True)
class TreeBuilder:
    """Entries by path, implied directories included, and the rules for entering one more."""

    nodes: dict[str, TreeNode] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _path_characters: int = 0

    def add_file(self, layer: Layer, members: Sequence[Member] | None) -> None:
        """`members`: of a compressed file the one that it is, whose size nobody else knows."""
        if layer.path is None:
            raise UnsupportedArtifact(f"{layer.where} is a file without a name")
        if layer.has_fallback_name:
            self.warn(
                f"{layer.where} has no name: its file is {shown(layer.path)}, and upstream's filters leave it out"
            )
        inner = members[0] if members and layer.codec.is_packed_file else None
        entry = FileEntry(
            layer.path,
            EntryType.FILE,
            inner.size if inner else layer.size,
            _shown_mode(layer.mode or 0),
            layer.mtime_ns,
            layer=layer.digest,
            member=WHOLE_FILE if inner else None,
            sha256=inner.sha256 if inner else "",
        )
        identity = inner.sha256 if inner else layer.digest.hex
        self._enter(TreeNode(entry, layer.where, identity, layer.is_weight, layer.has_fallback_name))

    def add_members(self, layer: Layer, members: Sequence[Member]) -> None:
        """A tar."""
        moved, where = _moved_member(layer, members), layer.where  # one text for all
        for number, member in numbered(members):
            if number == moved and layer.sole_member_path is not None:
                self._add_member(layer, where, number, replace(member, path=layer.sole_member_path))
            elif layer.prefix:
                target = layer.place(member.target) if member.type is MemberType.HARDLINK else member.target
                self._add_member(layer, where, number, replace(member, path=layer.place(member.path), target=target))
            else:
                self._add_member(layer, where, number, member)

    def replace_by_unread(self, layer: Layer) -> None:
        """A tar of one file that nobody wants and nobody read: a file before it at that path has lost it all the same."""
        path = layer.sole_member_path
        old = None if path is None or not layer.is_one_file else self.nodes.get(path)
        if old is not None and old.entry.type is not EntryType.DIRECTORY:
            entry = FileEntry(old.entry.path, EntryType.FILE, 0, _shown_mode(0), layer=layer.digest)
            self._enter(TreeNode(entry, layer.where, layer.digest.hex, layer.is_weight))

    def add_image_node(self, path: str, node: ImageNode, root: str, *, is_wanted: bool = True) -> None:
        """An entry of an image, with the path at which it is shown; parents come first."""
        member, where = node.member, node.layer.where
        mtime_ns = member.mtime_ns if member.mtime_ns >= 0 else None
        if node.children is not None:
            added = TreeNode(FileEntry(path, EntryType.DIRECTORY, 0, _DIRECTORY_MODE, mtime_ns), where)
        elif member.type is MemberType.SYMLINK:
            added = TreeNode(FileEntry(path, EntryType.SYMLINK, 0, _SYMLINK_MODE, mtime_ns, member.target), where)
        else:
            entry = _member_entry(path, node.layer, node.number, member)
            # Not kept, although the bytes may be here: what is shown must not depend on what others fetched before.
            added = TreeNode(entry, where)
            name = f"{root}/{path}" if root else path
            if member.path != name:
                if root and not member.path.startswith(f"{root}/"):
                    if not is_wanted:
                        return
                    raise UnsupportedArtifact(
                        f"{shown(name)} is a hard link to {shown(member.path)} in {where}, outside of what is shown",
                        hint="name a directory that holds both by subPath, or leave the link out by exclude",
                    )
                source = replace(
                    added, entry=replace(entry, path=member.path.removeprefix(f"{root}/") if root else member.path)
                )
                added = replace(added, source=source)
        self.nodes[path] = added

    def _add_member(self, layer: Layer, where: str, number: int, member: Member) -> None:
        path = member.path
        is_weight = layer.is_weight and layer.names(path)
        if member.type is MemberType.DIRECTORY:
            entry = FileEntry(path, EntryType.DIRECTORY, 0, _DIRECTORY_MODE, member.mtime_ns)
            self._enter(TreeNode(entry, where))
        elif member.type is MemberType.SYMLINK:
            entry = FileEntry(path, EntryType.SYMLINK, 0, _SYMLINK_MODE, member.mtime_ns, member.target)
            self._enter(TreeNode(entry, where, ("symlink", member.target)))
        elif member.type is MemberType.HARDLINK:
            self._enter(self._hard_link(layer, member, is_weight=is_weight))
        else:
            entry = _member_entry(path, layer, number, member)
            identity = member.sha256 or (layer.digest, number)
            self._enter(TreeNode(entry, where, identity, is_weight, is_kept=bool(member.sha256)))

    def _hard_link(self, layer: Layer, member: Member, *, is_weight: bool) -> TreeNode:
        found = self.nodes.get(member.target)
        if found is None or found.entry.type is not EntryType.FILE:
            raise UnsupportedArtifact(
                f"hard link {shown(member.path)} in {layer.where} is to {shown(member.target)}, which is no file before it"
            )
        # Two names of one file: size, mode and time are the file's, whatever the link's own header says.
        return TreeNode(
            replace(found.entry, path=member.path), layer.where, found.identity, is_weight, source=found.source or found
        )

    def _enter(self, node: TreeNode) -> None:
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

    def _enter_parents(self, node: TreeNode) -> None:
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
            self.nodes[path] = TreeNode(FileEntry(path, EntryType.DIRECTORY, 0, _DIRECTORY_MODE), node.where)

    def _count(self, path: str) -> None:
        self._path_characters += len(path)
        if len(self.nodes) >= MAX_MEMBERS or self._path_characters > _MAX_PATH_CHARACTERS:
            raise UnsupportedArtifact(
                f"the artifact has too many files: {MAX_MEMBERS} are the limit, directories included"
            )

    def check_links(self) -> None:
        """Raises UnsupportedArtifact for one that leaves the tree."""
        links = {path: node for path, node in self.nodes.items() if node.entry.type is EntryType.SYMLINK}
        check_links(
            {path: node.entry.target for path, node in links.items()},
            {path: node.where for path, node in links.items()},
        )

    def entries(self) -> tuple[FileEntry, ...]:
        """All, by path."""
        return tuple(self.nodes[path].entry for path in sorted(self.nodes))

    def selected(self, selection: Selection) -> tuple[FileEntry, ...]:
        """The wanted files and links and their parents; with a filter, a directory without any was not asked for."""
        kept: set[str] = set()
        for path, node in self.nodes.items():
            if node.entry.type is EntryType.DIRECTORY and selection.has_filter:
                continue
            if not node.is_wanted(selection):
                continue
            if node.source is not None and not (node.source.is_kept or node.source.is_wanted(selection)):
                target = node.source.entry.path
                self.warn(f"{shown(path)} is left out with {shown(target)}, of which it is another name")
                continue
            kept.add(path)
            parent = path.rpartition("/")[0]
            while parent and parent not in kept:
                kept.add(parent)
                parent = parent.rpartition("/")[0]
        return tuple(self.nodes[path].entry for path in sorted(kept))

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


def _moved_member(layer: Layer, members: Sequence[Member]) -> int | None:
    """The member that belongs at `sole_member_path`: the only regular one, of that base name, not below that path already
    (KitOps: directory `foo` whose only file is `foo/foo`).
    """
    path = layer.sole_member_path
    if path is None:
        return None
    regular = [number for number, member in enumerate(members) if member.type in {MemberType.FILE, MemberType.HARDLINK}]
    if len(regular) != 1:
        return None
    member = members[regular[0]]
    is_below = member.path.startswith(f"{path}/")
    return regular[0] if member.type is MemberType.FILE and layer.names(member.path) and not is_below else None


def _member_entry(path: str, layer: Layer, number: int, member: Member) -> FileEntry:
    return FileEntry(
        path,
        EntryType.FILE,
        member.size,
        _shown_mode(member.mode),
        member.mtime_ns,
        layer=layer.digest,
        member=number,
        sha256=member.sha256,
    )


def _shown_mode(mode: int) -> int:
    return mode & _READABLE_BITS | FILE_MODE


def _conflict(path: str, node: TreeNode, old: TreeNode) -> UnsupportedArtifact:
    kinds = {EntryType.FILE: "a file", EntryType.DIRECTORY: "a directory", EntryType.SYMLINK: "a symbolic link"}
    new = kinds[node.entry.type] if path == node.entry.path else "a directory"
    return UnsupportedArtifact(f"{shown(path)} is {kinds[old.entry.type]} in {old.where} and {new} in {node.where}")
