from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from modelcsi.oci.digest import Digest
from modelcsi.pack.tarfiles import tar_head, tar_tail
from modelcsi.pack.walk import SourceFile
from tests.examples import blob, manifest_bytes
from tests.unit.artifact.builders import feed

CONTENT = b"x" * 700
NAMES = ("a", "dir/model.safetensors", f"{'d' * 60}/{'f' * 60}", f"{'d' * 200}/{'f' * 200}", "tokenizer_é.json")


def file_at(path: str, size: int = len(CONTENT)) -> SourceFile:
    """A file as `walk` describes it."""
    return SourceFile(path, Path("unused"), size, 0o640, 1_700_000_000_500_000_000)


def tar_of(path: str) -> bytes:
    """The tar of one file."""
    file = file_at(path)
    return tar_head(file, file.mtime_seconds) + CONTENT + tar_tail(file)


@pytest.mark.parametrize("path", NAMES)
def test_standard_library_reads_it(path: str) -> None:
    """Any tar reader finds the one member, with mode, time and nobody as its owner."""
    with tarfile.open(fileobj=io.BytesIO(tar_of(path))) as archive:
        (member,) = archive.getmembers()
        source = archive.extractfile(member)
        assert source is not None
        content = source.read()

    assert (path, 0o640, 1_700_000_000, 0, 0, "", "") == (
        member.name, member.mode, member.mtime, member.uid, member.gid, member.uname, member.gname,
    )  # fmt: skip
    assert CONTENT == content


@pytest.mark.parametrize("path", NAMES)
def test_own_parser_reads_it(path: str) -> None:
    """The driver finds the same."""
    ((member, content),), _ = feed(tar_of(path))

    assert (path, 0o640, 1_700_000_000_000_000_000, CONTENT) == (member.path, member.mode, member.mtime_ns, content)


@pytest.mark.parametrize("path", ["a", "dir/model.safetensors", f"{'d' * 60}/{'f' * 60}"])
def test_plain_names_need_no_pax_header(path: str) -> None:
    """As modctl writes it: ustar, one header block, the content, two zero blocks."""
    tar = tar_of(path)

    assert (b"ustar\x0000", b"0") == (tar[257:265], tar[156:157])
    assert 512 + 1024 + 1024 == len(tar)


def test_size_over_8_gib_is_told_by_pax() -> None:
    """What the octal field of ustar cannot hold goes into a pax record."""
    head = tar_head(file_at("model.gguf", 9 << 30), 0)

    assert (b"x", b" size=9663676416\n") == (head[156:157], head[head.index(b" size=") : head.index(b"416\n") + 4])


def test_tar_is_that_of_modctl_but_for_the_owner() -> None:
    """Byte for byte what modctl wrote of the same files, except for the fields of owners and the checksum over them."""
    manifest = json.loads(manifest_bytes("modctl-tar"))
    ours, theirs = [], []
    for layer in manifest["layers"]:
        real = blob(Digest.parse(layer["digest"]))
        with tarfile.open(fileobj=io.BytesIO(real)) as archive:
            (member,) = archive.getmembers()
            source = archive.extractfile(member)
            assert source is not None
            content = source.read()
        file = SourceFile(member.name, Path("unused"), member.size, member.mode, 0)
        ours.append(without_owner(tar_head(file, int(member.mtime)) + content + tar_tail(file)))
        theirs.append(without_owner(real))

    assert theirs == ours


def without_owner(tar: bytes) -> bytes:
    """The tar without uid and gid, checksum, user and group name, and the device numbers, which are NUL or zero."""
    head = bytearray(tar[:512])
    for field in (slice(108, 124), slice(148, 156), slice(265, 345)):
        head[field] = bytes(field.stop - field.start)
    return bytes(head) + tar[512:]
