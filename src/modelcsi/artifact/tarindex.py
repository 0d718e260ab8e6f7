"""Where in a tar its members' bytes are, found by looking at its headers alone: pushed like the parser, and by its rules."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelcsi.artifact.members import Member, MemberType
from modelcsi.artifact.tar import Start, TarEvent, TarParser
from modelcsi.errors import UnsupportedArtifact

_VERSION = 1
NO_MEMBER = -1


@dataclass(frozen=True, slots=True)
class TarIndex:
    """All members of a tar in its order, none with a digest, and at which byte the data of each begins."""

    members: tuple[Member, ...]
    offsets: tuple[int, ...]

    def to_json(self) -> str:
        """The record of it."""
        items = [[offset, member.to_json()] for offset, member in zip(self.offsets, self.members, strict=True)]
        return json.dumps({"version": _VERSION, "members": items})

    @classmethod
    def from_json(cls, text: str | bytes) -> TarIndex:
        """What `to_json` recorded. Raises ValueError for anything else."""
        try:
            document = json.loads(text)
            if document["version"] != _VERSION:
                raise ValueError("the index of another release")
            items = [(int(offset), Member.from_json(member)) for offset, member in document["members"]]
        except (LookupError, TypeError) as error:
            raise ValueError("not the index of a tar") from error
        return cls(tuple(member for _, member in items), tuple(offset for offset, _ in items))


class MemberWalk:
    """Turns the parser's events into members with their places."""

    def __init__(self) -> None:
        self.position = 0
        """Of the next byte in the stream."""

    def member(self, event: TarEvent) -> Member | None:
        """The member that begins at `position`, if this event says so."""
        if isinstance(event, Start):
            return event.member
        view = getattr(event, "view", None)
        self.position += 0 if view is None else len(view)
        return None


class TarIndexer:
    """Feed it the bytes at `position` until it `is_done`: it passes over data by itself. Raises UnsupportedArtifact."""

    def __init__(self, where: str, size: int) -> None:
        self._parser = TarParser(where)
        self._where = where
        self._size = size
        self._walk = MemberWalk()
        self._members: list[Member] = []
        self._offsets: list[int] = []

    @property
    def position(self) -> int:
        """Where the bytes are that it needs next."""
        return self._walk.position

    @property
    def is_done(self) -> bool:
        """Whether it needs no more."""
        return self._parser.is_over or self._walk.position >= self._size

    def feed(self, data: bytes) -> None:
        """The bytes at `position`; what lies behind them may be passed over."""
        for event in self._parser.feed(memoryview(data)):
            member = self._walk.member(event)
            if member is not None:
                if member.type is MemberType.FILE and member.size > self._size:
                    raise UnsupportedArtifact(
                        f"{member.path!r} of {self._where} claims {member.size} bytes; the whole layer has {self._size}"
                    )
                self._members.append(member)
                self._offsets.append(self._walk.position)
        passed = min(self._parser.passable, self._size - self._walk.position)
        self._parser.pass_over(passed)
        self._walk.position += passed

    def index(self) -> TarIndex:
        """What was found, once it is done."""
        self._parser.finish()
        return TarIndex(tuple(self._members), tuple(self._offsets))


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a stream that belong together: of a member, or of none (NO_MEMBER)."""

    number: int
    offset: int
    """In the member; of those that belong to none, among their like."""
    size: int


class Split:
    """Which bytes of a tar belong to which of the members that are kept."""

    def __init__(self, index: TarIndex, kept: Sequence[int]) -> None:
        places = [
            (index.offsets[number], index.members[number].size, number) for number in kept if index.members[number].size
        ]
        self._starts = [start for start, _, _ in places]
        self._ends = [start + size for start, size, _ in places]
        self._numbers = [number for _, _, number in places]
        self._kept_before = [0]
        for _, size, _ in places:
            self._kept_before.append(self._kept_before[-1] + size)

    def parts(self, offset: int, size: int) -> Iterator[Part]:
        """The bytes from `offset` on, in order."""
        place = bisect.bisect_right(self._starts, offset) - 1
        while size:
            if place >= 0 and offset < self._ends[place]:
                step = min(size, self._ends[place] - offset)
                yield Part(self._numbers[place], offset - self._starts[place], step)
            else:
                following = self._starts[place + 1] if place + 1 < len(self._starts) else offset + size
                step = min(size, following - offset)
                yield Part(NO_MEMBER, offset - self._kept_before[place + 1], step)
            offset, size = offset + step, size - step
            while place + 1 < len(self._starts) and offset >= self._starts[place + 1]:
                place += 1
