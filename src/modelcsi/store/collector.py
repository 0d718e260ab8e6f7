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
from modelcsi.store.content import ContentStore, empty_trash
from modelcsi.store.durable import disk_bytes
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
    its owner looks what is there. A run only renames meanwhile: unlinking hundreds of GB would keep every publish waiting.
    """

    def __init__(self, layout: StoreLayout, content: ContentStore, views: Views, records: Records) -> None:
        self.swept: Callable[[Sweep], None] = lambda _: None
        """Told what each run removed; set by who counts it."""
        self._running = threading.Lock()  # taken before `_lock`
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
        """Free at least `need_bytes` if what nobody holds is that much; else no artifact goes in vain, only leftovers."""
        gone = []
        with self._running:
            freed = self._remove_leftovers()
            unleased = list(self._unleased())
            if freed < need_bytes <= freed + self._evictable_bytes(unleased):
                for artifact in unleased:
                    if freed >= need_bytes:
                        break
                    removed = self._remove(artifact)
                    if removed is not None:
                        freed += removed
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
        with self._running:
            freed = self._remove_leftovers()
            unleased = list(self._unleased())
            surplus = sum(artifact.size_bytes for artifact in unleased) - keep_bytes
            gone = []
            for artifact in unleased:
                if surplus <= 0:
                    break
                removed = self._remove(artifact)
                surplus -= artifact.size_bytes
                if removed is not None:
                    freed += removed
                    gone.append(artifact)
        return self._report(Sweep(freed, tuple(gone)))

    def _report(self, sweep: Sweep) -> Sweep:
        self.swept(sweep)
        return sweep

    def drop(self, record: ArtifactRecord, damaged: list[Digest]) -> bool:
        """Remove an artifact with damaged content, and that content, if nobody holds a lease on it."""
        with self._running:
            with self._lock:
                if self._records.owners(record.manifest):
                    return False
                trash = self._take_away(record) or []
                leased = self._leased_content()
                trash += self._content.take_away(digest for digest in damaged if str(digest) not in leased)
            empty_trash(*trash)
        return True

    def _leased_content(self) -> set[str]:
        artifacts = [artifact for artifact in self._records.artifacts() if artifact.leases]
        return {str(digest) for artifact in artifacts for digest in self._records.contents(artifact.manifest)}

    def _unleased(self) -> Iterator[ArtifactRecord]:
        return (artifact for artifact in self._records.artifacts() if artifact.leases == 0)

    def _evictable_bytes(self, unleased: list[ArtifactRecord]) -> int:
        """What the disk would gain without these; measured, since a manifest may claim any size."""
        leased = self._leased_content()
        content = {artifact.manifest for artifact in unleased}
        content.update(digest for artifact in unleased for digest in self._records.contents(artifact.manifest))
        views = [view for artifact in unleased for view in self._views.of_manifest(artifact.manifest)]
        copies = disk_bytes(*map(self._layout.view, views), with_links=False)
        return copies + sum(self._content.content_bytes(digest) for digest in content if str(digest) not in leased)

    def _remove(self, artifact: ArtifactRecord) -> int | None:
        """Returns the bytes freed; None if somebody has taken a lease since it was seen without one."""
        with self._lock:
            trash = self._take_away(artifact)
        return None if trash is None else empty_trash(*trash)

    def _take_away(self, artifact: ArtifactRecord) -> list[Path] | None:
        """Views first: with their links the content would not count as freed."""
        orphans = self._records.forget_artifact(artifact.manifest)
        if orphans is None:
            return None
        views = [path for view in self._views.of_manifest(artifact.manifest) for path in self._discard_view(view)]
        return views + self._content.take_away(orphans)

    def _remove_leftovers(self) -> int:
        with self._lock:
            trash = self._take_away_leftovers()
        return empty_trash(*trash)

    def _take_away_leftovers(self) -> list[Path]:
        """Ingests that no leased artifact needs, and views and content that no artifact needs."""
        trash = []
        leased = self._leased_content()
        for directory in self._layout.ingests.iterdir():
            digest = _digest_of(directory)
            if digest is not None and str(digest) not in leased and digest not in self._writing:
                for ingest in directory.iterdir():
                    self._layout.drop_marks(ingest)
                trash += self._content.discard(directory)
        known = self._records.known_content()
        trash += self._take_away_orphaned_views(known)
        orphans = [
            digest for digest in self._content.digests() if str(digest) not in known and digest not in self._writing
        ]
        return trash + self._content.take_away(orphans)

    def _take_away_orphaned_views(self, known: frozenset[str]) -> list[Path]:
        """Views of artifacts that were forgotten just before a crash. What a volume shows stays, whatever was lost."""
        shown = {record.view for record in self._records.publications()}
        trash = []
        for view in {path.stem for path in self._layout.views.iterdir() if not path.name.startswith(".")}:
            manifest = (self._views.record(view) or {}).get("manifest", "")
            if view not in shown and manifest not in known and not self._records.is_leased(manifest):
                trash += self._discard_view(view)
        return trash

    def _discard_view(self, view: str) -> list[Path]:
        trash = self._content.discard(self._layout.view(view))
        self._layout.view_record(view).unlink(missing_ok=True)
        return trash


def _digest_of(ingest: Path) -> Digest | None:
    try:
        return Digest.parse(ingest.name.replace("-", ":", 1))
    except UnsupportedArtifact:  # somebody else's directory
        return None
