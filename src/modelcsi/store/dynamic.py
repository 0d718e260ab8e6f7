"""The directories of dynamic volumes: what a pod sees that mounts models itself, and a record beside each.

    dynamic/<key>.json               whose it is, in words of the caller; for a start without the database
    dynamic/<key>/status.json        the same for the pod
    dynamic/<key>/csi/               for the socket
    dynamic/<key>/models/<mount id>/ status.json and model/, a tree of hard links

Each step is one rename, so a kill leaves a mount with its record, or nothing. Nothing is fsynced: after a power cut no volume
is mounted, and what is not mounted is removed at the start. Documents are the caller's, JSON objects that are kept as they are.
One writer per volume; any thread.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelcsi.store.content import ContentStore
from modelcsi.store.durable import remove_tree, replace_file, space_errors
from modelcsi.store.layout import StoreLayout
from modelcsi.store.views import Views

logger = logging.getLogger(__name__)

SOCKET_DIRECTORY = "csi"
MODELS = "models"
MODEL = "model"
STATUS = "status.json"
"""Names below a volume, as upstream has them: its clients know them."""


def key_of(volume_id: str, target: str) -> str:
    """The name of a volume's directory; one volume id at two targets is two volumes."""
    return hashlib.sha256(json.dumps([volume_id, target]).encode()).hexdigest()


class DynamicTrees:
    """All dynamic volumes of one store, by their keys."""

    def __init__(self, layout: StoreLayout, views: Views, content: ContentStore) -> None:
        self._layout = layout
        self._views = views
        self._content = content

    def create(self, key: str, record: Mapping[str, Any], status: Mapping[str, Any]) -> Path:
        """A volume without models; returns its directory. `status` is what the pod reads."""
        path = self._layout.dynamic_volume(key)
        temporary = self._temporary(key)
        replace_file(self._layout.dynamic_record(key), json.dumps(dict(record)).encode())
        with space_errors(str(path)):
            temporary.mkdir()
            for directory in (temporary / SOCKET_DIRECTORY, temporary / MODELS, temporary):
                directory.mkdir(exist_ok=True)
                directory.chmod(0o755)
            _write(temporary / STATUS, status)
            temporary.rename(path)
        return path

    def records(self) -> dict[str, Mapping[str, Any]]:
        """Key -> record of every volume that is complete."""
        found = {}
        for path in self._layout.dynamic_volumes.glob("[!.]*.json"):
            record = _read(path)
            if record is not None and self._layout.dynamic_volume(path.stem).is_dir():
                found[path.stem] = record
        return found

    def path(self, key: str) -> Path:
        """Where the volume is."""
        return self._layout.dynamic_volume(key)

    def add(self, key: str, mount_id: str, view: str, status: Mapping[str, Any]) -> None:
        """Let the volume show a view under a mount id (checked by the caller, and free); it appears in one step."""
        temporary = self._temporary(key)
        with space_errors(f"the tree of mount {mount_id}"):
            temporary.mkdir()
            try:
                self._views.clone(view, temporary / MODEL)
                _write(temporary / STATUS, status)
                temporary.chmod(0o755)
                temporary.rename(self._mount(key, mount_id))
            except BaseException:
                remove_tree(temporary)
                raise

    def mounts(self, key: str) -> dict[str, Mapping[str, Any]]:
        """Mount id -> status of what the volume shows; an empty one where it cannot be read."""
        directory = self._layout.dynamic_volume(key) / MODELS
        return {path.name: _read(path / STATUS) or {} for path in directory.iterdir()}

    def discard_mount(self, key: str, mount_id: str) -> list[Path]:
        """Take a mount away, in one step; returns what is in the trash now, nothing if it was not there."""
        return self._content.discard(self._mount(key, mount_id))

    def discard(self, key: str) -> list[Path]:
        """Take a volume and its record away; returns what is in the trash now."""
        trash = self._content.discard(self._layout.dynamic_volume(key))
        self._layout.dynamic_record(key).unlink(missing_ok=True)
        return trash

    def discard_leftovers(self) -> list[Path]:
        """What a kill left half-made, and directories without a record; before the first use."""
        complete = self.records()
        leftovers = [
            path for path in self._layout.dynamic_volumes.iterdir() if path.name.partition(".")[0] not in complete
        ]
        return [away for path in leftovers for away in self._content.discard(path)]

    def _mount(self, key: str, mount_id: str) -> Path:
        return self._layout.dynamic_volume(key) / MODELS / mount_id

    def _temporary(self, key: str) -> Path:
        return self._layout.dynamic_volumes / f".{key}.{os.urandom(8).hex()}"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(document), indent=2))
    path.chmod(0o644)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:  # what a power cut leaves of a file that was not fsynced
        logger.warning("%s is not JSON", path)
        return None
    return document if isinstance(document, dict) else None
