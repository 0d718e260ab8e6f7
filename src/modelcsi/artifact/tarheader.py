"""One header block of a tar, and the records of a pax header: bytes in, checked values out.

Strict where two readers could understand different things (numbers, checksum, record lengths, encoding), since tars were
used to tell one tool one thing and another tool another.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from modelcsi.errors import UnsupportedArtifact

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
_MAX_NUMBER = 1 << 63
_POSIX_MAGIC = b"ustar\x00"
_CHECKSUM_AS_SPACES = 8 * ord(" ")
_FIELDS = struct.Struct("100s8s16x12s12s8sc100s255x")
"""name, mode, (owners), size, mtime, checksum, type, link name."""
_OCTAL_DIGITS = b"01234567"
_PAX_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]{0,30}))?")
_NANOSECONDS = 1_000_000_000


class Header(NamedTuple):
    """The fields of a header block that mean something here; owners and device numbers do not."""

    name: bytes
    type: bytes
    size: int
    mode: int
    mtime_ns: int
    link_name: bytes


def parse_header(block: bytes, where: str) -> Header:
    """The header in a block of 512 bytes: v7, POSIX ustar or GNU. Raises UnsupportedArtifact."""
    name, mode, size, mtime, checksum, kind, link_name = _FIELDS.unpack(block)
    stored = _number(checksum, where)
    actual = _byte_sum(block) - sum(checksum) + _CHECKSUM_AS_SPACES
    # Some old tars sum signed bytes, which POSIX tells readers to accept.
    if stored != actual and stored != actual - 256 * len(_high_bytes(block[:148] + block[156:])):
        raise UnsupportedArtifact(f"{where} is not a tar, or is damaged: a header's checksum is wrong")
    name = _text(name)
    # In GNU's format the same bytes are times; in POSIX' they are the first part of a long path.
    if block[345] and block.startswith(_POSIX_MAGIC, 257):
        name = _text(block[345:500]) + b"/" + name
    return Header(
        name,
        kind,
        _number(size, where),
        _number(mode, where) & 0o777,
        _mtime_ns(mtime, where),
        _text(link_name),
    )


def parse_pax(body: bytes, where: str) -> dict[bytes, bytes]:
    """The records `length key=value` of a pax header; an empty value takes a record back. Raises UnsupportedArtifact."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 8)
        digits = body[position:space] if space > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not space + 1 < end <= len(body) or body[end - 1 : end] != b"\n" or not equals or not key:
            raise UnsupportedArtifact(f"{where} has a malformed pax header")
        records[key] = value
        position = end
    return records


def pax_number(value: bytes, where: str) -> int:
    """A size in a pax record. Raises UnsupportedArtifact."""
    if len(value) > 19 or not value.isdigit() or (number := int(value)) >= _MAX_NUMBER:
        raise UnsupportedArtifact(f"{where} has the impossible size {value[:40]!r} in a pax header")
    return number


def pax_mtime_ns(value: bytes, where: str) -> int:
    """A time in a pax record, in nanoseconds; times before 1970 and after 2262 become 1970. Raises UnsupportedArtifact."""
    match = _PAX_TIME.fullmatch(value)
    if match is None:
        raise UnsupportedArtifact(f"{where} has the impossible time {value[:40]!r} in a pax header")
    nanoseconds = int(match[2]) * _NANOSECONDS + int((match[3] or b"")[:9].ljust(9, b"0"))
    return 0 if match[1] else _clamp_time(nanoseconds)


def decode_name(name: bytes, where: str) -> str:
    """A name in UTF-8. Raises UnsupportedArtifact."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise UnsupportedArtifact(f"unsafe path {name[:200]!r} in {where}: it is not UTF-8") from error


def _byte_sum(block: bytes) -> int:
    """The low half of an Adler-32 is 1 and the sum of the bytes, modulo 65521, which 256 bytes cannot reach.

    `sum` takes 1.5 us a block, a quarter of all that a member costs the parser; this takes 0.3.
    """
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, where: str) -> int:
    """Octal digits between spaces and NULs, or a positive number in base 256 (GNU, for what octal cannot hold)."""
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.strip(_OCTAL_DIGITS):
        return int(digits, 8)
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
        if number < _MAX_NUMBER:
            return number
    raise UnsupportedArtifact(f"{where} is not a tar, or is damaged: a header has the impossible number {field!r}")


def _mtime_ns(field: bytes, where: str) -> int:
    # Times before 1970 are legal (0xff…), mean nothing to us, and must not make an artifact unusable.
    return 0 if field[0] == 0xFF else _clamp_time(_number(field, where) * _NANOSECONDS)


def _clamp_time(nanoseconds: int) -> int:
    return nanoseconds if nanoseconds < _MAX_NUMBER else 0


def _high_bytes(data: bytes) -> bytes:
    return data.translate(None, bytes(range(0x80)))
