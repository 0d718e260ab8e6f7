"""The tree of an artifact before all of it is here: what the manifest and the headers of tars tell, checked when they arrive.

A raw layer tells its file by its annotations. Of other layers it takes the members: from the store when the layer is here, or
from an index of the tar, made of its headers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.entries import FileTree
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.layouts import Layout
from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import build_tree
from modelcsi.oci.digest import Digest

MembersOf = Callable[[Layer], Sequence[Member] | None]
"""The members of a layer that is here (none of one that is a file), None before."""


@dataclass(frozen=True, slots=True)
class TreeKnown:
    """A tree, where in the blobs its files begin as far as they can be read early, and what had to be waited for."""

    tree: FileTree
    offsets: Mapping[tuple[Digest, int | None], int]
    waited_for: tuple[str, ...]


class TreeAhead:
    """Of one job; any thread."""

    def __init__(self, artifact: Artifact, layers: Sequence[Layer], selection: Selection, layout: Layout) -> None:
        self._artifact = artifact
        self._layers = layers
        self._selection = selection
        self._layout = layout

    def known(self, members_of: MembersOf) -> TreeKnown | None:
        """The tree if it can be told now. Raises UnsupportedArtifact."""
        if self._artifact.overlay:  # which directory is shown, and what of it is hidden, only all layers tell
            return None
        members: dict[Digest, Sequence[Member]] = {}
        waited: list[str] = []
        for layer in self._layers:
            if not layer.codec.is_packed:
                continue
            found = members_of(layer)
            if found is None:
                return None
            waited.append(_why(layer))
            if found:
                members[layer.digest] = found
        tree = self._layout.arrange(build_tree(self._artifact, members, self._selection), self._artifact.digest)
        offsets: dict[tuple[Digest, int | None], int] = {
            (layer.digest, None): 0 for layer in self._layers if not layer.codec.is_packed
        }
        return TreeKnown(tree, offsets, tuple(waited))


def _why(layer: Layer) -> str:
    return f"{layer.where} had to be here first: it is not an uncompressed tar whose headers can be read alone"
