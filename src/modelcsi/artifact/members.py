"""The members of a tar layer, as they are recorded: each has its place in the tar's order, which is what refers to it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
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
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Member:
        """The member that `to_json` recorded.

        Raises ValueError for anything that it cannot have written.
        """
        try:
            member = cls(
                record["path"],
                MemberType(record["type"]),
                record["size"],
                record["mode"],
                record["mtime_ns"],
                record.get("target", ""),
                record.get("sha256", ""),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a member's record: {str(record)[:200]}") from error
        texts = (member.path, member.target, member.sha256)
        numbers = (member.size, member.mode, member.mtime_ns)
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise ValueError(f"not a member's record: {str(record)[:200]}")
        return member
