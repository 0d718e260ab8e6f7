"""A layer: a descriptor plus what its producer meant by it, as far as the manifest tells.

What only the bytes can tell (a tar's codec, whether an undecided layer is a tar at all) is asked here by pure functions on
the first bytes; fetching and decompressing them is the caller's work.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from modelcsi.artifact.paths import base_name, normalise_path
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_USTAR_MAGIC = b"ustar"
_USTAR_OFFSET = 257


class Compression(enum.Enum):
    """How a layer's bytes are compressed; the value is the media type's suffix."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Codec:
    """How files become a layer's bytes: a tar or the file itself, compressed or not."""

    is_tar: bool
    compression: Compression = Compression.NONE

    @property
    def is_packed(self) -> bool:
        """Whether the bytes are not kept as they come, but as members: those of a tar, or the one that a compressed file is."""
        return self.is_tar or self.is_packed_file

    @property
    def is_packed_file(self) -> bool:
        """Whether it is a file that is shown decompressed."""
        return not self.is_tar and self.compression is not Compression.NONE


RAW = Codec(is_tar=False)
RAW_GZIP = Codec(is_tar=False, compression=Compression.GZIP)
"""A compressed file, shown decompressed: kept like a tar with this file as its only member, number 0."""
RAW_ZSTD = Codec(is_tar=False, compression=Compression.ZSTD)
TAR = Codec(is_tar=True)
TAR_GZIP = Codec(is_tar=True, compression=Compression.GZIP)
TAR_ZSTD = Codec(is_tar=True, compression=Compression.ZSTD)


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of an artifact and the files it stands for. Paths are normalised."""

    descriptor: Descriptor
    codec: Codec
    path: str | None = None
    """Of the one file that a raw layer is; of the file that an undecided one is if it is no tar; None for a tar."""
    sole_member_path: str | None = None
    """The path that the filepath annotation gives a tar's only regular member, if their base names are equal and the
    member does not lie below that path already; None: members stay where they are."""
    mode: int | None = None
    """Of a raw layer's file, as the metadata annotation says; None: not said."""
    mtime_ns: int | None = None
    """The same for its time of modification, in nanoseconds since 1970."""
    is_weight: bool = False
    """The producer calls it a weight. A tar of several files under such a name may hold others too: see `names`."""
    undecided: bool = False
    """A tar if its bytes are one, else the file at `path`: image-layer types do not tell. The codec is that of the tar."""
    tar_root: str | None = None
    """An undecided layer is a tar only if each member is or lies under this path (a directory pushed by oras-py)."""
    is_one_file: bool = False
    """The annotations leave no doubt that a tar with a `sole_member_path` holds that one file: it need not be fetched
    when that is not wanted."""
    prefix: str = ""
    """The directory of the artifact below which a tar's members lie (ModelKits before KitOps 0.5); empty: the root."""
    is_image: bool = False
    """A layer of a container image: a tar that is applied over those before it, with whiteouts."""

    @property
    def digest(self) -> Digest:
        """The digest of the blob."""
        return self.descriptor.digest

    @property
    def size(self) -> int:
        """The size of the blob in bytes."""
        return self.descriptor.size

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"layer {self.digest}"

    @property
    def has_fallback_name(self) -> bool:
        """Whether `path` is not a name that anybody gave, but the digest."""
        return self.path == fallback_name(self.digest)

    def place(self, member_path: str) -> str:
        """Where a member, or what a hard link names, is in the artifact. Raises UnsupportedArtifact for one too deep or long."""
        return normalise_path(f"{self.prefix}/{member_path}", self.where) if self.prefix else member_path

    def names(self, member_path: str) -> bool:
        """Whether `sole_member_path` may be about this member of the tar: their base names are equal."""
        return self.sole_member_path is not None and base_name(self.sole_member_path) == base_name(member_path)

    def admits(self, member_path: str) -> bool:
        """Whether the layer can still be a tar with this member in it; if not, an undecided one is the file at `path`."""
        root = self.tar_root
        return root is None or member_path == root or member_path.startswith(f"{root}/")


def fallback_name(digest: Digest) -> str:
    """The name of a file that has none."""
    return f"{digest.algorithm}-{digest.hex}"


def sniff_codec(declared: Codec, head: bytes) -> Codec:
    """The codec that the first bytes of a tar-typed layer show; `declared` where they show none, and for raw layers.

    Producers mislabel compression (AIKit writes gzip under a plain tar's type); 512 bytes are enough. A raw layer is never
    examined: a file `allfiles.tar.gz` stays a file.
    """
    if not declared.is_tar:
        return declared
    if head.startswith(_GZIP_MAGIC):
        return TAR_GZIP
    if head.startswith(_ZSTD_MAGIC):
        return TAR_ZSTD
    return TAR if is_tar_head(head) else declared


def is_tar_head(head: bytes) -> bool:
    """Whether the first bytes, after decompression, are those of a tar: what makes an undecided layer one."""
    return head.startswith(_USTAR_MAGIC, _USTAR_OFFSET)
