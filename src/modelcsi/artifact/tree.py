"""The tree of files that an artifact means, and which parts of which layers it needs.

Built from values alone: the manifest's layers and the recorded members of its tars. Everything that may conflict is decided
here, before anything is linked into place: the same path twice, a file where another layer has a directory, links that leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.entries import EntryType, FileEntry, FileTree
from modelcsi.artifact.image_tree import Image, merge, shown_path
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.links import check_links
from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.paths import check_link_target, shown
from modelcsi.artifact.selection import Selection, explain_nothing
from modelcsi.artifact.treebuilder import TreeBuilder
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest

__all__ = ["EntryType", "FileEntry", "FileTree", "build_tree", "wanted_layers", "wants_member"]

_LEAVES_WHAT_IS_SHOWN = "it leaves what the volume shows"
_ABOUT_LINKS = "name a directory above it and its target by subPath, or leave the link out by exclude"


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
    if layer.is_image:
        path = shown_path(member_path, selection)
        return path is not None and replace(selection, sub_path="").wants(path, is_weight=False)
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

    `members` has all members, wanted or not, of each wanted tar, in the tar's order, and the one of a compressed file; an
    undecided layer is a tar if it is there. Of an image it has what concerns the directory that is shown. An entry of an
    undecided layer without `member` needs the blob itself. Raises UnsupportedArtifact for conflicting paths, links that
    leave what is shown, and when nothing is left.
    """
    if artifact.overlay:
        return _build_image(artifact, members, selection)
    builder = TreeBuilder()
    unread: list[str] = []
    for layer in artifact.layers:
        if layer.digest not in members and (layer.codec.is_tar and not _may_want(layer, selection)):
            unread.append(layer.sole_member_path or layer.path or "")
            builder.replace_by_unread(layer)
        elif not _is_tar(layer, members.get(layer.digest)):
            builder.add_file(layer, members.get(layer.digest))
        else:
            builder.add_members(layer, members[layer.digest])
    builder.check_links()
    if not builder.nodes and not unread:
        raise UnsupportedArtifact("; ".join(("the artifact has no content", *artifact.warnings[:3])))
    entries = builder.entries() if selection.is_everything else builder.selected(selection)
    if not entries:
        files = [path for path, node in builder.nodes.items() if node.entry.type is not EntryType.DIRECTORY]
        message, hint = explain_nothing(selection, filter(None, [*files, *unread]))
        raise UnsupportedArtifact(message, hint=hint)
    if selection.root:
        entries = _shown_at_root(entries, selection.root)
    builder.warn_of_similar_names(entries)
    return FileTree(entries, (*artifact.warnings, *builder.warnings))


def _build_image(artifact: Artifact, members: Mapping[Digest, Sequence[Member]], selection: Selection) -> FileTree:
    """The tree of the directory of an image that is shown; filters are on the paths in there."""
    image = merge(artifact.layers, members)
    selection = image.settle(selection)
    root, filters = selection.root, replace(selection, sub_path="")
    image.refuse_objections(root)
    builder = TreeBuilder()
    for path, node in image.walk(root):
        if node.member.type is MemberType.SPECIAL:
            if filters.wants(path, is_weight=False):
                raise UnsupportedArtifact(f"{shown(node.member.path)} in {node.layer.where} is a device or a FIFO")
        else:
            builder.add_image_node(
                path, node, root, is_wanted=filters.is_everything or filters.wants(path, is_weight=False)
            )
    entries = builder.entries() if filters.is_everything else builder.selected(filters)
    if not entries:
        files = [path for path, node in builder.nodes.items() if node.entry.type is not EntryType.DIRECTORY]
        if not files:
            raise UnsupportedArtifact(f"{shown('/' + root)} of the image is empty")
        message, hint = explain_nothing(filters, files)
        raise UnsupportedArtifact(message, hint=hint)
    entries = tuple(_with_inner_target(entry, image, builder, root) for entry in entries)
    links = {entry.path: entry.target for entry in entries if entry.type is EntryType.SYMLINK}
    try:
        check_links(links, {path: builder.nodes[path].where for path in links}, _LEAVES_WHAT_IS_SHOWN)
    except UnsupportedArtifact as error:
        raise UnsupportedArtifact(error.message, hint=_ABOUT_LINKS) from error
    builder.warn_of_similar_names(entries)
    return FileTree(entries, (*artifact.warnings, *builder.warnings))


def _with_inner_target(entry: FileEntry, image: Image, builder: TreeBuilder, root: str) -> FileEntry:
    if entry.type is not EntryType.SYMLINK:
        return entry
    where = builder.nodes[entry.path].where
    target = image.link_target(entry.path, root)
    if target is None:
        raise UnsupportedArtifact(
            f"unsafe link {shown(entry.path)} -> {shown(entry.target)} in {where}: {_LEAVES_WHAT_IS_SHOWN}",
            hint=_ABOUT_LINKS,
        )
    check_link_target(entry.path, target, where)
    return replace(entry, target=target)


def _is_tar(layer: Layer, members: Sequence[Member] | None) -> bool:
    if not layer.undecided:
        return layer.codec.is_tar
    return members is not None and all(layer.admits(member.path) for member in members)


def _may_want(layer: Layer, selection: Selection) -> bool:
    # Any layer of an image may hide, or replace, what another one shows.
    if selection.is_everything or layer.is_image:
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


def _shown_at_root(entries: Iterable[FileEntry], root: str) -> tuple[FileEntry, ...]:
    """What lies below a directory, as the tree of which it is the root. Raises UnsupportedArtifact for links that leave it."""
    below = tuple(
        replace(entry, path=entry.path.removeprefix(f"{root}/"))
        for entry in entries
        if entry.path.startswith(f"{root}/")
    )
    links = {entry.path: entry.target for entry in below if entry.type is EntryType.SYMLINK}
    try:
        check_links(links, dict.fromkeys(links, f"subPath {shown(root)}"), _LEAVES_WHAT_IS_SHOWN)
    except UnsupportedArtifact as error:
        raise UnsupportedArtifact(error.message, hint=_ABOUT_LINKS) from error
    return below
