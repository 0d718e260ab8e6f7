"""What a lazy view shows and where each file's bytes will be: written once by the driver, read by every server of the view.

A file's number is its place in the plan, for ever: servers derive node ids from it, demands and the fill map name files by
it. The format is one JSON text a line, so that a plan of a hundred thousand entries needs no second copy in memory.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.oci.digest import Digest

PLAN_VERSION = 1
_BLOCK_BYTES = 1 << 20

Record = list[Any]
"""An entry as it is written: path, sort, size, mode, mtime_ns or None, target, layer or None, member or None, data (base64) or
None, offset or None (`PlannedEntry` says what each is)."""


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """An entry of the tree and, of a file whose bytes arrive, where they are in its layer's blob."""

    entry: FileEntry
    offset: int | None = None
    """Where in the blob the file's first byte is: 0 of a raw layer, a member's place in an uncompressed tar. None: the bytes
    cannot be read before the layer is complete (a compressed tar), or are not in a layer."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """All of a view. Parents come before their children."""

    view: str
    reference: str
    manifest: str
    host: str
    """The registry that delivers: each has ingests of its own (`StoreLayout.ingest`)."""
    entries: tuple[PlannedEntry, ...]


def write_plan(plan: ViewPlan, path: Path) -> None:
    """Write the plan; the caller puts the file into place."""
    with path.open("w", encoding="utf-8") as file:
        head = {"version": PLAN_VERSION, "view": plan.view, "reference": plan.reference}
        file.write(json.dumps(head | {"manifest": plan.manifest, "host": plan.host}) + "\n")
        for planned in plan.entries:
            file.write(json.dumps(_to_json(planned)) + "\n")


def read_plan(path: Path) -> ViewPlan:
    """The plan that `write_plan` wrote. Raises ValueError for anything else, OSError."""
    head, records = read_records(path)
    try:
        entries = tuple(_from_json(record) for record in records)
        return ViewPlan(head["view"], head["reference"], head["manifest"], head["host"], entries)
    except (KeyError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is not the plan of a view") from error


def read_records(path: Path) -> tuple[dict[str, str], Iterator[Record]]:
    """The plan's head and its entries without an object for each: what a server that starts has time for.

    A hundred thousand entries take 0.2 s so, 1.2 s as `read_plan`. Raises ValueError, OSError, both also when iterated.
    """
    file = path.open(encoding="utf-8")
    try:
        head = json.loads(file.readline())
        if head["version"] != PLAN_VERSION:
            raise ValueError(f"{path} is a plan of version {head['version']}, not {PLAN_VERSION}")
    except (KeyError, TypeError) as error:
        file.close()
        raise ValueError(f"{path} is not the plan of a view") from error
    except ValueError:
        file.close()
        raise
    return head, _records(file)


def _records(file: TextIO) -> Iterator[Record]:
    with file:
        while lines := file.readlines(_BLOCK_BYTES):
            yield from json.loads(f"[{','.join(lines)}]")  # one call of the C scanner for many lines


def plan_of(head: Mapping[str, str], entries: Iterable[PlannedEntry]) -> ViewPlan:
    """A plan with its entries in the order that servers rely on: by path, so parents first."""
    ordered = sorted(entries, key=lambda planned: planned.entry.path.split("/"))
    return ViewPlan(head["view"], head["reference"], head["manifest"], head["host"], tuple(ordered))


def _to_json(planned: PlannedEntry) -> list[Any]:
    entry = planned.entry
    data = None if entry.data is None else base64.b64encode(entry.data).decode()
    layer = None if entry.layer is None else str(entry.layer)
    attributes = [entry.path, entry.type.value, entry.size, entry.mode, entry.mtime_ns]
    return [*attributes, entry.target, layer, entry.member, data, planned.offset]


def _from_json(record: list[Any]) -> PlannedEntry:
    path, sort, size, mode, mtime_ns, target, layer, member, data, offset = record
    entry = FileEntry(
        *(path, EntryType(sort), size, mode, mtime_ns, target),
        layer=None if layer is None else Digest.parse(layer),
        member=member,
        data=None if data is None else base64.b64decode(data),
    )
    return PlannedEntry(entry, offset)
