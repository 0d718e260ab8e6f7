from __future__ import annotations

import gzip

import pytest

from modelcsi.artifact.layer import (
    RAW,
    TAR,
    TAR_GZIP,
    TAR_ZSTD,
    Codec,
    Compression,
    Layer,
    is_tar_head,
    sniff_codec,
)
from modelcsi.artifact.mediatypes import canonical, codec_of, is_encrypted, is_image_layer
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from tests.unit.artifact.builders import files_tar

TAR_BYTES = files_tar({"a": b"x"})
ZSTD_BYTES = b"\x28\xb5\x2f\xfd" + bytes(8)
GZIP_BYTES = gzip.compress(TAR_BYTES)


@pytest.mark.parametrize("declared", [TAR, TAR_GZIP, TAR_ZSTD])
@pytest.mark.parametrize(
    ("head", "expected"), [(TAR_BYTES[:512], TAR), (GZIP_BYTES[:512], TAR_GZIP), (ZSTD_BYTES, TAR_ZSTD)]
)
def test_bytes_decide_the_codec_of_a_tar(declared: Codec, head: bytes, expected: Codec) -> None:
    """A tar-typed layer is what its bytes are, whatever the media type says."""
    assert expected == sniff_codec(declared, head)


@pytest.mark.parametrize("declared", [TAR, TAR_GZIP, TAR_ZSTD])
@pytest.mark.parametrize("head", [b"", bytes(1024), b"hello"])
def test_without_a_magic_the_declared_codec_stays(declared: Codec, head: bytes) -> None:
    """An empty tar and a v7 tar have no magic."""
    assert declared == sniff_codec(declared, head)


@pytest.mark.parametrize("head", [TAR_BYTES, GZIP_BYTES, ZSTD_BYTES])
def test_raw_is_never_sniffed(head: bytes) -> None:
    """A file that is a tar stays a file."""
    assert RAW == sniff_codec(RAW, head)


def test_tar_head() -> None:
    """What makes an undecided layer a tar is the magic, after decompression."""
    assert [True, False, False] == [is_tar_head(head) for head in (TAR_BYTES, GZIP_BYTES, bytes(1024))]


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.cncf.model.weight.v1.raw", RAW),
        ("application/vnd.cncf.model.weight.v1.tar", TAR),
        ("application/vnd.cncf.model.weight.config.v1.tar+gzip", TAR_GZIP),
        ("application/vnd.cncf.model.doc.v1.tar+zstd", TAR_ZSTD),
        ("application/vnd.kitops.modelkit.model.v1.raw+gzip", Codec(is_tar=False, compression=Compression.GZIP)),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", TAR_GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", TAR_ZSTD),
        ("application/vnd.cnai.model.layer.v1.tar+gzip", TAR_GZIP),
        ("application/octet-stream", None),
        ("application/vnd.docker.ai.gguf.v3", None),
        ("application/x-avatar", None),
        ("", None),
    ],
)
def test_codec_of_a_media_type(media_type: str, expected: Codec | None) -> None:
    """The suffix tells, in OCI's and in Docker's spelling."""
    assert expected == codec_of(media_type)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.oci.image.layer.v1.tar", True),
        ("application/vnd.oci.image.layer.v1.tar+gzip", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.oci.image.layer.v1.tar+lz4", False),
        ("application/vnd.cncf.model.weight.v1.tar", False),
    ],
)
def test_image_layers(media_type: str, expected: bool) -> None:
    """Nondistributable and foreign layers are like their plain twins."""
    assert expected is is_image_layer(media_type)


def test_media_types_are_compared_without_parameters() -> None:
    """RamaLama writes a charset."""
    assert ["text/plain", True] == [
        canonical("Text/Plain; charset=utf-8"),
        is_encrypted("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
    ]


def test_layer_tells_which_members_it_admits() -> None:
    """A directory of oras-py has all members at or under its title; others admit every member."""
    descriptor = Descriptor("", Digest.of(b"x"), 1)
    bound, free = Layer(descriptor, TAR_GZIP, "d", undecided=True, tar_root="d"), Layer(descriptor, TAR)

    assert [True, True, False, False] == [bound.admits(path) for path in ("d", "d/x", "dx", "x")]
    assert free.admits("x")
