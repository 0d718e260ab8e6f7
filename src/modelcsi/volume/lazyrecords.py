"""What is written down of a lazy view for the next driver: in its origin what it shows, in its secret what its pods brought.

The origin is a file; the secret stays in the memory of the holder (`mount/daemons.py`), and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelcsi.artifact.layouts import FILES, Layout
from modelcsi.artifact.selection import Selection
from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.registry.caller import Caller, Pod

logger = logging.getLogger(__name__)

_MAX_SECRET_BYTES = 32 << 10
"""It travels in one packet (`packets.MAX_PACKET_BYTES`), and the credentials of one pod are enough to go on."""


def lazy_id(resolved: Resolved) -> str:
    """The name of a lazy view: of what is shown, and of the repository that delivers it."""
    repository = resolved.repository
    view = resolved.wish.view_of(resolved.artifact.digest)
    return hashlib.sha256(json.dumps([view, repository.host, repository.name]).encode()).hexdigest()


def read_origin(path: Path) -> Mapping[str, str] | None:
    """What a view shows, as `Views.record` has it; None when that is not written there."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def wish_of(origin: Mapping[str, str], reference: str, caller: Caller) -> Wish:
    """What one of the view's pods wants, as its publication was resolved. Raises UnsupportedArtifact, InvalidRequest."""
    try:
        parsed = Reference.parse(reference)
        selection = Selection.from_key(origin["selection"])
        layout = Layout.from_key(origin.get("layout", FILES))
        pinned = Digest.parse(origin["manifest"])
    except (KeyError, ValueError) as error:
        raise UnsupportedArtifact("the record of a lazy view is not understood") from error
    return Wish(parsed, PullPolicy.IF_NOT_PRESENT, selection, caller, pinned, layout)


def _to_json(caller: Caller) -> dict[str, Any]:
    pod = None if caller.pod is None else asdict(caller.pod)
    return {"secrets": dict(caller.secrets), "tokens": dict(caller.tokens), "pod": pod}


def write_callers(callers: dict[str, Caller]) -> bytes:
    """The secret of a view: what its pods brought, by target; of the last ones, as far as there is room."""
    record: dict[str, Any] = {}
    left = _MAX_SECRET_BYTES
    for target, caller in reversed(callers.items()):
        item = _to_json(caller)
        left -= len(json.dumps({target: item}))
        if left < 0:
            break
        record[target] = item
    return json.dumps(record).encode()


def read_callers(secret: bytes) -> dict[str, Caller]:
    """What was entrusted to the holder by this release or another; what is not understood is left out."""
    try:
        record = json.loads(secret or b"{}")
        return {
            target: Caller(item["secrets"], None if item["pod"] is None else Pod(**item["pod"]), item["tokens"])
            for target, item in record.items()
        }
    except (ValueError, TypeError, LookupError, AttributeError, InvalidRequest):
        logger.warning("the credentials of a lazy view are not understood: the node's own are used")
        return {}
