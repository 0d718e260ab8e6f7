"""A lazy mount gives what a bind mount gives, to every system call that a loader uses: through both adapters, while files arrive
and when they are complete.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from modelcsi.mount.adapters import choose_adapter
from tests.integration.fuse import byte_probes, name_probes
from tests.integration.fuse.lazytree import ADAPTERS, MODEL, READ_AHEAD_KB, bind_tree, lazy_tree, new_tree
from tests.integration.fuse.probing import digest, outcome

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

_PROBES = {**name_probes.PROBES, **byte_probes.PROBES}


class Difference(NamedTuple):
    """What a lazy mount gives instead, and why it may."""

    found: object
    reason: str
    only_through_a_server: bool = False
    """Where the kernel reads a complete file itself, it is as with the bind mount."""


_OF_XATTRS = Difference("ENOTSUP", "a model has no extended attributes, and the kernel asks only once")
_DIFFERENT: Mapping[str, Difference] = {
    "as nobody[write]": Difference(
        "'EROFS'", "all of the file system is read-only, not only the mount: that is asked before the file's rights"
    ),
    "read[preadv2 nowait]": Difference("ENOTSUP", "FUSE cannot tell whether a read would wait; who asks falls back"),
    "lseek[too far]": Difference((1 << 63) - 1, "the largest file is the kernel's, not ext4's"),
    "direct[not aligned]": Difference(
        (1000, digest(MODEL[7:1007])), "no disk asks for alignment", only_through_a_server=True
    ),
    "copy[copy_file_range]": Difference("EXDEV", "another file system; cp, shutil and the like go on with read"),
    "copy[ficlone]": Difference("EXDEV", "another file system; the disk under the bind mount has no clones either"),
    "attributes[listxattr]": _OF_XATTRS,
    "attributes[getxattr user]": _OF_XATTRS,
    "attributes[getxattr security]": _OF_XATTRS,
    "attributes[getxattr of a directory]": _OF_XATTRS,
    "attributes[flags ioctl]": Difference("ENOTTY", "ext4's flags, as lsattr shows them"),
    "watch[epoll]": Difference(1, "FUSE files can be polled, and are always ready; those of a disk refuse"),
}


def _area() -> tempfile.TemporaryDirectory[str]:
    """On a real disk: nothing can be passed through to a tmpfs or an overlay of a container."""
    area = tempfile.TemporaryDirectory(prefix="modelcsi-conformance-", dir="/var/tmp")
    Path(area.name).chmod(0o755)
    return area


@pytest.fixture(scope="module")
def bound() -> Iterator[Path]:
    """The tree as a bind mount."""
    with _area() as area, bind_tree(Path(area), new_tree()) as root:
        yield root


@pytest.fixture(
    scope="module", params=[f"{adapter}, {state}" for adapter in ADAPTERS for state in ("arriving", "complete")]
)
def lazily(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The same tree as a lazy mount."""
    adapter, state = request.param.split(", ")
    choice = choose_adapter(adapter)
    if choice.adapter is None:
        pytest.skip(choice.reason)
    with _area() as area, lazy_tree(Path(area), new_tree(), adapter) as tree:
        if state == "complete":
            tree.complete()
        yield tree.mount


@pytest.mark.parametrize("name", list(_PROBES))
def test_it_is_as_a_bind_mount(bound: Path, lazily: Path, name: str) -> None:
    """Values and errors of each call are the same, but for the differences that are listed with their reasons."""
    found, as_bound = outcome(_PROBES[name], lazily), outcome(_PROBES[name], bound)
    difference = _DIFFERENT.get(name)
    expected = as_bound if difference is None else difference.found
    if difference is not None and difference.only_through_a_server and found == as_bound:
        expected = as_bound

    assert expected == found


@pytest.mark.parametrize("name", list(_DIFFERENT))
def test_a_difference_that_is_none_any_more_is_not_listed(bound: Path, name: str) -> None:
    """What is listed is another outcome than the bind mount's."""
    assert _DIFFERENT[name].found != outcome(_PROBES[name], bound)


def test_read_ahead_is_what_the_driver_set(lazily: Path) -> None:
    """What server and kernel agree on at their first words does not undo it."""
    device = os.stat(lazily).st_dev
    told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()

    assert READ_AHEAD_KB == int(told)
