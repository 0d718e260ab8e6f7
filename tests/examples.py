"""Reads tests/artifacts: real artifacts, and the tree that each must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modelcsi.oci.digest import Digest

_ROOT = Path(__file__).parent / "artifacts"

EXPECTED: dict[str, dict[str, Any]] = json.loads((_ROOT / "expected.json").read_text())
NAMES = tuple(EXPECTED)
MOUNTABLE = tuple(name for name in NAMES if "tree" in EXPECTED[name])


def manifest_bytes(name: str) -> bytes:
    """The manifest as a registry serves it."""
    return (_ROOT / name / "manifest.json").read_bytes()


def blob(digest: Digest) -> bytes:
    """A config or layer that one of the manifests names."""
    return (_ROOT / "blobs" / digest.algorithm / digest.hex).read_bytes()
