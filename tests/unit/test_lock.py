"""requirements.lock, which the image installs from, against pyproject.toml, which says what the project needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_LOCK = (_ROOT / "requirements.lock").read_text()
_LOCKED = {
    name: (version, hashes) for name, version, hashes in re.findall(r"(?m)^(\S+)==(\S+)((?: \\\n +--hash=\S+)*)", _LOCK)
}

_NEEDED = [*_PROJECT["dependencies"], *_PROJECT["optional-dependencies"]["fuse"]]


@pytest.mark.parametrize("dependency", [Requirement(text) for text in _NEEDED], ids=str)
def test_holds_what_the_project_needs(dependency: Requirement) -> None:
    """Every dependency of the image is locked, at a version that pyproject.toml allows; hack/lock mends it."""
    version, _ = _LOCKED[canonicalize_name(dependency.name)]

    assert dependency.specifier.contains(version)


def test_every_version_has_hashes() -> None:
    """A lock without a hash would install what the index says today."""
    assert [] == [name for name, (_, hashes) in _LOCKED.items() if "--hash=sha256:" not in hashes]


def test_has_nothing_but_versions_and_hashes() -> None:
    """No index, no address, no option, no line that the test above does not see."""
    lines = re.sub(r"(?m)^ *#.*\n", "", _LOCK).splitlines()

    assert [] == [line for line in lines if not re.match(r"^\S+==\S+ \\$|^ +--hash=sha256:[0-9a-f]{64}( \\)?$", line)]


def test_leaves_out_what_only_pushing_needs() -> None:
    """oras is an extra: the driver does not push."""
    extras = {canonicalize_name(Requirement(name).name) for name in _PROJECT["optional-dependencies"]["pack"]}

    assert set() == extras & set(_LOCKED)
