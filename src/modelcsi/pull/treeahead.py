"""The tree of an artifact before all of it is here: what the manifest and the headers of tars tell, checked when they arrive.

A raw layer tells its file by its annotations. Of other layers it takes the members:
1. of a layer that is here, from the store;
2. of an uncompressed tar, from an index, made of its headers alone, or by an attempt that was killed;
3. of a compressed tar that holds one file by its annotations, from its first headers; of a compressed file, from the
   annotation of its size: the file is shown, and can be read when the layer is complete;
4. of others there is nothing to show before they are here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from modelcsi.artifact.annotations import parse_file_metadata
from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.entries import FileEntry, FileTree
from modelcsi.artifact.layer import TAR, Compression, Layer
from modelcsi.artifact.layouts import FILES, Layout
from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import build_tree, wants_member
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.indexing import Indexed, NotIndexed
from modelcsi.pull.unpack import whole_file

logger = logging.getLogger(__name__)

MembersOf = Callable[[Layer], Sequence[Member] | None]
"""The members of a layer that is here (none of one that is a file), None before."""

_AT_ONCE = 8
_TO_COME = "to come: "
"""In place of the digest of a member that will be kept."""


@dataclass(frozen=True, slots=True)
class TreeKnown:
    """A tree, where in the blobs its files begin as far as they can be read early, and what had to be waited for.

    Members that are not here yet have no digest.
    """

    tree: FileTree
    offsets: Mapping[tuple[Digest, int | None], int]
    waited_for: tuple[str, ...]


class TreeAhead:
    """Of one job; any thread."""

    def __init__(
        self,
        artifact: Artifact,
        layers: Sequence[Layer],
        shown: tuple[Selection, Layout],
        shared: frozenset[Digest],
    ) -> None:
        """`shared`: tars of which all members are kept (`LayerWork.shared`)."""
        self._artifact = artifact
        self._layers = layers
        self._selection, self._layout = shown
        self._shared = shared
        self._lock = threading.Lock()
        # Under the lock, by layer: indexes; first members; why there is neither. What a tree was made of stays.
        self._indexes: dict[Digest, Indexed] = {}
        self._told: dict[Digest, tuple[Member, ...]] = {}
        self._reasons: dict[Digest, str] = {}
        self._distrusted: set[Digest] = set()

    def learn(
        self,
        is_here: Callable[[Layer], bool],
        index: Callable[[Layer], Indexed],
        first: Callable[[Layer], tuple[Member, ...]],
    ) -> None:
        """Learn what can be learned of layers that are not here, by these. Raises what they raise, but for NotIndexed."""
        if self._artifact.overlay:  # which directory is shown, and what of it is hidden, only all layers tell
            return
        layers = [layer for layer in self._layers if layer.codec.is_packed and not is_here(layer)]
        if self._layout.key != FILES:
            reason = "the hub's cache names files by digests that only their bytes tell"
            self._reasons.update((layer.digest, reason) for layer in layers)
            return
        if layers:
            with ThreadPoolExecutor(min(_AT_ONCE, len(layers)), "pull-index") as pool:
                for _ in pool.map(lambda layer: self._learn(layer, index, first), layers):
                    pass

    def known(self, members_of: MembersOf) -> TreeKnown | None:
        """The tree if it can be told now. Raises UnsupportedArtifact."""
        if self._artifact.overlay:
            return None
        members: dict[Digest, Sequence[Member]] = {}
        offsets: dict[tuple[Digest, int | None], int] = {}
        waited: list[str] = []
        for layer in self._layers:
            if not layer.codec.is_packed:
                offsets[layer.digest, None] = 0
                continue
            with self._lock:
                indexed, told = self._indexes.get(layer.digest), self._told.get(layer.digest)
                reason = self._reasons.get(layer.digest, "")
            if indexed is not None:
                found: Sequence[Member] | None = self._as_kept(layer, indexed.index.members)
                offsets |= {(layer.digest, number): at for number, at in enumerate(indexed.index.offsets)}
            elif told is not None:
                found = self._as_kept(layer, told)
            else:
                found = members_of(layer)
                if found is not None and reason:
                    waited.append(f"{layer.where} had to be here first, since {reason}")
            if found is None:
                return None
            if found or not layer.undecided:
                members[layer.digest] = found
        tree = build_tree(self._artifact, members, self._selection)
        tree = replace(tree, entries=tuple(map(_without_promise, tree.entries)))
        return TreeKnown(self._layout.arrange(tree, self._artifact.digest), offsets, tuple(waited))

    def index_of(self, layer: Layer) -> Indexed | None:
        """The index by which the layer is to be written."""
        with self._lock:
            return None if layer.digest in self._distrusted else self._indexes.get(layer.digest)

    def distrust(self, layer: Layer) -> None:
        """What was written by the index was wrong, or the index: the layer comes from its start to its end now."""
        with self._lock:
            self._distrusted.add(layer.digest)

    def check(self, layer: Layer, members_of: MembersOf) -> None:
        """The layer is here: what was told of it must be so. Raises UnsupportedArtifact."""
        with self._lock:
            indexed, told = self._indexes.get(layer.digest), self._told.get(layer.digest)
        members = None if indexed is None and told is None else members_of(layer)
        if members is None:
            return
        real = [replace(member, sha256="") for member in members]
        if indexed is not None and tuple(real) != indexed.index.members:
            raise UnsupportedArtifact(f"the registry told other headers of {layer.where} than it delivered then")
        if told is not None and not layer.codec.is_tar and real[0].size != told[0].size:
            raise UnsupportedArtifact(
                f"{layer.where} is a file of {real[0].size} bytes, and of {told[0].size} by its annotation"
            )
        if told is not None and layer.codec.is_tar and not _is_one_file(real, told):
            raise UnsupportedArtifact(f"{layer.where} holds other files than its annotations and its beginning tell")

    def close(self) -> None:
        """Forget what was read for the indexes."""
        with self._lock:
            indexes = list(self._indexes.values())
        for indexed in indexes:
            indexed.close()

    def _learn(
        self, layer: Layer, index: Callable[[Layer], Indexed], first: Callable[[Layer], tuple[Member, ...]]
    ) -> None:
        try:
            if layer.undecided:
                raise NotIndexed("only its bytes tell whether it is a tar")
            if layer.codec == TAR:
                found = index(layer)
                with self._lock:
                    self._indexes[layer.digest] = found
                return
            told = self._tell(layer, first)
            with self._lock:
                self._told[layer.digest] = told
        except NotIndexed as reason:
            logger.debug("%s is not indexed: %s", layer.where, reason)
            with self._lock:
                self._reasons[layer.digest] = str(reason)

    def _tell(self, layer: Layer, first: Callable[[Layer], tuple[Member, ...]]) -> tuple[Member, ...]:
        if layer.codec.is_packed_file:
            size = parse_file_metadata(layer.descriptor).size
            if size is None:
                raise NotIndexed("it is compressed, and no annotation tells the size of the file")
            return (whole_file(size, 0, 0),)
        if not layer.is_one_file or layer.codec.compression is Compression.NONE:
            raise NotIndexed("it is compressed")
        return first(layer)

    def _as_kept(self, layer: Layer, members: Sequence[Member]) -> Sequence[Member]:
        """As they will be kept: where a hard link is wanted, with all files, since it may be to any of them."""
        selection = Selection() if layer.digest in self._shared else self._selection
        kept = set(kept_members(layer, members, selection))
        return [
            replace(member, sha256=f"{_TO_COME}{layer.digest} {number}") if number in kept else member
            for number, member in enumerate(members)
        ]


def kept_members(layer: Layer, members: Sequence[Member], selection: Selection) -> list[int]:
    """The numbers of the files of a tar that a selection needs."""
    wanted = {number for number, member in enumerate(members) if wants_member(layer, member.path, selection)}
    has_links = any(members[number].type is MemberType.HARDLINK for number in wanted)
    return [
        number
        for number, member in enumerate(members)
        if member.type is MemberType.FILE and (has_links or number in wanted)
    ]


def _without_promise(entry: FileEntry) -> FileEntry:
    return replace(entry, sha256="") if entry.sha256.startswith(_TO_COME) else entry


def _is_one_file(real: Sequence[Member], told: Sequence[Member]) -> bool:
    rest = real[len(told) :]
    return list(real[: len(told)]) == list(told) and all(member.type is MemberType.DIRECTORY for member in rest)
