"""Removes what nobody holds a lease on, least recently used artifact first.

An artifact goes with its views and with the layers that no other artifact needs; bytes shared with another artifact stay.
What a crash left behind without an owner (ingests, orphaned content) goes first, since nobody can be waiting for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.store.content import ContentStore
from modelcsi.store.durable import disk_bytes, remove_tree
from modelcsi.store.layout import StoreLayout
from modelcsi.store.records import ArtifactRecord, Records
from modelcsi.store.views import Views

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a run removed."""

    freed_bytes: int
    artifacts: tuple[ArtifactRecord, ...]


class Collector:
    """One run at a time.

    `keep` and a run exclude each other, so that content cannot vanish between the moment a lease is taken and the moment
    its owner looks what is there.
    """

    def __init__(self, layout: StoreLayout, content: ContentStore, views: Views, records: Records) -> None:
        self.swept: Callable[[Sweep], None] = lambda _: None
        """Told what each run removed; set by who counts it."""
        self._lock = threading.Lock()
        self._layout = layout
        self._content = content
        self._views = views
        self._records = records
        self._writing: Counter[Digest] = Counter()  # under the lock: how many ingests of a digest are in use

    def keep(self, record: ArtifactRecord, content: list[Digest], owner: str) -> None:
        """Give `owner` a lease on an artifact; from the return on, what is there of its content stays."""
        with self._lock:
            self._records.put_artifact(record, content, owner)

    def begin_writing(self, digest: Digest) -> None:
        """The ingest of this digest is in use: leave it alone until `end_writing`."""
        with self._lock:
            self._writing[digest] += 1

    def end_writing(self, digest: Digest) -> None:
        """The ingest is committed, or left for a later attempt."""
        with self._lock:
            self._writing[digest] -= 1
            if not self._writing[digest]:
                del self._writing[digest]
                with contextlib.suppress(OSError):  # absent, or not empty: something is kept for a later attempt
                    self._layout.ingests_of(digest).rmdir()

    def make_room(self, need_bytes: int) -> Sweep:
        """Free at least `need_bytes` if what nobody holds is that much; else all of it."""
        freed, gone = 0, []
        with self._lock:
            freed += self._remove_leftovers()
            for artifact in self._unleased():
                if freed >= need_bytes:
                    break
                freed += self._remove(artifact)
                gone.append(artifact)
        if gone or freed:
            logger.info(
                "freed %d bytes for %d: %s",
                freed,
                need_bytes,
                ", ".join(item.reference for item in gone) or "leftovers",
            )
        return self._report(Sweep(freed, tuple(gone)))

    def prune(self, keep_bytes: int = 0) -> Sweep:
        """Remove what nobody holds until at most `keep_bytes` of it are left."""
        with self._lock:
            freed = self._remove_leftovers()
            unleased = list(self._unleased())
            surplus = sum(artifact.size_bytes for artifact in unleased) - keep_bytes
            gone = []
            for artifact in unleased:
                if surplus <= 0:
                    break
                freed += self._remove(artifact)
                surplus -= artifact.size_bytes
                gone.append(artifact)
        return self._report(Sweep(freed, tuple(gone)))

    def _report(self, sweep: Sweep) -> Sweep:
        self.swept(sweep)
        return sweep

    def drop(self, record: ArtifactRecord, damaged: list[Digest]) -> bool:
        """Remove an artifact with damaged content, and that content, if nobody holds a lease on it."""
        with self._lock:
            if self._records.owners(record.manifest):
                return False
            self._remove(record)
            leased = self._leased_content()
            self._content.remove(digest for digest in damaged if str(digest) not in leased)
        return True

    def _leased_content(self) -> set[str]:
        artifacts = [artifact for artifact in self._records.artifacts() if artifact.leases]
        return {str(digest) for artifact in artifacts for digest in self._records.contents(artifact.manifest)}

    def _unleased(self) -> Iterator[ArtifactRecord]:
        return (artifact for artifact in self._records.artifacts() if artifact.leases == 0)

    def _remove(self, artifact: ArtifactRecord) -> int:
        orphans = self._records.forget_artifact(artifact.manifest)
        if orphans is None:
            return 0
        freed = 0
        for view in self._views.of_manifest(artifact.manifest):
            freed += self._discard_view(view)
        return freed + self._content.remove([artifact.manifest, *orphans])

    def _remove_leftovers(self) -> int:
        """Ingests that no leased artifact needs, and views and content that no artifact needs."""
        freed = 0
        leased = self._leased_content()
        for directory in self._layout.ingests.iterdir():
            digest = _digest_of(directory)
            if digest is not None and str(digest) not in leased and digest not in self._writing:
                freed += disk_bytes(directory)
                remove_tree(directory)
        known = self._records.known_content()
        freed += self._remove_orphaned_views(known)
        orphans = [
            digest for digest in self._content.digests() if str(digest) not in known and digest not in self._writing
        ]
        return freed + self._content.remove(orphans)

    def _remove_orphaned_views(self, known: frozenset[str]) -> int:
        """Views of artifacts that were forgotten just before a crash. What a volume shows stays, whatever was lost."""
        shown = {record.view for record in self._records.publications()}
        freed = 0
        for view in {path.stem for path in self._layout.views.iterdir() if not path.name.startswith(".")}:
            manifest = (self._views.record(view) or {}).get("manifest", "")
            if view not in shown and manifest not in known and not self._records.is_leased(manifest):
                freed += self._discard_view(view)
        return freed

    def _discard_view(self, view: str) -> int:
        freed = self._content.discard(self._layout.view(view))
        self._layout.view_record(view).unlink(missing_ok=True)
        return freed


def _digest_of(ingest: Path) -> Digest | None:
    try:
        return Digest.parse(ingest.name.replace("-", ":", 1))
    except UnsupportedArtifact:  # somebody else's directory
        return None
