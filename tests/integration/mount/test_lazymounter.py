"""Lazy mounts of one view whose connection was lost and made again."""

from __future__ import annotations

from modelcsi.mount.fusemount import abort
from modelcsi.mount.lazymounter import LazyMounter
from modelcsi.mount.mounter import Mounter
from modelcsi.mount.table import read_mount_table
from tests.integration.driver import eventually
from tests.integration.mount.conftest import VIEW, LazyNode
from tests.integration.mount.tiny_server import SIZE, content


def test_mounts_of_a_lost_connection_are_none_of_the_next(lazy_node: LazyNode) -> None:
    """Neither are they said to show the view, nor is another target a clone of them; each can be made anew."""
    mounts = LazyMounter(Mounter(), lazy_node.daemons, "auto", lambda: 128)
    first, second, third = (str(lazy_node.root / "pods" / name) for name in ("a", "b", "c"))
    mounts.attach(VIEW, first, b"s")
    mounts.clone(VIEW, second)
    for device in {mount.device for mount in read_mount_table() if mount.mount_point == first}:
        abort(device)
    eventually(lambda: not mounts.is_alive(VIEW), "the connection has ended")
    mounts.make_way(second)
    mounts.attach(VIEW, second, b"s")
    mounts.clone(VIEW, third)
    with open(f"{third}/file", "rb") as file:
        found = file.read()

    assert [False, True, True] == [mounts.shows(target, VIEW) for target in (first, second, third)]
    assert content(0, SIZE) == found
