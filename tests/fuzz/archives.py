"""Archives that somebody meant to harm with: real tars of every form, taken apart and put together otherwise.

Single changed bytes rarely get beyond a checksum. So a mutation is one of the structure: a member twice, before another or gone, its
name, type, target, size or mode replaced, an extended header put before it; then the checksums are made right, mostly, and
the whole is compressed, mostly as its type says.
"""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import zstandard

_BLOCK = 512
_HOSTILE_NAMES = (
    b"..", b"../x", b"../../../../tmp/modelcsi-escaped", b"/tmp/modelcsi-escaped", b"a/../../x", b"a/..", b".", b"./", b"", b"//x",
    b"a//b", b"a/./b", b"a\nb", b"a\x1bb", b"\xff\xfe", b"caf\xc3\xa9", b"CON", b"C:\\x", b"..\\x", b"x" * 100, b"d/" * 49, b"link/x",
    b"link", b"dir", b"dir/", b"hard", b"file", b"other", b".wh.file", b"dir/.wh..wh..opq", b".wh..", b"\xed\xa0\x80", b"a" * 80 + b"/b",
)  # fmt: skip
_HOSTILE_TARGETS = (
    b"..", b"../outside", b"/etc/passwd", b"/", b"dir/../..", b"file", b"link", b"dir", b"dir/link/../../..", b"", b".", b"hard",
    b"../dir/file", b"link/link", b"x" * 100, b"/proc/self/fd/3", b"dir/deep/../../file",
)  # fmt: skip
_TYPES = b"\x000123456789ABDEKLMNSVXgxz\xff"
_NUMBERS = (
    b"00000000000\0", b"00000000001\0", b"77777777777\0", b"00000001000\0", b"-0000000001\0", b"           \0",
    b"\x80" + bytes(10) + b"\x05", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80\0\0\0\x7f" + b"\xff" * 7, b"0000000008 \0", b"9" * 12,
)  # fmt: skip
_PAX_RECORDS: tuple[tuple[bytes, bytes], ...] = (
    (b"path", b"../x"), (b"path", b"dir/" + b"n" * 300), (b"path", b"d/" * 70 + b"x"), (b"path", b"a\0b"), (b"path", b""),
    (b"linkpath", b"/etc/shadow"), (b"linkpath", b"../../x"), (b"linkpath", b"file"), (b"size", b"0"), (b"size", b"-1"),
    (b"size", b"99999999999999999999"), (b"size", b"9223372036854775807"), (b"size", b"700"), (b"mtime", b"-1.5"),
    (b"mtime", b"9" * 18), (b"mtime", b"x"), (b"mtime", b"1.123456789123"), (b"GNU.sparse.major", b"1"), (b"GNU.sparse.size", b"99"),
    (b"SCHILY.xattr.security.capability", b"\x01\0\0\2"), (b"SCHILY.xattr.user.x", b"y" * 3000), (b"uid", b"0"), (b"charset", b"BINARY"),
    (b"hdrcharset", b"BINARY"), (b"comment", b"\xff\n\0"),
)  # fmt: skip
MEDIA_TYPES = (
    "application/vnd.cncf.model.weight.v1.tar",
    "application/vnd.cncf.model.weight.v1.tar+gzip",
    "application/vnd.cncf.model.weight.v1.tar+zstd",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)


@dataclass(frozen=True)
class Archive:
    """A layer as somebody pushed it."""

    content: bytes
    media_type: str


def mutated(number: int) -> Archive:
    """The archive of this number: the same in every run."""
    chance = random.Random(number)  # noqa: S311 - not a secret
    members = _members_of(chance.choice(seed_tars()))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        chance.choice(_CHANGES)(members, chance)
    if chance.random() < 0.95:
        members = [_with_checksum(member) for member in members]
    content = b"".join(members) + bytes(chance.choice((0, 512, 1024, 1024, 1024, 10240)))
    return Archive(*_packed(_damaged(content, chance, 0.1), chance))


