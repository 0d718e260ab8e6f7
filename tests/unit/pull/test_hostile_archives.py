"""The classes of hostile archives that were published, each through manifest, unpacking, store, tree and view.

A class by itself may have its own test of the code that refuses it: `test_tar_hostile`, `test_tarheader`, `test_links`, `test_tree`. Here
each is an archive, as it would be pushed, and what matters is what is on the disk afterwards.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from modelcsi.artifact.paths import MAX_PATH_BYTES
from modelcsi.errors import UnsupportedArtifact
from tests.fuzz.archives import MEDIA_TYPES, Archive
from tests.fuzz.unpacking import Sandbox
from tests.unit.artifact.builders import END, extended, header, padded, pax, record

_TAR, _TAR_GZIP, _TAR_ZSTD = MEDIA_TYPES[:3]
_LONG = b"d" * 240 + b"\0"
_CAPABILITY = b"\x01\0\0\2\0\x04\0\0" + bytes(12)


def _file(name: str, content: bytes = b"evil", *, mode: int | None = None) -> bytes:
    block = header(name, content=content)
    return (_with(block, 100, b"%07o\0" % mode) if mode is not None else block) + padded(content)


def _with(block: bytes, position: int, value: bytes) -> bytes:
    """The header with another value in a field, and its checksum made right."""
    changed = block[:position] + value + block[position + len(value) :]
    changed = changed[:148] + b" " * 8 + changed[156:]
    return changed[:148] + b"%06o\0 " % sum(changed) + changed[156:]


def _link(name: str, target: str) -> bytes:
    return header(name, tarfile.SYMTYPE, target=target)


def _hard(name: str, target: str) -> bytes:
    return header(name, tarfile.LNKTYPE, target=target)


def _dir(name: str) -> bytes:
    return header(name, tarfile.DIRTYPE)


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "CVE-2007-4559 parent": ("leaves", lambda: _file("../outside")),
    "parent behind a directory": ("leaves", lambda: _file("dir/../../outside")),
    "gh-157190 parent and back": ("leaves", lambda: _file("../store/../outside")),
    "CVE-2026-19672 directories outside": ("leaves", lambda: _dir("../evil/") + _file("../evil/../store/x")),
    "absolute": ("absolute", lambda: _file("/tmp/modelcsi-escaped")),
    "absolute by pax": ("absolute", lambda: pax(path="/tmp/modelcsi-escaped") + _file("x")),
    "parent by a GNU long name": ("leaves", lambda: extended(b"L", b"../outside\0") + _file("x")),
    "parent by the ustar prefix": ("leaves", lambda: _with(_with(header("outside"), 257, b"ustar\x0000"), 345, b"..")),
    "link out": ("leaves", lambda: _link("link", "../outside")),
    "link to an absolute path": ("absolute", lambda: _link("link", "/etc/passwd")),
    "link of an empty target": ("empty", lambda: _link("link", "")),
    "gh-149486 link of an empty name": ("names no file", lambda: _link("", "x") + _file("x")),
    "write through a link": ("symbolic link", lambda: _dir("dir") + _link("link", "dir") + _file("link/x")),
    "CVE-2025-4517 directories behind short links to long names": (
        "symbolic link",
        lambda: extended(b"L", _LONG) + _dir("x") + extended(b"K", _LONG) + _link("a", "x") + _dir("a/b"),
    ),
    "CVE-2025-4138 link by a link": (
        "leaves",
        lambda: _dir("a/b") + _link("a/b/up", "../..") + _link("x", "a/b/up/../outside"),
    ),
    "CVE-2025-4330 link made later": ("leaves", lambda: _link("x", "a/b/../../y") + _link("a/b", "..") + _file("y")),
    "CVE-2026-85731 chain of links": (
        "leaves",
        lambda: (
            _link("one", "two/..") + _link("two", "three/..") + _dir("three") + _file("x") + _link("four", "one/../x")
        ),
    ),
    "link at the root": (
        "symbolic link|leaves",
        lambda: _link("models", ".") + _file("models/x") + _link("models", ".."),
    ),
    "hard link out": ("leaves", lambda: _hard("hard", "../outside")),
    "hard link to an absolute path": ("absolute", lambda: _hard("hard", "/etc/passwd")),
    "CVE-2026-50163 hard link from the working directory": ("no file before it", lambda: _hard("hard", "README.md")),
    "CVE-2026-11940 hard link to a link": ("no file before it", lambda: _link("link", "file") + _hard("hard", "link")),
    "CVE-2026-4360 hard link to a directory": ("no file before it", lambda: _dir("dir") + _hard("hard", "dir")),
    "hard link through a link": (
        "no file before it",
        lambda: _dir("d") + _file("d/x") + _link("l", "d") + _hard("h", "l/x"),
    ),
    "hard link to itself": ("no file before it", lambda: _hard("hard", "hard")),
    "character device": ("character device", lambda: header("null", tarfile.CHRTYPE)),
    "block device": ("block device", lambda: header("sda", tarfile.BLKTYPE)),
    "FIFO": ("FIFO", lambda: header("fifo", tarfile.FIFOTYPE)),
    "whiteout by a device": ("character device", lambda: _file("x") + header("x", tarfile.CHRTYPE)),
    "unknown type": ("unknown type", lambda: header("x", b"Z")),
    "sparse of an exbibyte": ("sparse", lambda: _with(header("x", b"S"), 483, b"\x80" + bytes(4) + b"\x10" + bytes(6))),
    "sparse by pax": (
        "sparse",
        lambda: pax(**{"GNU.sparse.realsize": str(1 << 60), "GNU.sparse.major": "1"}) + _file("x"),
    ),
    "CVE-2025-8194 negative size": ("impossible", lambda: _with(header("x"), 124, b"\xff" * 12)),
    "negative size by pax": ("impossible size", lambda: pax(size="-512") + _file("x")),
    "size beyond 63 bits": ("impossible", lambda: _with(header("x"), 124, b"\x80" + b"\xff" * 11)),
    "size of a tebibyte": (
        "claims|middle of a member",
        lambda: _with(header("x"), 124, b"\x80" + bytes(5) + b"\x01" + bytes(5)),
    ),
    "digit that is not octal": ("impossible number", lambda: _with(header("x"), 124, b"00000000009\0")),
    "wrong checksum": ("checksum", lambda: header("x")[:148] + b"0000001\0" + header("x")[156:]),
    "CVE-2024-6232 a pax header of digits": ("extended headers", lambda: extended(b"x", b"1" * (1 << 20)) + _file("x")),
    "CVE-2024-6232 a short one": ("malformed pax", lambda: extended(b"x", b"1" * 60_000) + _file("x")),
    "long name of megabytes": ("extended headers", lambda: extended(b"L", b"x" * (2 << 20)) + _file("x")),
    "chain of headers": ("extended headers", lambda: pax(comment="x") * 1000 + _file("x")),
    "names for all members": ("all members", lambda: extended(b"g", record("path", b"x")) + _file("y")),
    "control characters": ("control characters", lambda: _file("a\x1b[2Jb")),
    "NUL by pax": ("control characters", lambda: pax(path="a\0b") + _file("x")),
    "not UTF-8": ("not UTF-8", lambda: extended(b"L", b"caf\xe9\0") + _file("x")),
    "deep": ("directories deep", lambda: extended(b"L", b"d/" * 70 + b"x\0") + _file("x")),
    "long component": ("255 bytes", lambda: extended(b"L", b"x" * 256 + b"\0") + _file("x")),
    "path of 4096 bytes": ("bytes", lambda: extended(b"L", b"/".join([b"x" * 240] * 17) + b"\0") + _file("x")),
    "file where a directory is": ("is a directory", lambda: _file("a/b") + _file("a")),
    "directory where a file is": ("is a file", lambda: _file("a") + _file("a/b")),
    "cut off": ("middle of a member", lambda: _file("x", b"1" * 2000)[:1024]),
    "no tar": ("not a tar", lambda: b"PK\x03\x04" * 300),
    "nothing": ("no content", lambda: b""),
}

_SHORT = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A store between files that no archive may touch."""
    made = Sandbox(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize(
    "pack", [(_TAR, bytes), (_TAR_GZIP, gzip.compress), (_TAR_ZSTD, zstandard.compress)], ids=["tar", "gzip", "zstd"]
)
@pytest.mark.parametrize("case", REFUSED)
def test_hostile_archive_is_refused(sandbox: Sandbox, case: str, pack: tuple[str, Callable[[bytes], bytes]]) -> None:
    """By the right reason, whatever its compression; nothing is left of it, and nothing around it changed."""
    reason, make = REFUSED[case]
    media_type, compress = pack
    with pytest.raises(UnsupportedArtifact, match=reason):
        sandbox.pull(Archive(compress(make() + END), media_type))

    assert [] == sandbox.objections(None)
    assert [] == list(sandbox.store.layout.views.iterdir())


@dataclass(frozen=True)
class Shown:
    """An archive that is not refused, and what a pod sees of it: content of files, targets of links, None for directories."""

    archives: Callable[[], list[bytes]]
    tree: dict[str, bytes | str | None]


ACCEPTED: dict[str, Shown] = {
    "set-id and sticky bits": Shown(
        lambda: [_file("suid", mode=0o4755) + _file("sgid", mode=0o2711) + _with(_dir("sticky"), 100, b"0007777\0")],
        {"suid": b"evil", "sgid": b"evil", "sticky": None},
    ),
    "CVE-2021-32760 mode of a directory by a link": Shown(
        lambda: [_dir("d") + _file("d/x") + _with(_link("l", "d"), 100, b"0007777\0")],
        {"d": None, "d/x": b"evil", "l": "d"},
    ),
    "capabilities": Shown(
        lambda: [extended(b"x", record("SCHILY.xattr.security.capability", _CAPABILITY)) + _file("x", mode=0o755)],
        {"x": b"evil"},
    ),
    "owner": Shown(lambda: [_with(_file("x")[:512], 108, b"0001750\x000001750\0") + padded(b"evil")], {"x": b"evil"}),
    "a file twice": Shown(lambda: [_file("x", b"first") + _file("x", b"second")], {"x": b"second"}),
    "a link, then a file in its place": Shown(
        lambda: [_file("y", b"kept") + _link("x", "y") + _file("x")], {"x": b"evil", "y": b"kept"}
    ),
    "a file, then a link in its place": Shown(
        lambda: [_file("x", b"gone") + _link("x", "y") + _file("y", b"1")], {"x": "y", "y": b"1"}
    ),
    "CVE-2025-4517 overwriting by a hard link": Shown(
        lambda: [_file("x", b"kept") + _hard("h", "x") + _file("h")], {"x": b"kept", "h": b"evil"}
    ),
    "CVE-2025-4435 data of a link": Shown(
        lambda: [_with(_link("l", "x"), 124, b"00000001000\0") + _file("x")], {"l": "x", "x": b"evil"}
    ),
    "names that are equal elsewhere": Shown(
        lambda: [_file("A", b"1") + _file("a", b"2") + _file("\u00e9", b"3") + _file("e\u0301", b"4")],
        {"A": b"1", "a": b"2", "\u00e9": b"3", "e\u0301": b"4"},
    ),
    "backslashes and dots": Shown(lambda: [_file("..\\x") + _file("...")], {"..\\x": b"evil", "...": b"evil"}),
    "what follows the end": Shown(lambda: [_file("x") + END + _file("../outside")], {"x": b"evil"}),
    "a link in circles": Shown(lambda: [_link("a", "b") + _link("b", "a")], {"a": "b", "b": "a"}),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_harmless_is_shown_without_harm(sandbox: Sandbox, case: str) -> None:
    """No bits, owners, attributes or places but those that are shown to everybody."""
    view = sandbox.pull(*(Archive(tar + END, _TAR) for tar in ACCEPTED[case].archives()))

    assert ACCEPTED[case].tree == _tree(view)
    assert [] == sandbox.objections(view)
    assert {(os.getuid(), os.getgid())} == {(path.lstat().st_uid, path.lstat().st_gid) for path in view.rglob("*")}
    assert [] == [
        name for path in view.rglob("*") for name in os.listxattr(path, follow_symlinks=False) if "security.cap" in name
    ]


def _tree(view: Path) -> dict[str, bytes | str | None]:
    return {
        str(path.relative_to(view)): str(path.readlink())
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in view.rglob("*")
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_link("dir", ".."), _file("dir/outside")),
        (_link("dir", "x"), _file("dir/file")),
        (_file("dir"), _file("dir/file")),
    ],
    ids=["CVE-2025-45582 link out", "link inside", "file"],
)
def test_second_layer_writes_through_no_link_of_the_first(sandbox: Sandbox, first: bytes, second: bytes) -> None:
    """Layers are one tree: what is refused in one tar is refused in two."""
    with pytest.raises(UnsupportedArtifact):
        sandbox.pull(Archive(first + END, _TAR), Archive(second + END, _TAR))

    assert [] == sandbox.objections(None)


