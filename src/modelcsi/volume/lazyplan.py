"""The plan of a lazy view, from what a job tells before all is here; and whether another job would show the same.

What a registry told of a tar before its bytes were here is checked by the job that was told it. The view may be filled by
another one, which may learn something else: then what is mounted is not the artifact, and must never count as complete.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from modelcsi.artifact.entries import EntryType, FileEntry, FileTree
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.view.plan import PlannedEntry, ViewPlan, read_plan

logger = logging.getLogger(__name__)

Offsets = Mapping[tuple[Digest, int | None], int]


def planned(tree: FileTree, offsets: Offsets) -> Iterable[PlannedEntry]:
    """Each entry, and where its bytes begin in their blob."""
    return (
        PlannedEntry(entry, None if entry.layer is None else offsets.get((entry.layer, entry.member)))
        for entry in tree.entries
    )


def check_same(plan: ViewPlan, tree: FileTree, offsets: Offsets) -> None:
    """Files, their bytes and links are to be the same. Raises UnsupportedArtifact.

    Directories are not looked at: a compressed tar may have more of them behind its file. Nor are modes and times.
    """
    before = {item.entry.path: item for item in plan.entries if item.entry.type is not EntryType.DIRECTORY}
    now = {item.entry.path: item for item in planned(tree, offsets) if item.entry.type is not EntryType.DIRECTORY}
    differing = next((path for path, item in now.items() if not _is_same(before.get(path), item)), None)
    if differing is None and len(before) != len(now):
        differing = next(path for path in before if path not in now)
    if differing is not None:
        raise UnsupportedArtifact(
            f"{plan.reference}: {differing} is not what the registry told of it before it was here",
            hint="delete the pods that have this volume; the registry, or something on the way to it, is not to be trusted",
        )


def stored_plan(path: Path) -> ViewPlan | None:
    """What was mounted by the last driver; None where that is not understood."""
    try:
        return read_plan(path)
    except (OSError, ValueError) as error:
        logger.warning("a lazy view is not understood: %s", error)
        return None


def _is_same(before: PlannedEntry | None, now: PlannedEntry) -> bool:
    if before is None or _what(before.entry) != _what(now.entry):
        return False
    return before.offset is None or now.offset is None or before.offset == now.offset


def _what(entry: FileEntry) -> tuple[object, ...]:
    return (entry.type, entry.size, entry.target, entry.layer, entry.member, entry.data)
