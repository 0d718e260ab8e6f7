"""What this node holds, mounts and pulls now, as plain values for `modelcsi status`, `modelcsi cache` and metrics."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelcsi.errors import NotFound
from modelcsi.oci.digest import Digest
from modelcsi.pull.puller import Puller, PullStatus
from modelcsi.store.records import ArtifactRecord
from modelcsi.store.store import Store
from modelcsi.volume.failures import Failures


@dataclass(frozen=True, slots=True)
class DriverState:
    """What the running driver says of itself; nothing where none runs."""

    registration: str | None = None
    """What kubelet knows of it; None where it does not register itself."""
    configuration: str | None = None
    """Why the configuration file is not in force; None when it is."""
    lazy: Mapping[str, Any] | None = None
    """Lazy volumes, and the processes that serve them."""


class Inventory:
    """Questions and chores of an operator; every answer is JSON-ready, sizes are bytes, times are Unix seconds."""

    def __init__(
        self,
        store: Store,
        puller: Puller,
        failures: Failures | None = None,
        dynamic_rows: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
        driver: Callable[[], DriverState] = DriverState,
    ) -> None:
        """`dynamic_rows` are added to the publications."""
        self._dynamic_rows = dynamic_rows
        self._driver = driver
        self._store = store
        self._puller = puller
        self._failures = failures or Failures()

    def status(self) -> dict[str, Any]:
        """What the driver says of itself, pulls that run, publications with their state, and the last that failed."""
        return {
            **dataclasses.asdict(self._driver()),
            "pulls": [_pull(status) for status in self._puller.running()],
            "publications": [
                {
                    "volume_id": record.volume_id,
                    "target": record.target,
                    "reference": record.reference,
                    "digest": record.manifest,
                    "pod": record.pod,
                    "state": record.state,
                    "seen_at": record.seen_at,
                }
                for record in self._store.records.publications()
            ]
            + [dict(row) for row in self._dynamic_rows()],
            "failures": [dataclasses.asdict(failure) for failure in self._failures.list()],
        }

    def cache(self) -> dict[str, Any]:
        """The artifacts that have content here, least recently used first, and the space they take."""
        usage = shutil.disk_usage(self._store.layout.root)
        return {
            "root_dir": str(self._store.layout.root),
            "stored_bytes": self._store.content.size_bytes(),
            "free_bytes": usage.free,
            "available_bytes": max(0, self._store.space.available_bytes()),
            "artifacts": [_artifact(record) for record in self._store.records.artifacts()],
        }

    def prune(self, max_bytes: int | None) -> dict[str, Any]:
        """Remove what no volume uses, until at most `max_bytes` (none: 0) of it are left."""
        sweep = self._store.collector.prune(max_bytes or 0)
        return {"freed_bytes": sweep.freed_bytes, "artifacts": [_artifact(record) for record in sweep.artifacts]}

    def verify(self, digest: str | None) -> dict[str, Any]:
        """Hash what is stored of one artifact (its manifest's digest), or of all, again.

        Damaged content that no volume uses is removed, so that the next pull brings it anew; what a volume uses stays and
        is reported. Raises NotFound.
        """
        records = self._store.records.artifacts()
        if digest is not None:
            records = [record for record in records if record.manifest == Digest.parse(digest)]
            if not records:
                raise NotFound(f"no artifact {digest} is on this node", hint="`modelcsi cache ls` lists those that are")
        damages: dict[Digest, list[str]] = {}
        for content in {item for record in records for item in self._store.records.contents(record.manifest)}:
            if found := self._store.content.verify(content):
                damages[content] = found
        return {
            "verified": len(records),
            "damages": [sentence for found in damages.values() for sentence in found],
            # Not only those that were asked for: another artifact may show the same damaged bytes.
            "removed": [
                str(item.manifest) for item in self._store.records.artifacts() if self._remove_damaged(item, damages)
            ],
        }

    def _remove_damaged(self, record: ArtifactRecord, damages: dict[Digest, list[str]]) -> bool:
        is_damaged = any(content in damages for content in self._store.records.contents(record.manifest))
        return is_damaged and self._store.collector.drop(record, list(damages))


def _pull(status: PullStatus) -> dict[str, Any]:
    return {
        "reference": status.reference,
        "digest": status.digest,
        "began_at": status.began_at,
        "done_bytes": status.progress.done_bytes,
        "total_bytes": status.progress.total_bytes,
        "bytes_per_second": status.progress.rate,
        "eta_seconds": status.progress.eta_seconds,
        "trouble": None if status.progress.trouble is None else str(status.progress.trouble),
        "waiting": len(status.owners),
    }


def _artifact(record: ArtifactRecord) -> dict[str, Any]:
    return {
        "digest": str(record.manifest),
        "reference": record.reference,
        "kind": record.kind,
        "size_bytes": record.size_bytes,
        "in_use": record.leases,
    }