@cache
def seed_tars() -> tuple[bytes, ...]:
    """Honest tars by the standard library in each of its formats, and what it writes only when told to."""
    honest = [_tar(format) for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    return (*honest, _special_files(), _old_sparse(), _pax_sparse(), _links(), _v7(), _layer_of_an_image())


def _tar(format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        _add(archive, "dir", tarfile.DIRTYPE)
        _add(archive, "dir/file", content=b"x" * 700)
        _add(archive, "file", content=b"y" * 10, mode=0o6755)
        _add(archive, "d/" * 40 + "n" * 90, content=b"long")
        _add(archive, "link", tarfile.SYMTYPE, target="dir/file")
        _add(archive, "hard", tarfile.LNKTYPE, target="file")
        if format != tarfile.USTAR_FORMAT:
            _add(archive, "dir/" + "l" * 150, content=b"longer")
            _add(archive, "dir/link", tarfile.SYMTYPE, target="deep/" * 30 + "x")
        _add(archive, "empty")
    return buffer.getvalue()


def _special_files() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE)):
            _add(archive, f"special-{number}", kind, mode=0o7777)
        _add(archive, "file", content=b"z" * 513)
    return buffer.getvalue()


def _old_sparse() -> bytes:
    header = bytearray(_info("sparse", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000001000\0"  # one piece: offset and size
    header[482], header[483:495] = 1, b"77777777777\0"  # more pieces follow; the size that is claimed
    return bytes(header) + bytes(_BLOCK) + _info("file").tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _pax_sparse() -> bytes:
    info = _info("GNUSparseFile.0/sparse", content=b"1\n0\n512\n".ljust(1024, b"\0"))
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)}
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024) + bytes(1024)


