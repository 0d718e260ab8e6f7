"""Who waits for bytes of a job, and in which order they are asked for."""

from __future__ import annotations

from collections.abc import Callable

from modelcsi.artifact.layer import RAW, Layer
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.pull.demands import Demands

_LAYER = Layer(Descriptor("raw", Digest.of(b"weights"), 1000), RAW)


class _Feed:
    """Brings nothing, and remembers what it should bring."""

    def __init__(self) -> None:
        self.demanded: list[tuple[int, int]] = []

    def is_here(self, start: int, end: int) -> bool:
        return False

    def demand(self, start: int, end: int) -> Callable[[], None]:
        self.demanded.append((start, end))
        return lambda: None

    def hint(self, start: int, end: int) -> None:
        pass


def test_a_layer_that_opens_begins_with_who_has_waited_longest() -> None:
    """After a start everybody waits before there is a connection: nobody shall be last each time."""
    demands, feed = Demands([_LAYER], lambda _: None), _Feed()
    for start in range(50):
        demands.want(_LAYER.digest, start, start + 1, lambda _: None)
    demands.opened(_LAYER, feed, demands.attempt(_LAYER))

    assert [(start, start + 1) for start in range(50)] == feed.demanded
