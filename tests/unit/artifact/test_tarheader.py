from __future__ import annotations

import pytest

from modelcsi.artifact.tarheader import parse_header, parse_pax, pax_mtime_ns, pax_number
from modelcsi.errors import UnsupportedArtifact
from tests.unit.artifact.builders import WHERE, tar_info


def block(**fields: bytes) -> bytes:
    """A header block with some fields replaced, and the right checksum."""
    places = {"mode": 100, "size": 124, "mtime": 136, "type": 156, "magic": 257, "prefix": 345, "owner": 265}
    header = bytearray(tar_info("name", b"12345").tobuf()[:512])
    for name, value in fields.items():
        header[places[name] : places[name] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    ("field", "size"),
    [
        (b"00000000017\0", 15),
        (b"000000000017", 15),
        (b"         17 ", 15),
        (b"17\0\0\0\0\0\0\0\0\0\0", 15),
        (b" " * 12, 0),
        (b"\0" * 12, 0),
        (b"77777777777\0", (1 << 33) - 1),
        (b"\x80" + bytes(3) + (1 << 40).to_bytes(8, "big"), 1 << 40),
    ],
)
def test_numbers(field: bytes, size: int) -> None:
    """Octal as any tar writes it, and GNU's base 256."""
    assert size == parse_header(block(size=field), WHERE).size


@pytest.mark.parametrize(
    "field",
    [
        b"0000000008\0\0",
        b"-0000000017\0",
        b"+0000000017\0",
        b"0o000000017\0",
        b"0_000000017\0",
        b"17\x000000000\0\0",
        b"1 7         ",
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"\x80" + bytes(3) + (1 << 63).to_bytes(8, "big"),
        b"\x81" + bytes(11),
        "٣".encode() + bytes(10),
    ],
)
def test_impossible_numbers_are_refused(field: bytes) -> None:
    """Negative, too large, or not a number: two readers would see two archives."""
    with pytest.raises(UnsupportedArtifact, match="impossible number"):
        parse_header(block(size=field), WHERE)


def test_set_id_bits_are_dropped() -> None:
    """Only the permission bits are kept."""
    assert 0o755 == parse_header(block(mode=b"0007755\0"), WHERE).mode


@pytest.mark.parametrize(
    ("field", "expected"),
    [(b"00000000001\0", 1_000_000_000), (b"\xff" * 12, 0), (b"\x80" + bytes(3) + (1 << 62).to_bytes(8, "big"), 0)],
)
def test_times_outside_the_range_are_the_epoch(field: bytes, expected: int) -> None:
    """A strange time is no reason to refuse a file."""
    assert expected == parse_header(block(mtime=field), WHERE).mtime_ns


def test_checksum_is_verified() -> None:
    """One flipped bit in a header is noticed."""
    header = bytearray(block())
    header[3] ^= 1
    with pytest.raises(UnsupportedArtifact, match="checksum"):
        parse_header(bytes(header), WHERE)


def test_signed_checksum_is_accepted() -> None:
    """Some old tars sum signed bytes."""
    header = bytearray(block(owner=b"\xe9\xff"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in header)

    assert b"name" == parse_header(bytes(header), WHERE).name


@pytest.mark.parametrize(
    ("magic", "name"), [(b"ustar\x0000", b"a/dir/name"), (b"ustar  \0", b"name"), (bytes(8), b"name")]
)
def test_prefix_belongs_to_posix_only(magic: bytes, name: bytes) -> None:
    """In GNU's format the same bytes are times."""
    assert name == parse_header(block(magic=magic, prefix=b"a/dir"), WHERE).name


def test_pax_records() -> None:
    """Length, key, value; values may have equals signs and line feeds; the last of a key counts."""
    body = b"9 path=a\n13 path=a=b\n\n6 x=\xff\n5 y=\n"

    assert {b"path": b"a=b\n", b"x": b"\xff", b"y": b""} == parse_pax(body, WHERE)


@pytest.mark.parametrize(
    "body",
    [
        b"\n",
        b"9 path=a",
        b"9 path=ab\n",
        b"11 path=a\n",
        b"8 path=a\n",
        b"0 a=b\n",
        b"-9 path=a\n",
        b" 9 path=a\n",
        b"7 path\n\n",
        b"5 =a\n",
        b"3 \n",
        b"2 \n",
        b"999999999999999999999 a=b\n",
        b"9" * 60_000,
        "٩ path=a\n".encode(),
    ],
)
def test_malformed_pax_records_are_refused(body: bytes) -> None:
    """A record that is not exactly as long as it says ends the reading."""
    with pytest.raises(UnsupportedArtifact, match="pax header"):
        parse_pax(body, WHERE)


@pytest.mark.parametrize("value", [b"-1", b"1.5", b"", b"x", b"9223372036854775808", b"1" * 60_000, b"1_0", b" 1"])
def test_impossible_pax_sizes_are_refused(value: bytes) -> None:
    """Digits, below 2^63."""
    with pytest.raises(UnsupportedArtifact, match="impossible size"):
        pax_number(value, WHERE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1.5", 1_500_000_000),
        (b"1", 1_000_000_000),
        (b"1.", 1_000_000_000),
        (b"1.1234567899", 1_123_456_789),
        (b"-1.5", 0),
        (b"999999999999", 0),
    ],
)
def test_pax_times(value: bytes, expected: int) -> None:
    """Nanoseconds; what is out of range becomes the epoch."""
    assert expected == pax_mtime_ns(value, WHERE)


@pytest.mark.parametrize("value", [b"now", b"1e9", b"1" * 60_000, b"1.5.5"])
def test_impossible_pax_times_are_refused(value: bytes) -> None:
    """A time is a decimal number."""
    with pytest.raises(UnsupportedArtifact, match="impossible time"):
        pax_mtime_ns(value, WHERE)
