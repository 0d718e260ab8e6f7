"""Artifacts made to do harm: refused by name, bounded in memory, and nothing written outside."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.fakes.content import FILE_PATH, RAW_WEIGHT
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver, measured_memory
from tests.integration.models import MIB, Format, compressed, push_layers, random_bytes, tar_of

_MEMORY_BYTES = 150 * MIB
_NAME = "evil-payload"


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, 0o644
    return member


def _nul() -> tarfile.TarInfo:
    member = _member("short")
    member.pax_headers = {"path": f"a\0{_NAME}"}
    return member


MEMBERS: dict[str, Callable[[], list[tarfile.TarInfo]]] = {
    "parent": lambda: [_member(f"../../../../{_NAME}")],
    "parent-later": lambda: [_member(f"a/../../{_NAME}")],
    "absolute": lambda: [_member(f"/tmp/{_NAME}")],
    "nul": lambda: [_nul()],
    "newline": lambda: [_member(f"a\n{_NAME}")],
    "long-name": lambda: [_member(f"{'x' * 256}{_NAME}")],
    "deep": lambda: [_member("d/" * 70 + _NAME)],
    "symlink-out": lambda: [_member(_NAME, tarfile.SYMTYPE, "../../outside")],
    "symlink-absolute": lambda: [_member(_NAME, tarfile.SYMTYPE, "/etc/passwd")],
    "symlink-chain": lambda: [
        _member("a", tarfile.SYMTYPE, "b"),
        _member("b", tarfile.DIRTYPE),
        _member(f"b/{_NAME}", tarfile.SYMTYPE, "../a/../../x"),
    ],
    "write-through-symlink": lambda: [_member("link", tarfile.SYMTYPE, "sub"), _member(f"link/{_NAME}")],
    "hardlink-out": lambda: [_member(_NAME, tarfile.LNKTYPE, "../../../etc/passwd")],
    "hardlink-absolute": lambda: [_member(_NAME, tarfile.LNKTYPE, "/etc/passwd")],
    "hardlink-to-nothing": lambda: [_member(_NAME, tarfile.LNKTYPE, "absent")],
    "character-device": lambda: [_member(_NAME, tarfile.CHRTYPE)],
    "block-device": lambda: [_member(_NAME, tarfile.BLKTYPE)],
    "fifo": lambda: [_member(_NAME, tarfile.FIFOTYPE)],
    "sparse": lambda: [_member(_NAME, tarfile.GNUTYPE_SPARSE)],
}

NAMED = {"long-name": "xxx", "write-through-symlink": "'link'"}
"""What the answer names where it is not the payload: the start of what is too long, the link in the way."""


@pytest.mark.parametrize("packed", [Format.TAR, Format.TAR_GZIP], ids=lambda packed: packed.value)
@pytest.mark.parametrize("case", MEMBERS)
def test_hostile_member_is_refused(driver: Driver, registry: FakeRegistry, case: str, packed: Format) -> None:
    """FAILED_PRECONDITION naming the member and the layer; no file of this name anywhere, and nothing of the pod left."""
    tar = tar_of({"fine.txt": b"fine"}, *MEMBERS[case]())
    layer = compressed(tar, packed)
    model = push_layers(registry.content, f"hostile/{case}", [(layer, packed.media_type, {})])
    volume = model.volume(registry.host, f"{case}-{packed.name}")
    answer = driver.kubelet.publish(volume)

    assert grpc.StatusCode.FAILED_PRECONDITION == answer.code, answer.text
    assert str(model.layers[0]) in answer.text
    assert NAMED.get(case, _NAME) in answer.text
    assert not driver.kubelet.target(volume).exists()
    assert [] == [path for top in (driver.directory, Path("/tmp")) for path in top.glob(f"*{_NAME}*")]
    assert [] == list(driver.directory.rglob(f"*{_NAME}*"))
    assert volume.volume_id not in str(driver.ask("status"))


@pytest.mark.parametrize("path", [f"../{_NAME}", f"/{_NAME}", f"a/../../{_NAME}", f"a\0{_NAME}", f"a\n{_NAME}"])
def test_hostile_annotation_is_refused_before_any_byte(driver: Driver, registry: FakeRegistry, path: str) -> None:
    """A manifest tells the paths of raw files: no blob is fetched for one with a bad path."""
    layers = [(b"fine", RAW_WEIGHT, {FILE_PATH: "fine"}), (b"evil", RAW_WEIGHT, {FILE_PATH: path})]
    model = push_layers(registry.content, "hostile/raw", layers)
    answer = driver.kubelet.publish(model.volume(registry.host, f"raw-{path.encode().hex()}"))

    assert grpc.StatusCode.FAILED_PRECONDITION == answer.code, answer.text
    assert _NAME in answer.text
    assert str(model.layers[1]) in answer.text
    assert not registry.blob_gets


def test_set_id_bits_are_dropped(driver: Driver, registry: FakeRegistry) -> None:
    """A set-uid program is shown as a plain program, owned by root."""
    member = _member("tool")
    member.mode, member.uid = 0o6755, 1000
    model = push_layers(registry.content, "hostile/suid", [(tar_of({}, member), Format.TAR.media_type, {})])
    volume = model.volume(registry.host, "suid")
    answer = driver.kubelet.publish(volume)
    status = (driver.kubelet.target(volume) / "tool").lstat()

    assert grpc.StatusCode.OK == answer.code, answer.text
    assert (0o555, 0, 0) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = _member(name, kind)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _gzip(*parts: tuple[bytes, int]) -> bytes:
    """Each part so many times, as gzip members of their own: a bomb costs its maker nothing."""
    buffer = io.BytesIO()
    for data, times in parts:
        buffer.write(gzip.compress(data, 9, mtime=0) * times)
    return buffer.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "one-member": lambda: _gzip((_header("zeros", 24 * 64 * MIB), 1), (bytes(64 * MIB), 24), (bytes(1024), 1)),
    "long-name": lambda: _gzip((_header("././@LongLink", 16 * 64 * MIB, b"L"), 1), (bytes(64 * MIB), 16)),
    "pax-header": lambda: _gzip((_header("pax", 16 * 64 * MIB, b"x"), 1), (bytes(64 * MIB), 16)),
    "many-members": lambda: _gzip(
        (b"".join(_header(f"member/{number}", 0) for number in range(30_000)), 4), (bytes(1024), 1)
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_bounded(make_driver: MakeDriver, registry: FakeRegistry, bomb: str) -> None:
    """Up to 1000:1: the memory of the process stays under 150 MiB, the answer is final or a mount, and the driver lives."""
    driver = make_driver()
    model = push_layers(registry.content, "bomb/gzip", [(BOMBS[bomb](), Format.TAR_GZIP.media_type, {})])
    with measured_memory(driver) as peak:
        answer = driver.kubelet.publish(model.volume(registry.host, bomb), timeout=100)

    assert answer.is_final, answer.text
    assert peak[0] < _MEMORY_BYTES
    assert answer.code in {grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION}
    assert driver.kubelet.probe().is_ok


@pytest.mark.parametrize("packed", [Format.TAR, Format.TAR_GZIP], ids=lambda packed: packed.value)
def test_member_that_claims_more_than_the_disk_has(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """A header with a size of 100 TiB is the artifact's fault, found without waiting for space: FAILED_PRECONDITION."""
    tar = _header("huge", 100 << 40) + random_bytes("huge", 10_000)
    layers = [(compressed(tar, packed), packed.media_type, dict[str, str]())]
    model = push_layers(registry.content, "hostile/huge", layers)
    answer = driver.kubelet.publish(model.volume(registry.host, f"huge-{packed.name}"), timeout=8)

    assert grpc.StatusCode.FAILED_PRECONDITION == answer.code, answer.text
