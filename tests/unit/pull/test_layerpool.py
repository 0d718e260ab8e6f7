from __future__ import annotations

import threading

import pytest

from modelcsi.artifact.layer import RAW, Layer
from modelcsi.errors import NotFound, RegistryUnavailable
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.pull import layerpool
from modelcsi.pull.layerpool import LayerPool
from modelcsi.pull.streams import Stopped
from tests.unit.pull.conftest import wait_until


def layers(count: int) -> list[Layer]:
    """As many."""
    return [Layer(Descriptor("raw", Digest.of(b"%d" % number), number), RAW) for number in range(count)]


@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_each_layer_is_brought_once(at_once: int) -> None:
    """Whoever presses for which of them, at whatever moment."""
    for _ in range(30):
        wanted, brought = layers(5), list[Layer]()
        pool = LayerPool(wanted, at_once, threading.Event(), lambda: False)
        pressing = threading.Thread(target=lambda pool=pool, wanted=wanted: [*map(pool.begin_now, wanted)])
        pressing.start()
        pool.run(brought.append)
        pressing.join()

        assert wanted == sorted(brought, key=lambda layer: layer.size)


def test_a_layer_that_is_pressed_for_begins_at_once() -> None:
    """Although another one takes the only place."""
    first, second, third = layers(3)
    go, begun = threading.Event(), threading.Event()
    order: list[Layer] = []

    def bring(layer: Layer) -> None:
        order.append(layer)
        begun.set()
        assert layer is third or go.wait(10)
        if layer is third:
            go.set()

    pool = LayerPool([first, second, third], 1, threading.Event(), lambda: False)
    running = threading.Thread(target=pool.run, args=(bring,))
    running.start()
    assert begun.wait(10)
    pool.begin_now(third)
    running.join(10)

    assert [first, third, second] == order


def test_a_pod_that_opens_all_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that nobody sends take no thread each; what was pressed for comes first when one ends, and all of it comes."""
    monkeypatch.setattr(layerpool, "_MOST_PRESSED", 3)
    wanted, go, lock = layers(100), threading.Event(), threading.Lock()
    begun: list[Layer] = []

    def bring(layer: Layer) -> None:
        with lock:
            begun.append(layer)
        assert go.wait(10)

    pool = LayerPool(wanted, 1, threading.Event(), lambda: False)
    running = threading.Thread(target=pool.run, args=(bring,))
    running.start()
    wait_until(lambda: bool(begun))
    for layer in wanted[50:]:
        pool.begin_now(layer)
    wait_until(lambda: len(begun) == 4)
    at_first = list(begun)
    go.set()
    running.join(10)

    assert [wanted[0], *wanted[50:53]] == sorted(at_first, key=lambda layer: layer.size)
    assert set(range(50, 100)) >= {layer.size for layer in begun[4:48]}
    assert wanted == sorted(begun, key=lambda layer: layer.size)


def test_the_first_error_ends_all() -> None:
    """A final one is the answer, if there is one."""

    def bring(layer: Layer) -> None:
        raise RegistryUnavailable("later") if layer.size else NotFound("gone")

    pool = LayerPool(layers(4), 2, threading.Event(), lambda: False)
    with pytest.raises((NotFound, RegistryUnavailable)):
        pool.run(bring)

    assert pool.failed.is_set()


def test_stopping() -> None:
    """Nothing is begun any more."""
    stop = threading.Event()
    stop.set()
    brought: list[Layer] = []
    with pytest.raises(Stopped):
        LayerPool(layers(2), 2, stop, lambda: False).run(brought.append)

    assert [] == brought
