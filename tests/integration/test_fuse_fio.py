"""fio reads what fio wrote, through a lazy mount, and verifies every block: an opinion that is not this project's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcsi.mount.adapters import choose_adapter
from tests.fakes.lazy import LazyFile
from tests.integration.fuse.lazytree import ADAPTERS, LazyTree, lazy_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
    pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not here: hack/setup installs it"),
]

_FILE_BYTES = 24 << 20
_BLOCK_BYTES = 16 << 10
_JOBS = 8
_ENGINES = {
    "read": ("--ioengine=psync",),
    "mmap": ("--ioengine=mmap",),
    "direct": ("--ioengine=libaio", "--direct=1", "--iodepth=16"),
}
_WRITTEN = ("--rw=write", "--verify=crc32c", "--do_verify=0")


def _fio(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    size = (f"--size={_FILE_BYTES}", f"--bs={_BLOCK_BYTES}")
    command = ["fio", "--name=job", f"--filename={file}", *size, "--output-format=json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def _verified(file: Path, engine: str, order: str) -> tuple[int, str]:
    """How many blocks all jobs read, and what fio has against them."""
    crowd = (f"--numjobs={_JOBS}", "--group_reporting", "--readonly", "--invalidate=0")
    done = _fio(file, f"--rw={order}", "--verify=crc32c", *_ENGINES[engine], *crowd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["jobs"][0]["read"]["total_ios"], done.stderr


@pytest.fixture(scope="module")
def written() -> Iterator[bytes]:
    """What fio writes: blocks with their own checksums and places."""
    with tempfile.TemporaryDirectory(prefix="modelcsi-fio-", dir="/var/tmp") as area:
        file = Path(area, "model")
        assert _fio(file, *_WRITTEN).returncode == 0
        yield file.read_bytes()


@pytest.fixture(params=ADAPTERS)
def tree(request: pytest.FixtureRequest, written: bytes) -> Iterator[LazyTree]:
    """The file in a view of which nothing is here; what is read arrives."""
    choice = choose_adapter(request.param)
    if choice.adapter is None:
        pytest.skip(choice.reason)
    with (
        tempfile.TemporaryDirectory(prefix="modelcsi-fio-", dir="/var/tmp") as area,
        lazy_tree(Path(area), [LazyFile("model", written)], request.param) as served,
    ):
        yield served


@pytest.mark.parametrize("order", ["read", "randread"])
@pytest.mark.parametrize("engine", list(_ENGINES))
def test_every_block_is_what_was_written(tree: LazyTree, engine: str, order: str) -> None:
    """Eight jobs at once, while the file arrives and again when it is complete: no block is wrong, stale or elsewhere."""
    expected = (_JOBS * _FILE_BYTES // _BLOCK_BYTES, "")
    arriving = _verified(tree.mount / "model", engine, order)
    tree.complete()

    assert expected == arriving
    assert expected == _verified(tree.mount / "model", engine, order)


def test_fio_sees_a_wrong_byte(written: bytes, tmp_path: Path) -> None:
    """Else the tests above say nothing."""
    wrong = bytearray(written)
    wrong[5_000_000] ^= 1
    (tmp_path / "model").write_bytes(wrong)

    assert 0 != _fio(tmp_path / "model", "--rw=read", "--verify=crc32c", "--readonly").returncode
