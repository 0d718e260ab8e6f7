"""`modelcsi pack` and `modelcsi push`: from a directory to a layout, from a layout to a registry."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcsi.artifact.layer import RAW, TAR, TAR_GZIP, TAR_ZSTD
from modelcsi.cli.build import connections_of, settings_of_flags
from modelcsi.cli.terminal import drawn
from modelcsi.config.environment import read_environment, uploads_dir
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import PackedArtifact, check_output, open_layout
from modelcsi.pack.pack import Packed, PackSettings, pack
from modelcsi.pack.push import Pushed, Pusher
from modelcsi.pack.uploads import UploadRecords
from modelcsi.pack.walk import Walked, walk
from modelcsi.pull.progress import Progress
from modelcsi.quantities import format_seconds, format_size

_CODECS = {"raw": RAW, "tar": TAR, "tar+gzip": TAR_GZIP, "tar+zstd": TAR_ZSTD}
_SHOWN_LEFT_OUT = 5


@dataclass(frozen=True, slots=True)
class _Result:
    """What packing gave."""

    packed: Packed
    walked: Walked
    reference: Reference
    pushed: Pushed | None

    @property
    def source_bytes(self) -> int:
        return sum(file.size for file in self.walked.files)


def run_pack(options: argparse.Namespace) -> int:
    """Pack a directory into a layout, or with --push into the registry; the layout then stays only where --output names it."""
    _log_to_stderr()
    began = time.monotonic()
    directory = options.directory.absolute()
    reference = Reference.parse(options.reference)
    settings = PackSettings(reference, _CODECS[options.format], _source_date_epoch(), options.keep_times)
    # Before the work and not after it: oras may be missing, the output may be in the way, the right to push may be wanting.
    pusher = _pusher(options) if options.push else None
    with _layout_place(directory, options) as output:
        if pusher is not None and not reference.digest:
            pusher.check(reference)
        result = _pack(directory, output, settings, pusher)
    _print_packed(result, None if options.push and not options.output else output, began, as_json=options.json)
    return 0


def run_push(options: argparse.Namespace) -> int:
    """Push the artifact of a layout."""
    _log_to_stderr()
    began = time.monotonic()
    reference = Reference.parse(options.reference)
    artifact = open_layout(options.layout.absolute(), reference)
    pushed = _push(_pusher(options), artifact, reference)
    if options.json:
        print(json.dumps(_pushed_json(pushed)))
    else:
        print(_pushed_text(pushed, time.monotonic() - began))
    return 0


def _pack(directory: Path, output: Path, settings: PackSettings, pusher: Pusher | None) -> _Result:
    walked = walk(directory)
    _tell_left_out(walked)
    progress = Progress(sum(file.size for file in walked.files))
    with drawn(sys.stderr, f"packing {directory.name}", progress):
        packed = pack(walked, output, settings, progress.add)
    reference = settings.reference
    pushed = None if pusher is None else _push(pusher, open_layout(output, reference), reference)
    return _Result(packed, walked, reference, pushed)


def _push(pusher: Pusher, artifact: PackedArtifact, reference: Reference) -> Pushed:
    progress = Progress(sum(blob.size for blob in artifact.blobs))
    with drawn(sys.stderr, f"pushing {reference}", progress):
        return pusher.push(artifact, reference, progress)


@contextlib.contextmanager
def _layout_place(directory: Path, options: argparse.Namespace) -> Iterator[Path]:
    """Where the layout goes; a temporary one lies beside the directory: TMPDIR is often memory, and a model may not fit."""
    try:
        source = directory.resolve()
    except RuntimeError as error:  # a loop of symlinks, up to Python 3.12
        raise InvalidRequest(f"{directory} cannot be resolved: {error}") from error
    if not source.name and not options.output:
        raise InvalidRequest(
            f"{directory} has no name that the layout's could be made of", hint="name it with --output"
        )
    output = (options.output or source.with_name(f"{source.name}.oci")).absolute()
    if output.resolve().is_relative_to(source):
        raise InvalidRequest(f"{output} lies in {directory}", hint="name a place beside it with --output")
    if not options.push or options.output:
        check_output(output)
        yield output
        return
    beside = source.parent
    temporary = Path(tempfile.mkdtemp(prefix="modelcsi-pack-", dir=beside if os.access(beside, os.W_OK) else None))
    try:
        yield temporary / "layout"
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pusher(options: argparse.Namespace) -> Pusher:
    connections = connections_of(settings_of_flags(options.docker_config, options.registry_config))
    records = UploadRecords(uploads_dir(read_environment()))
    return Pusher(connections.transport, connections.hosts, connections.keychain, records=records)


def _source_date_epoch() -> int | None:
    text = read_environment().source_date_epoch
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InvalidRequest(f"SOURCE_DATE_EPOCH is {text[:40]!r}", hint="it is a number of seconds since 1970")
    return int(text)


def _tell_left_out(walked: Walked) -> None:
    if walked.left_out:
        more = len(walked.left_out) - _SHOWN_LEFT_OUT
        rest = f" and {more} more" if more > 0 else ""
        print(f"left out: {', '.join(walked.left_out[:_SHOWN_LEFT_OUT])}{rest}", file=sys.stderr)


def _print_packed(result: _Result, layout: Path | None, began: float, *, as_json: bool) -> None:
    packed, size = result.packed, result.source_bytes
    if as_json:
        print(json.dumps(_packed_json(result, layout)))
        return
    classes = Counter(layer.file_class.value for layer in packed.layers)
    counts = ", ".join(f"{count} {name}" for name, count in classes.items())
    facts = ", ".join(packed.facts.config().values())
    seconds = time.monotonic() - began
    print(f"{len(packed.layers)} files of {format_size(size)} ({counts})" + (f": {facts}" if facts else ""))
    if layout is not None:
        print(f"{layout}: {packed.digest} in {format_seconds(seconds)}")
    if result.pushed is not None:
        print(_pushed_text(result.pushed, seconds))


def _packed_json(result: _Result, layout: Path | None) -> dict[str, Any]:
    value: dict[str, Any] = {
        "reference": str(result.reference),
        "digest": str(result.packed.digest),
        "layout": None if layout is None else str(layout),
        "files": len(result.packed.layers),
        "size_bytes": result.source_bytes,
        "left_out": list(result.walked.left_out),
    }
    return value if result.pushed is None else value | _pushed_json(result.pushed)


def _pushed_json(pushed: Pushed) -> dict[str, Any]:
    return {
        "reference": str(pushed.reference),
        "digest": str(pushed.reference.digest),
        "sent_bytes": pushed.sent_bytes,
        "found_bytes": pushed.found_bytes,
    }


def _pushed_text(pushed: Pushed, seconds: float) -> str:
    found = f", {format_size(pushed.found_bytes)} were there" if pushed.found_bytes else ""
    return f"{pushed.reference}: {format_size(pushed.sent_bytes)} pushed in {format_seconds(seconds)}{found}"


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
