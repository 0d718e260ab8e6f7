"""Reads the whole stream of a tar that arrived by its index, and takes nothing that the index does not say."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

from modelcsi.artifact.layer import Layer
from modelcsi.artifact.members import Member
from modelcsi.artifact.tar import Data, End, TarParser
from modelcsi.artifact.tarindex import MemberWalk
from modelcsi.errors import CorruptContent
from modelcsi.store.indexed import IndexedIngest


class TarChecker:
    """Reads one layer once; `members` is complete when `run` has returned."""

    def __init__(self, layer: Layer, ingest: IndexedIngest) -> None:
        self.members: list[Member] = []
        self._layer = layer
        self._ingest = ingest

    def run(self, pieces: Iterator[bytes]) -> None:
        """Check the whole stream, to its last byte.

        Raises CorruptContent where it differs from the index, UnsupportedArtifact where it is no tar that may be used.
        """
        parser, walk, hasher = TarParser(self._layer.where), MemberWalk(), hashlib.sha256()
        for piece in pieces:
            for event in parser.feed(memoryview(piece)):
                member = walk.member(event)
                if member is not None:
                    self._begin(member, walk.position)
                    hasher = hashlib.sha256()
                elif isinstance(event, Data):
                    if self._is_kept():
                        hasher.update(event.view)
                elif isinstance(event, End) and self._is_kept():
                    self._ingest.end_member(len(self.members) - 1)
                    self.members[-1] = dataclasses.replace(self.members[-1], sha256=hasher.hexdigest())
        parser.finish()
        if len(self.members) != len(self._ingest.index.members):
            raise self._difference()

    def _is_kept(self) -> bool:
        return len(self.members) - 1 in self._ingest.kept

    def _begin(self, member: Member, position: int) -> None:
        index, number = self._ingest.index, len(self.members)
        if number >= len(index.members) or (member, position) != (index.members[number], index.offsets[number]):
            raise self._difference()
        self.members.append(member)

    def _difference(self) -> CorruptContent:
        return CorruptContent(
            f"the registry told other headers of {self._layer.where} when it was asked for them than the whole blob has",
            hint="the registry, or something on the way to it, delivers damaged content",
        )
