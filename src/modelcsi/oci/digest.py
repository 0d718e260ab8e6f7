"""Content digests (image-spec, descriptor.md, "Digests"): only the two registered algorithms, and only canonical hex.

A `Digest` that exists is safe to use as a file name: that is checked here, once (Ollama's CVE-2024-37032 was a digest used
as a path before it was matched).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

from modelcsi.errors import UnsupportedArtifact

Buffer = bytes | bytearray | memoryview

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What `hashlib` objects are, as far as this project uses them."""

    def update(self, data: Buffer, /) -> None:
        """Add bytes; releases the GIL above 2047 of them."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""

    def copy(self) -> Self:
        """Another one in the same state."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:hex`, where the algorithm is sha256 or sha512 and the hex is lower case and of full length."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        expected = _HEX_LENGTH.get(self.algorithm)
        if expected is None:
            raise UnsupportedArtifact(
                f"digest algorithm {self.algorithm[:40]!r} is not supported", hint="sha256 and sha512 are"
            )
        if len(self.hex) != expected or not _HEX.fullmatch(self.hex):
            raise UnsupportedArtifact(f"malformed {self.algorithm} digest {self.hex[:140]!r}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest written as `algorithm:hex`.

        Raises UnsupportedArtifact on another algorithm or form.
        """
        algorithm, separator, hexadecimal = text.partition(":")
        if not separator:
            raise UnsupportedArtifact(f"malformed digest {text[:140]!r}")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, content: Buffer, algorithm: str = "sha256") -> Digest:
        """The digest of `content`."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> Hasher:
        """A new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, content: Buffer) -> bool:
        """Whether `content` has this digest."""
        return self == Digest.of(content, self.algorithm)

    @property
    def short(self) -> str:
        """The first twelve hex digits: enough for a person to tell two models apart."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


EMPTY_BLOB = Digest.of(b"")
"""The digest of no bytes. Some registries refuse to store it, so it is never requested."""
