"""A process that fills a store while it reads: as the driver does for a mount that is read while its model arrives.

Run as a program: it prints a line when the tree is known, then reads all over it, and ends when the fill has.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.errors import FinalError
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import Filling, Puller, PullLimits
from modelcsi.pull.resolve import Wish
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from modelcsi.store.store import Store

_MIB = 1 << 20
_READS = 40


class _Watch:
    """Waits for the end."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None

    def layer_opened(self, layer: Digest) -> None:
        pass

    def layer_complete(self, layer: Digest) -> None:
        pass

    def layer_restarted(self, layer: Digest, error: Exception) -> None:
        _say(f"restarted {layer}: {error}")

    def layer_failed(self, layer: Digest, error: FinalError) -> None:
        _say(f"failed {layer}: {error}")

    def filled(self, error: Exception | None) -> None:
        self.error = error
        self.ended.set()


def main(root: str, reference: str, seed: str) -> int:
    """0 if the fill succeeded."""
    store = Store(Path(root), patience=Deadline.after(10))
    puller = Puller(store, Registry(HttpTransport(), Hosts()), Keychain(None), PullLimits())
    wish = Wish(Reference.parse(reference), PullPolicy.IF_NOT_PRESENT, Selection())
    resolved = puller.resolve(wish, Patience(Deadline.after(60)))
    watch = _Watch()
    found = puller.begin(resolved, "pod", Patience(Deadline.after(60)), lambda _: watch)
    _say("begun")
    if not isinstance(found, Filling):
        return 0
    _read_all_over(found, random.Random(seed))  # noqa: S311 - no secret
    watch.ended.wait()
    _say(f"ended: {watch.error}, {found.job.progress.downloaded_bytes} bytes")
    return 0 if watch.error is None else 1


def _read_all_over(found: Filling, dice: random.Random) -> None:
    files = [
        (entry.layer, found.offsets[entry.layer, entry.member], entry.size)
        for entry in found.tree.entries
        if entry.layer is not None and (entry.layer, entry.member) in found.offsets and entry.size > _MIB
    ]
    for _ in range(_READS if files else 0):
        layer, offset, size = dice.choice(files)
        at = offset + dice.randrange(size - _MIB)
        come = threading.Event()
        found.job.ahead(layer, at + _MIB, min(at + 3 * _MIB, offset + size))
        found.job.want(layer, at, at + _MIB, lambda _, come=come: come.set())  # type: ignore[misc]
        come.wait()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
