"""Brings a layer whose bytes are read while they arrive, and says when that may begin."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.selection import Selection
from modelcsi.errors import RegistryUnavailable
from modelcsi.oci.digest import Digest
from modelcsi.pull.demands import Demands
from modelcsi.pull.filltransfer import Filler, FillTarget, FillTransfer
from modelcsi.pull.indexing import Ranges
from modelcsi.pull.progress import Progress
from modelcsi.pull.sources import Sources
from modelcsi.pull.treeahead import TreeAhead
from modelcsi.store.space import Reservation

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class LayerWork:
    """What the layers of one job share."""

    selection: Selection
    shared: frozenset[Digest]
    """Tars that several layers of the artifact name, each with its own annotations: all of their members are kept."""
    sources: Sources
    progress: Progress
    reservation: Reservation
    stop: threading.Event
    demands: Demands
    """Who reads while the layers arrive."""
    ahead: TreeAhead
    """What was told of the layers before they are here."""

    def selection_of(self, layer: Layer) -> Selection:
        """Which members of a tar are kept."""
        return Selection() if layer.digest in self.shared else self.selection

    def ranges(self, layer: Layer) -> Ranges:
        """What reads parts of the layer's blob."""
        return Ranges(layer, self.sources, self.progress, self.stop)


def shared_tars(artifact: Artifact) -> frozenset[Digest]:
    """Tars that several layers name. An image's layers have nothing of their own to say, however often they are named."""
    tars = [layer.digest for layer in artifact.layers if layer.codec.is_tar and not layer.is_image]
    return frozenset(digest for digest, count in Counter(tars).items() if count > 1)


def is_told(layer: Layer) -> bool:
    """Whether the manifest itself holds the layer's bytes, so that nobody must prove anything: `data`, or no bytes.

    A manifest may name any digest with size 0; only the digest of no bytes stands for none.
    """
    return layer.descriptor.data is not None or (layer.size == 0 and layer.digest.matches(b""))


def fill(
    layer: Layer, target: FillTarget, work: LayerWork, consume: Callable[[Iterator[bytes]], None] | None = None
) -> None:
    """Bring the layer's blob into `target`, what is waited for first. Raises as `Transfer.run` does.

    What is there from before may be what another repository of the host delivered, or one that lost its rights: it is read
    only after this job's repository has shown that it holds the blob.
    """
    demands = work.demands
    attempt = demands.attempt(layer)
    filler = Filler(work.sources, work.progress, demands.urgency, work.stop)
    transfer = FillTransfer(filler, layer.descriptor, target, lambda: demands.arrived(layer))
    has_ended, is_whole = threading.Event(), False
    try:
        if transfer.stored_before and not is_told(layer):
            proof = threading.Thread(
                target=_open_when_shown,
                args=(layer, work, transfer, attempt, has_ended),
                name="pull-proof",
                daemon=True,
            )
            proof.start()
        else:
            # The first byte that comes is the proof. Until then another repository of the host may write here, should this attempt end.
            demands.opened(layer, transfer, attempt, is_shown=is_told(layer))
        transfer.run(consume)
        is_whole = True
    finally:
        has_ended.set()
        demands.ended(layer, is_whole=is_whole)


def _open_when_shown(
    layer: Layer, work: LayerWork, transfer: FillTransfer, attempt: object, has_ended: threading.Event
) -> None:
    pause = _FIRST_PAUSE_SECONDS
    while not has_ended.is_set():
        try:
            if work.sources.shows(layer.descriptor):
                work.demands.opened(layer, transfer, attempt)
        except RegistryUnavailable:
            has_ended.wait(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
        else:
            return
