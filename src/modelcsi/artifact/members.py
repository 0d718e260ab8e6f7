"""The members of a layer, as they are recorded: each has its place in the tar's order, which is what refers to it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_MEMBERS = 100_000
"""In one layer, and entries in one tree: ten times the largest artifact that was met."""


class MemberType(enum.Enum):
    """What may be in a tar; the value is written into records."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    SPECIAL = "special"
    """A device, a FIFO or the like: in layers of images only, where it may be hidden, or lie outside of what is shown."""


class Form(enum.Enum):
    """What a layer whose files are kept apart was taken for; the value is written into records."""

    TAR = "tar"
    IMAGE = "image"
    """A layer of a container image: a tar whose whiteouts mean something."""
    FILE = "file"
    """One compressed file, which is the only member."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a layer was read: which members its record has, and what they mean."""

    form: Form = Form.TAR
    directories: tuple[str, ...] = ()
    """Of an image: those around which its members are recorded (`image_layer`); "" is the root, and all of them."""

    def covers(self, other: Reading) -> bool:
        """Whether a record that was read so has all that `other` wants to know."""
        if self.form is Form.TAR:  # all members, by rules that are stricter than those of images
            return other.form in {Form.TAR, Form.IMAGE}
        return self.form is other.form and all(map(self._has, other.directories))

    def joined(self, other: Reading) -> Reading:
        """A reading of the same form that covers both."""
        wider = Reading(self.form, tuple(sorted({*self.directories, *other.directories})))
        return Reading(self.form, tuple(path for path in wider.directories if not wider._is_below_another(path)))

    def to_json(self) -> dict[str, Any]:
        """The record of it."""
        return {"form": self.form.value, "directories": list(self.directories)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Reading:
        """What `to_json` recorded. Raises ValueError, LookupError or TypeError for anything else."""
        return cls(Form(record["form"]), tuple(record["directories"]))

    def _has(self, path: str) -> bool:
        return path in self.directories or self._is_below_another(path)

    def _is_below_another(self, path: str) -> bool:
        return any(path != top and (not top or path.startswith(f"{top}/")) for top in self.directories)


AS_TAR = Reading()
AS_FILE = Reading(Form.FILE)
WHOLE_FILE = -1
"""The number of what a compressed file is: beside those of members, since the same blob may be a tar to others."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member; its paths are normalised and checked."""

    path: str
    type: MemberType
    size: int
    """In bytes; 0 unless it is a FILE."""
    mode: int
    """Permission bits only: set-id and sticky bits are dropped."""
    mtime_ns: int
    target: str = ""
    """Of a SYMLINK as written, relative to its directory; of a HARDLINK a path from the root."""
    sha256: str = ""
    """Hex; empty: not kept (not wanted), or not a FILE."""
    number: int | None = None
    """Its place in the tar, where not all members are recorded; None: its place in the record."""

    def kept(self, sha256: str) -> Member:
        """The member with the digest of its bytes; `replace` takes three times as long, for each of a hundred thousand."""
        return Member(
            self.path, self.type, self.size, self.mode, self.mtime_ns, self.target, sha256=sha256, number=self.number
        )

    def to_json(self) -> dict[str, Any]:
        """The record of this member; empty fields are left out."""
        record: dict[str, Any] = {
            "path": self.path,
            "type": self.type.value,
            "size": self.size,
            "mode": self.mode,
            "mtime_ns": self.mtime_ns,
        }
        if self.target:
            record["target"] = self.target
        if self.sha256:
            record["sha256"] = self.sha256
        if self.number is not None:
            record["number"] = self.number
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Member:
        """The member that `to_json` recorded.

        Raises ValueError for anything that it cannot have written.
        """
        try:
            path, size, mode, mtime_ns = record["path"], record["size"], record["mode"], record["mtime_ns"]
            target, sha256, number = record.get("target", ""), record.get("sha256", ""), record.get("number")
            is_sound = (
                (isinstance(path, str) and isinstance(target, str) and isinstance(sha256, str))
                and (type(size) is int and type(mode) is int and type(mtime_ns) is int)
                and (number is None or type(number) is int)
            )
            if is_sound:
                return cls(path, MemberType(record["type"]), size, mode, mtime_ns, target, sha256, number)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a member's record: {str(record)[:200]}") from error
        raise ValueError(f"not a member's record: {str(record)[:200]}")


def numbered(members: Sequence[Member]) -> Iterator[tuple[int, Member]]:
    """Each member with the number that refers to it."""
    for place, member in enumerate(members):
        yield place if member.number is None else member.number, member


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What is recorded of a layer whose files are kept apart."""

    members: tuple[Member, ...]
    """In the tar's order; those that nobody wanted so far have no `sha256`."""
    reading: Reading = AS_TAR

    def contradicts(self, other: LayerRecord) -> bool:
        """Whether a number means two members: then one of the records is of a release that read tars in another way."""
        mine = dict(numbered(self.members))
        return any(number in mine and mine[number].path != member.path for number, member in numbered(other.members))

    def joined(self, other: LayerRecord) -> LayerRecord:
        """What both know, the same as if the layer had been read for both at once; `other` alone where that cannot be."""
        if (self.reading.form is Form.FILE) is not (other.reading.form is Form.FILE) or self.contradicts(other):
            return other
        mine, its = dict(numbered(self.members)), dict(numbered(other.members))
        if self.reading.covers(other.reading):
            reading, all_members = self.reading, mine
        elif other.reading.covers(self.reading):
            reading, all_members = other.reading, its
        else:
            reading, all_members = self.reading.joined(other.reading), mine | its
        kept = {number: member.sha256 for known in (mine, its) for number, member in known.items() if member.sha256}
        members = ((number, all_members[number]) for number in sorted(all_members))
        return LayerRecord(tuple(replace(member, sha256=kept.get(number, "")) for number, member in members), reading)
