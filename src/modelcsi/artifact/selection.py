"""Which files of an artifact a volume wants: those that each of these, in this order, wants.

1. `sub_path`: it lies below this directory;
2. `include`: the list names it, or is empty (gitignore patterns on full paths, see `gitignore`);
3. `exclude`: the list does not name it;
4. the two filters of the upstream driver, with its semantics exactly: gitignore patterns on the *base* name, of which the last that
   matches decides, `!` includes again, and any that matches beats the weights flag (model-csi-driver, `pkg/service/model.go`).

Paths are those of the artifact, also for the patterns of a selection with a `sub_path`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelcsi.artifact import gitignore, patterns
from modelcsi.artifact.gitignore import pattern_list
from modelcsi.artifact.paths import base_name, shown
from modelcsi.artifact.patterns import Verdict, name_list

ROOT = "."
"""As a `sub_path`: the artifact's own root, for kinds that would show another directory."""
_SHOWN = 6
_MAX_SHOWN = 300
_ABOUT = "`modelcsi inspect` lists the artifact's files"
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
    """Upstream's, on base names."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sub_path: str = ""
    """A normalised directory of the artifact, which is shown as the root; empty: not said, ROOT: the artifact's own root."""

    def wants(self, path: str, *, is_weight: bool, is_unnamed: bool = False) -> bool:
        """Whether the file at a normalised path is wanted; `is_weight` is what its media type says.

        `is_unnamed`: nobody gave the file its name. With a filter of its own on, upstream leaves out such a file: no
        pattern could mean it.
        """
        if not self._is_below_sub_path(path) or (self.include and not pattern_list(self.include).names(path)):
            return False
        if self.exclude and pattern_list(self.exclude).names(path):
            return False
        return self._upstream_wants(path, is_weight=is_weight) and not (is_unnamed and self._has_upstream_filter)

    def may_want_below(self, directory: str) -> bool:
        """Whether a file at or below a normalised path can be wanted."""
        root = self.root
        if root and not (self._is_below_sub_path(directory) or f"{root}/".startswith(f"{directory}/")):
            return False
        return not (self.exclude and pattern_list(self.exclude).names_directory(directory))

    @property
    def root(self) -> str:
        """The directory of the artifact that is shown as the root; empty: the artifact's own."""
        return "" if self.sub_path == ROOT else self.sub_path

    @property
    def is_everything(self) -> bool:
        """Whether no file can be unwanted, and each is shown where it is."""
        return not self.root and not self.has_filter

    @property
    def has_filter(self) -> bool:
        """Whether a file below `root` can be unwanted."""
        return bool(self.include or self.exclude) or self._has_upstream_filter

    @property
    def _has_upstream_filter(self) -> bool:
        return self.exclude_weights or bool(self.exclude_patterns)

    def _is_below_sub_path(self, path: str) -> bool:
        return not self.root or path.startswith(f"{self.root}/")

    def _upstream_wants(self, path: str, *, is_weight: bool) -> bool:
        if self.exclude_patterns:
            verdict = name_list(self.exclude_patterns).judge(base_name(path))
            if verdict is not Verdict.NO_MATCH:
                return verdict is Verdict.INCLUDE
        return not (self.exclude_weights and (is_weight or has_weight_name(path)))

    def key(self) -> str:
        """Text that is equal for equal selections, in this release and the next: views are named by it.

        What is not used is not in it, so that the names of views stay when fields are added.
        """
        later = {"include": list(self.include), "exclude": list(self.exclude), "sub_path": self.sub_path}
        return json.dumps(
            {"exclude_patterns": list(self.exclude_patterns), "exclude_weights": self.exclude_weights}
            | {name: value for name, value in later.items() if value},
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_key(cls, key: str) -> Selection:
        """The selection of which `key` is the text. Raises ValueError on any other text."""
        try:
            fields: dict[str, Any] = json.loads(key)
            selection = cls(
                fields["exclude_weights"],
                tuple(fields["exclude_patterns"]),
                tuple(fields.get("include", ())),
                tuple(fields.get("exclude", ())),
                fields.get("sub_path", ""),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{key[:200]!r} is no selection") from error
        return selection

    def __str__(self) -> str:
        """What a message says of it."""
        parts = [f"subPath {shown(self.sub_path)}"] if self.sub_path else []
        lists = {"include": self.include, "exclude": self.exclude}
        parts += [f"{name} {_listed(found)}" for name, found in lists.items() if found]
        parts += ["excludeModelWeights"] if self.exclude_weights else []
        parts += [f"excludeFilePatterns {_listed(self.exclude_patterns)}"] if self.exclude_patterns else []
        return " and ".join(parts) or "everything"


def idle_patterns(selection: Selection, paths: Iterable[str], at_most: int | None = None) -> dict[str, list[str]]:
    """By attribute, the patterns that match none of an artifact's files, each taken alone; of each at most so many."""
    known = list(paths)
    found = {
        "include": gitignore.idle_patterns(selection.include, known),
        "exclude": gitignore.idle_patterns(selection.exclude, known),
        "excludeFilePatterns": patterns.idle_patterns(selection.exclude_patterns, map(base_name, known)),
    }
    idle = {name: list(itertools.islice(texts, at_most)) for name, texts in found.items()}
    return {name: texts for name, texts in idle.items() if texts}


def explain_nothing(selection: Selection, paths: Iterable[str]) -> tuple[str, str]:
    """Message and hint when `selection` leaves nothing of an artifact that has files at these paths."""
    known = sorted(set(paths))
    root = selection.root
    below = [path for path in known if path.startswith(f"{root}/")] if root else known
    if root in known:
        return f"subPath {shown(root)} is no directory", f"{_ABOUT}; include names files"
    if root and not below:
        directories = sorted({path.rpartition("/")[0] for path in known} - {""})
        has = f"it has {_some(directories)}" if directories else "it has no directories"
        return f"the artifact has no directory {shown(root)}", f"{_ABOUT}; {has}"
    # A pattern that matches nothing is held against every file: of 256, those that are told must do.
    idle = [f"{name} {_some(texts, 'others')}" for name, texts in idle_patterns(selection, below, _SHOWN + 1).items()]
    message = f"{selection} leaves nothing of the artifact"
    if idle:
        message += f": no file is matched by {' and '.join(idle)}"
    return message, f"{_ABOUT}; it has {_some(below)}"


def _listed(texts: Iterable[str]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)[:_MAX_SHOWN]


def _some(texts: list[str], others: str = "") -> str:
    more = f" and {others or f'{len(texts) - _SHOWN} more'}" if len(texts) > _SHOWN else ""
    return ", ".join(map(shown, texts[:_SHOWN])) + more