@pytest.mark.parametrize(("media_type", "head"), [(_TAR_GZIP, _SHORT[0]), (_TAR_ZSTD, _SHORT[1])], ids=["gzip", "zstd"])
def test_broken_compression_is_refused(sandbox: Sandbox, media_type: str, head: bytes) -> None:
    """What only begins like a compressed stream."""
    with pytest.raises(UnsupportedArtifact, match=r"is not valid|cut off"):
        sandbox.pull(Archive(head + b"\xff" * 600, media_type))

    assert [] == sandbox.objections(None)


@pytest.mark.parametrize("is_directory", [False, True], ids=["file", "directory"])
def test_longest_path_is_shown_or_refused(sandbox: Sandbox, is_directory: bool) -> None:
    """Behind the store's own path, no system call takes that of the longest directory: refused by name, nothing is left.

    The longest file is reached by its directory, as a pod reaches it.
    """
    path = "/".join(["x" * 240] * 16) + "/" + "y" * (MAX_PATH_BYTES - 16 * 241)
    archive = Archive(extended(b"L", path.encode() + b"\0") + header("x", b"5" if is_directory else b"0") + END, _TAR)
    if is_directory:
        with pytest.raises(UnsupportedArtifact, match="too long for this node"):
            sandbox.pull(archive)
        shown = [path.name for path in sandbox.store.layout.views.iterdir()]
    else:
        view = sandbox.pull(archive)
        shown = [name for _, _, names, _ in os.fwalk(view) for name in names if name != path.rpartition("/")[2]]

    assert [] == shown
    assert [] == sandbox.objections(None)