def _links() -> bytes:
    """Links through links, and files below links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "dir/deep/file", content=b"1")
        _add(archive, "dir/up", tarfile.SYMTYPE, target="..")
        _add(archive, "dir/deep/up", tarfile.SYMTYPE, target="../..")
        _add(archive, "link", tarfile.SYMTYPE, target="dir/deep/up/dir/up")
        _add(archive, "chain", tarfile.SYMTYPE, target="link/dir/up/x")
        _add(archive, "loop", tarfile.SYMTYPE, target="loop")
        _add(archive, "hard", tarfile.LNKTYPE, target="dir/deep/file")
        _add(archive, "harder", tarfile.LNKTYPE, target="hard")
    return buffer.getvalue()


def _v7() -> bytes:
    header = bytearray(_info("old/", content=b"").tobuf(tarfile.USTAR_FORMAT))
    header[156:500] = bytes(344)
    file = bytearray(_info("old/file", content=b"7" * 5).tobuf(tarfile.USTAR_FORMAT))
    file[257:500] = bytes(243)
    return _with_checksum(bytes(header)) + _with_checksum(bytes(file)) + b"7" * 5 + bytes(507) + bytes(1024)


def _layer_of_an_image() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "models", tarfile.DIRTYPE)
        _add(archive, "models/model.gguf", content=b"GGUF" * 100)
        _add(archive, "models/.wh.gone")
        _add(archive, "models/sub/.wh..wh..opq")
        _add(archive, "etc/passwd", content=b"root")
        _add(archive, "bin", tarfile.SYMTYPE, target="usr/bin")
        _add(archive, "models/link", tarfile.SYMTYPE, target="model.gguf")
    return buffer.getvalue()


def _info(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", mode: int = 0o644, target: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size, info.mtime = kind, mode, target, len(content), 1_700_000_000
    return info


def _add(
    archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", mode: int = 0o644, target: str = ""
) -> None:  # fmt: skip
    archive.addfile(_info(name, kind, content, mode, target), io.BytesIO(content))


def _members_of(tar: bytes) -> list[bytes]:
    """Each header block with the blocks of its data."""
    members, position = list[bytes](), 0
    while position + _BLOCK <= len(tar) and any(tar[position : position + _BLOCK]):
        digits = tar[position + 124 : position + 135].strip(b" \0")
        size = int(digits, 8) if digits else 0
        end = position + _BLOCK + -(-size // _BLOCK) * _BLOCK
        members.append(tar[position:end])
        position = end
    return members


def _with_checksum(member: bytes) -> bytes:
    block = member[:148] + b" " * 8 + member[156:_BLOCK]
    return block[:148] + b"%06o\0 " % sum(block) + member[156:]


def _set(member: bytes, start: int, length: int, value: bytes) -> bytes:
    return member[:start] + value[:length].ljust(length, b"\0") + member[start + length :]


Change = Callable[[list[bytes], random.Random], None]


def _change(start: int, length: int, values: tuple[bytes, ...]) -> Change:
    """Give a field of any header one of these values."""

    def run(members: list[bytes], chance: random.Random) -> None:
        if members:
            number = chance.randrange(len(members))
            members[number] = _set(members[number], start, length, chance.choice(values))

    return run


def _put_extended_header(members: list[bytes], chance: random.Random) -> None:
    kind = chance.choice((b"x", b"x", b"x", b"g", b"L", b"K"))
    if kind in {b"x", b"g"}:
        body = b"".join(_record(*chance.choice(_PAX_RECORDS)) for _ in range(chance.choice((1, 1, 2, 4))))
        body = _damaged(body, chance, 0.2)
    else:
        body = chance.choice(_HOSTILE_NAMES + _HOSTILE_TARGETS) * chance.choice((1, 1, 20, 400)) + b"\0"
    header = _info("ext", kind, body).tobuf(tarfile.GNU_FORMAT)[-_BLOCK:]
    members.insert(chance.randrange(len(members) + 1), header + body + bytes(-len(body) % _BLOCK))


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return str(length).encode() + rest


def _repeat(members: list[bytes], chance: random.Random) -> None:
    if members:
        members.insert(chance.randrange(len(members) + 1), chance.choice(members))


def _drop(members: list[bytes], chance: random.Random) -> None:
    if members:
        members.pop(chance.randrange(len(members)))


def _shuffle(members: list[bytes], chance: random.Random) -> None:
    chance.shuffle(members)


def _graft(members: list[bytes], chance: random.Random) -> None:
    """A member of another archive."""
    members.insert(chance.randrange(len(members) + 1), chance.choice(_members_of(chance.choice(seed_tars()))))


def _cut(members: list[bytes], chance: random.Random) -> None:
    if members:
        number = chance.randrange(len(members))
        members[number] = members[number][: max(_BLOCK, chance.randrange(len(members[number]) + 1))]


_set_name = _change(0, 100, _HOSTILE_NAMES)
_set_target = _change(157, 100, _HOSTILE_TARGETS)
_set_type = _change(156, 1, tuple(_TYPES[position : position + 1] for position in range(len(_TYPES))))


def _make_link(members: list[bytes], chance: random.Random) -> None:
    if members:
        number = chance.randrange(len(members))
        linked = _set(members[number], 156, 1, chance.choice((b"1", b"2")))
        members[number] = _set(linked, 157, 100, chance.choice(_HOSTILE_TARGETS))


_CHANGES: tuple[Change, ...] = (
    _set_name,
    _set_name,
    _set_type,
    _set_target,
    _make_link,
    _make_link,
    _put_extended_header,
    _put_extended_header,
    _repeat,
    _graft,
    _graft,
    _drop,
    _shuffle,
    _cut,
    _change(124, 12, _NUMBERS),
    _change(136, 12, _NUMBERS),
    _change(100, 8, (b"0007777\0", b"0004755\0", b"0000000\0", b"\x80" + b"\xff" * 7, b"xxxxxxxx", b"0177777\0")),
    _change(257, 8, (b"ustar\x0000", b"ustar  \0", bytes(8), b"ustarXYZ")),
    _change(345, 155, (b"..", b"/etc", b"dir/..", b"link", b"x" * 155)),
    _change(148, 8, (b"0000000\0", b"\xff" * 8)),
)


def _damaged(content: bytes, chance: random.Random, probability: float) -> bytes:
    """Changed bytes, or a stream that ends early; mostly as it was."""
    if not content or chance.random() >= probability:
        return content
    if chance.random() < 0.3:
        return content[: chance.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _packed(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    media_type = chance.choice(MEDIA_TYPES)
    compression = media_type.partition("+")[2] if chance.random() < 0.9 else chance.choice(("", "gzip", "zstd"))
    if compression == "gzip":
        half = chance.randrange(len(content) + 1) if chance.random() < 0.1 else len(content)
        content = gzip.compress(content[:half], 1, mtime=0) + (
            gzip.compress(content[half:], 1) if half < len(content) else b""
        )
    elif compression == "zstd":
        window = zstandard.ZstdCompressionParameters.from_level(1, window_log=chance.choice((10, 19, 23, 27)))
        content = zstandard.ZstdCompressor(compression_params=window).compress(content)
    return _damaged(content, chance, 0.05), media_type
