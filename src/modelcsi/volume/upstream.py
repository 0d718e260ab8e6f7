"""What the upstream driver left on the node: `root_dir/volumes/<volume id>`, a copy of a model for each volume.

A deployment that changes its image keeps these mounted; when such a volume is unpublished, its copy goes, as it went before.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from modelcsi.volume.mounts import Mounts
from modelcsi.volume.spec import VolumeId

logger = logging.getLogger(__name__)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def shows_upstream_copy(root_dir: Path, volume_id: VolumeId, target: str, mounts: Mounts) -> bool:
    """Whether the upstream driver's copy for this volume is mounted at the target."""
    return _copy(root_dir, volume_id) is not None and target in _shown_at(volume_id, mounts)


def remove_upstream_copy(root_dir: Path, volume_id: VolumeId, mounts: Mounts) -> None:
    """Remove the upstream driver's copy for a volume, if there is one and nothing shows it any more.

    What cannot be removed is logged: an unpublish must not fail for it.
    """
    copy = _copy(root_dir, volume_id)
    if copy is None:
        return
    if shown := _shown_at(volume_id, mounts):
        logger.info("%s of the upstream driver stays: %s shows it", copy, shown[0])
        return
    try:
        shutil.rmtree(copy)
    except OSError as error:
        logger.warning("%s of the upstream driver could not be removed: %s", copy, error)
        return
    logger.info("removed %s, which the upstream driver made for this volume", copy)


def _copy(root_dir: Path, volume_id: VolumeId) -> Path | None:
    """Its directory, if there is one; an id is the name of one only if it is plain."""
    copy = root_dir / "volumes" / volume_id
    return copy if _SAFE_NAME.fullmatch(volume_id) and not copy.is_symlink() and copy.is_dir() else None


def _shown_at(volume_id: VolumeId, mounts: Mounts) -> list[str]:
    return [mount.mount_point for mount in mounts.table() if f"/volumes/{volume_id}/" in f"{mount.root}/"]
