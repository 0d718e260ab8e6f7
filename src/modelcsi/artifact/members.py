"""The members of a tar layer, as they are recorded: each has its place in the tar's order, which is what refers to it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_MEMBERS = 100_000
"""In one layer, and entries in one tree: ten times the largest artifact that was met."""


PACKED_FILE = ""
"""The path of the only member of a layer that is a compressed file: no tar has such a one."""


class MemberType(enum.Enum):
    """What may be in a tar; the value is written into records."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


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
