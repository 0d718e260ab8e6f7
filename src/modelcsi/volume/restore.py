"""What a start finds: rows, mounts and content that a kill, a reboot or a lost database left in any combination.

Cases of a publication:
1. a mount of one of our views with its row: MOUNTED, also where the last process died before it could record that;
2. a mount without a row (the database was lost, or another instance mounted it): adopted, with an unknown volume id;
3. a row without its mount (a reboot, or the last process died before mounting): PENDING; its lease ends unless the caller
   comes back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import wanted_layers
from modelcsi.errors import InvalidRequest, NotFound, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Index, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pull.documents import Recognised, Recogniser, StoredDocuments
from modelcsi.store.records import MOUNTED, PENDING, ArtifactRecord, PublicationRecord
from modelcsi.store.store import Store
from modelcsi.volume.dynamic_mounts import hold_leases
from modelcsi.volume.mounts import Mounts

logger = logging.getLogger(__name__)

_VIEW_ROOT = re.compile(r"/views/([0-9a-f]{64})$")
_RECOVERY = "recovery"


class LazyViews(Protocol):
    """The lazy views of the node: `lazy.LazyVolumes`."""

    def targets(self) -> Mapping[str, str]:
        """The view that is mounted at each target."""

    def origin(self, view: str) -> Mapping[str, str] | None:
        """What it shows."""


def restore(store: Store, mounts: Mounts, lazy: LazyViews | None = None) -> list[str]:
    """Repair the rows. Returns the owners of publications left PENDING."""
    _recover_artifacts(store)
    hold_leases(store)
    records = store.records
    rows = {record.target: record for record in records.publications()}
    for target, view in _our_mounts(store, mounts, lazy):
        row = rows.pop(target, None)
        if row is None:
            row = _adopted(store, target, view, lazy)
            logger.warning("adopted %s at %s, which no record knew", row.reference, row.target)
        if row.state != MOUNTED or row.view != view:
            records.put_publication(replace(row, state=MOUNTED, view=view))
    for row in rows.values():
        if row.state == MOUNTED:
            logger.info("%s is not mounted at %s any more", row.reference, row.target)
            records.put_publication(replace(row, state=PENDING))
    return [row.owner for row in rows.values()]


def view_at(store: Store, mounts: Mounts, lazy: LazyViews | None, target: str) -> str | None:
    """The view that is mounted at a target, whatever is recorded."""
    return next((view for shown, view in _our_mounts(store, mounts, lazy) if shown == target), None)


def _our_mounts(store: Store, mounts: Mounts, lazy: LazyViews | None) -> Iterator[tuple[str, str]]:
    """The targets of views, each once; the last look rules out another store's view of the same name."""
    if lazy is not None:
        yield from lazy.targets().items()
    for mount in {mount.mount_point: mount for mount in mounts.table()}.values():
        match = _VIEW_ROOT.search(mount.root)
        path = store.views.path(match[1]) if match is not None else None
        if path is not None and mounts.shows(mount.mount_point, path):
            yield mount.mount_point, path.name


def _adopted(store: Store, target: str, view: str, lazy: LazyViews | None) -> PublicationRecord:
    lazily = None if lazy is None else lazy.origin(view)
    origin = lazily or store.views.record(view) or {}
    record = PublicationRecord(
        *("", target, "", str(origin.get("reference", "an unknown model")), PENDING),
        manifest=str(origin.get("manifest", "")),
        view=view,
    )
    store.records.put_publication(record)
    return record


def _recover_artifacts(store: Store) -> None:
    """Tell the database of manifests that are here and that it does not know: it was lost, the content was not.

    Indexes come first: what they led to is known then, and their other entries are no artifacts of this node.
    """
    recogniser, documents = Recogniser(), StoredDocuments(store.content)
    for digest, content in sorted(_unknown_documents(store), key=lambda item: not _is_index(item[1])):
        views = store.views.of_manifest(digest)
        if str(digest) in store.records.known_content() and not views:
            continue
        try:
            found = recogniser.recognise(digest, content, documents)
        except (UnsupportedArtifact, NotFound) as error:
            logger.warning("the stored manifest %s is not understood: %s", digest, error)
            continue
        _recover_artifact(store, found)
    store.records.end_lease(_RECOVERY)


def _unknown_documents(store: Store) -> Iterator[tuple[Digest, bytes]]:
    known = store.records.known_content()
    for path in store.layout.manifests.glob("*/*"):
        digest = Digest(path.parent.name, path.name) if not path.name.startswith(".") else None
        content = store.content.manifest(digest) if digest is not None and str(digest) not in known else None
        if digest is not None and content is not None:
            yield digest, content


def _is_index(content: bytes) -> bool:
    try:
        return isinstance(parse_manifest(content), Index)
    except UnsupportedArtifact:
        return False


def _recover_artifact(store: Store, found: Recognised) -> None:
    artifact = found.artifact
    layers = wanted_layers(artifact, Selection())
    size = sum(layer.size for layer in layers)
    views = store.views.of_manifest(artifact.digest)
    origins = [origin for view in views if (origin := store.views.record(view)) is not None]
    reference = next((origin["reference"] for origin in origins), str(artifact.digest))
    record = ArtifactRecord(artifact.digest, reference, artifact.kind, size, 0, 0)
    content = [*(layer.digest for layer in layers), *found.documents]
    store.records.put_artifact(record, content, _RECOVERY)
    for origin in origins:
        _recover_deliveries(store, found, origin)


def _recover_deliveries(store: Store, found: Recognised, origin: Mapping[str, str]) -> None:
    """A view was built only after its repository had delivered, or shown, every layer in it, and all
    that was read to know it.
    """
    artifact = found.artifact
    try:
        reference = Reference.parse(origin["reference"])
        selection = Selection.from_key(origin["selection"])
    except (KeyError, ValueError, InvalidRequest):
        logger.warning(
            "the record of a view of %s is not understood: its layers will be asked for again", artifact.digest
        )
        return
    layers = [layer.digest for layer in wanted_layers(artifact, selection)]
    delivered = [*layers, artifact.digest, *found.documents]
    store.records.put_delivery(delivered, reference.host, reference.repository)
