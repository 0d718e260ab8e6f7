"""Driver and holder are told to end, in containers, whose end is that of the servers too: one of the two keeps the views."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.processes import is_gone
from tests.integration.driver import eventually
from tests.integration.mount.conftest import NodeOfContainers, wait_for_end
from tests.integration.mount.tiny_server import SIZE, content

pytestmark = pytest.mark.timeout(120)


@contextmanager
def _ending(node: NodeOfContainers) -> Iterator[threading.Thread]:
    """The driver has been told to end."""
    thread = threading.Thread(target=node.daemons.stop)
    thread.start()
    yield thread
    thread.join(60)


def _wait_for_either(driver: threading.Thread, holder: int) -> None:
    eventually(lambda: is_gone(holder) or not driver.is_alive(), "the end of one")


def test_a_driver_ends_while_the_holder_is_replaced(node_of_containers: NodeOfContainers) -> None:
    """While the holder of its lazy volumes is away, a driver that ends waits up to 15 s to hand them over."""
    node_of_containers.start_holder()
    target = node_of_containers.mount()
    node_of_containers.kill_holder()
    with _ending(node_of_containers) as driver:
        node_of_containers.start_holder()
    is_over = not driver.is_alive()
    node_of_containers.restart()

    assert is_over
    assert content(0, SIZE) == (target / "file").read_bytes()
    assert [] == node_of_containers.lost


def test_a_driver_without_views_waits_for_nobody(node_of_containers: NodeOfContainers) -> None:
    """Nor one whose views the holder has."""
    with _ending(node_of_containers) as driver:
        driver.join(5)
        is_over = not driver.is_alive()
    node_of_containers.restart()
    node_of_containers.start_holder()
    node_of_containers.mount()
    with _ending(node_of_containers) as driver:
        driver.join(5)

        assert is_over
        assert not driver.is_alive()


def test_both_are_told_to_end_at_once(node_of_containers: NodeOfContainers) -> None:
    """Whichever is first, the other one stays until the next one of that kind has the views."""
    node_of_containers.start_holder()
    target = node_of_containers.mount()
    for _ in range(10):
        holder = node_of_containers.holder()
        with _ending(node_of_containers) as driver:
            os.kill(holder, signal.SIGTERM)
            _wait_for_either(driver, holder)
            if is_gone(holder):
                node_of_containers.start_holder()
        node_of_containers.restart()
        if not is_gone(holder):
            wait_for_end(holder)
            node_of_containers.start_holder()
        read = (target / "file").read_bytes()

        assert content(0, SIZE) == read
        assert [] == node_of_containers.lost


def test_a_holder_alone_is_told_to_end(node_of_containers: NodeOfContainers) -> None:
    """It serves until a driver comes; told twice, it ends."""
    node_of_containers.start_holder()
    target = node_of_containers.mount()
    holder = node_of_containers.holder()
    node_of_containers.daemons.stop()
    os.kill(holder, signal.SIGTERM)
    served = (target / "file").read_bytes()
    stayed = not is_gone(holder)
    os.kill(holder, signal.SIGTERM)
    wait_for_end(holder)

    assert content(0, SIZE) == served
    assert stayed
    assert not (node_of_containers.root / "fuse.sock").exists()
