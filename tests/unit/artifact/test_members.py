from __future__ import annotations

import json
from typing import Any

import pytest

from modelcsi.artifact.members import Member, MemberType

FILE = Member("a/b", MemberType.FILE, 7, 0o644, 1_700_000_000_000_000_001, sha256="ab" * 32)


@pytest.mark.parametrize(
    "member",
    [
        FILE,
        Member("d", MemberType.DIRECTORY, 0, 0o755, 0),
        Member("l", MemberType.SYMLINK, 0, 0o777, 0, target="../é"),
        Member("h", MemberType.HARDLINK, 0, 0o644, 0, target="a/b"),
        Member("dev/null", MemberType.SPECIAL, 0, 0o666, 0, number=7),
    ],
)
def test_record_gives_the_member_back(member: Member) -> None:
    """A member survives being written as JSON and read again."""
    assert member == Member.from_json(json.loads(json.dumps(member.to_json())))


def test_record_has_stable_names() -> None:
    """Records on disk are read by the next release: names and values are fixed."""
    assert {
        "path": "a/b",
        "type": "file",
        "size": 7,
        "mode": 0o644,
        "mtime_ns": 1_700_000_000_000_000_001,
        "sha256": "ab" * 32,
    } == FILE.to_json()


@pytest.mark.parametrize(
    "damage",
    [{"type": "device"}, {"path": 1}, {"size": "7"}, {"size": True}, {"mode": None}, {"sha256": None}, {"type": []}],
)
def test_damaged_record_is_a_value_error(damage: dict[str, Any]) -> None:
    """What cannot have been written is refused."""
    with pytest.raises(ValueError):
        Member.from_json(FILE.to_json() | damage)


def test_record_without_a_field_is_a_value_error() -> None:
    """A record cut short is refused."""
    with pytest.raises(ValueError):
        Member.from_json({"path": "a"})
