"""Which files of an artifact a volume wants: the two filters of the upstream driver, with its semantics exactly.

Patterns are gitignore patterns on the *base* name; the last that matches decides, `!` includes again, and any pattern that
matches beats the weights flag (model-csi-driver, `pkg/service/model.go`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from modelcsi.artifact.paths import base_name
from modelcsi.artifact.patterns import Verdict, judge

_WEIGHT_INDEX = "model.safetensors.index.json"
"""Upstream drops it at the root only, where it describes the weights that are dropped with it."""

# Upstream knows the first only; the others are what the frameworks call their weights (modctl's own list, in the main).
_WEIGHT_SUFFIXES = frozenset(
    {
        ".safetensors",
        ".bin",
        ".caffemodel",
        ".ckpt",
        ".dduf",
        ".engine",
        ".ggml",
        ".gguf",
        ".h5",
        ".hdf5",
        ".keras",
        ".mlmodel",
        ".msgpack",
        ".npz",
        ".onnx",
        ".onnx_data",
        ".pb",
        ".pdparams",
        ".pt",
        ".pth",
        ".tflite",
    }
)


def has_weight_name(path: str) -> bool:
    """Whether a normalised path is that of weights."""
    # Not os.path.splitext: to Go's filepath.Ext a file `.safetensors` has that suffix.
    _, dot, suffix = base_name(path).rpartition(".")
    return path == _WEIGHT_INDEX or dot + suffix in _WEIGHT_SUFFIXES


@dataclass(frozen=True, slots=True)
class Selection:
    """The wanted files; without arguments everything."""

    exclude_weights: bool = False
    exclude_patterns: tuple[str, ...] = ()

    def wants(self, path: str, *, is_weight: bool) -> bool:
        """Whether the file at a normalised path is wanted; `is_weight` is what its media type says."""
        names = (base_name(path),)
        for pattern in reversed(self.exclude_patterns):
            verdict = judge(pattern, names)
            if verdict is not Verdict.NO_MATCH:
                return verdict is Verdict.INCLUDE
        return not (self.exclude_weights and (is_weight or has_weight_name(path)))

    @property
    def is_everything(self) -> bool:
        """Whether no file can be unwanted."""
        return not self.exclude_weights and not self.exclude_patterns

    def key(self) -> str:
        """Text that is equal for equal selections, in this release and the next: views are named by it."""
        return json.dumps(
            {"exclude_patterns": list(self.exclude_patterns), "exclude_weights": self.exclude_weights},
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_key(cls, key: str) -> Selection:
        """The selection of which `key` is the text. Raises ValueError on any other text."""
        try:
            fields = json.loads(key)
            selection = cls(fields["exclude_weights"], tuple(fields["exclude_patterns"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"{key[:200]!r} is no selection") from error
        return selection

    def __str__(self) -> str:
        """What a message says of it."""
        parts = ["excludeModelWeights"] if self.exclude_weights else []
        if self.exclude_patterns:
            parts.append(f"excludeFilePatterns {json.dumps(list(self.exclude_patterns), ensure_ascii=False)[:300]}")
        return " and ".join(parts) or "everything"
