"""`modelcsi pull` and the store it works in: hidden beside DIR, so that an interrupted pull goes on where it was."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from contextlib import closing
from pathlib import Path

from modelcsi.cli.build import registry_of, settings_of_flags
from modelcsi.cli.terminal import ProgressLine
from modelcsi.deadline import Deadline
from modelcsi.errors import InvalidRequest, PullPending, TransientError
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import PulledView, Puller, PullLimits
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.quantities import format_seconds, format_size
from modelcsi.store.durable import remove_tree
from modelcsi.store.store import Store
from modelcsi.volume.spec import parse_selection

_OWNER = "modelcsi pull"
_TICK_SECONDS = 0.2
_RESOLVE_SECONDS = 60.0
_GIVE_UP_SECONDS = 120.0
"""Without a byte; the driver would go on for ever, a person wants to know."""


def run_pull(options: argparse.Namespace) -> int:
    """Pull an artifact's files into a new or empty directory."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    directory: Path = options.directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidRequest(f"{directory} exists and is not an empty directory", hint="name another one, or empty it")
    selection = parse_selection(exclude_weights=options.exclude_model_weights, patterns=options.exclude_file_patterns)
    wish = Wish(Reference.parse(options.reference), PullPolicy.ALWAYS, selection)
    directory.parent.mkdir(parents=True, exist_ok=True)
    root = directory.parent / f".{directory.name}.modelcsi-pull"
    began = time.monotonic()
    with closing(Store(root)) as store:
        registry, keychain = registry_of(settings_of_flags(options.docker_config, options.registry_config))
        puller = Puller(store, registry, keychain, PullLimits())
        resolved = puller.resolve(wish, Patience(Deadline.after(_RESOLVE_SECONDS)))
        view = _wait(puller, resolved)
        _hand_over(view, directory)
    remove_tree(root)
    size = sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
    result = {
        "reference": str(wish.reference),
        "digest": str(resolved.artifact.digest),
        "directory": str(directory),
        "size_bytes": size,
    }
    seconds = time.monotonic() - began
    text = f"{directory}: {format_size(size)} in {format_seconds(seconds)}, {resolved.artifact.digest}"
    print(json.dumps(result) if options.json else text)
    return 0


def _wait(puller: Puller, resolved: Resolved) -> PulledView:
    """Wait with a progress line; give up when nothing arrives for two minutes."""
    last_bytes, last_seen = -1, time.monotonic()
    with ProgressLine(sys.stderr) as line:
        while True:
            try:
                return puller.pull(resolved, _OWNER, Patience(Deadline.after(_TICK_SECONDS)))
            except TransientError as error:
                running = puller.running()
                if not running:  # it ended, and not because our patience did
                    if isinstance(error, PullPending):
                        continue
                    raise
                progress = running[0].progress
                line.show(str(resolved.wish.reference), progress)
                if progress.done_bytes != last_bytes:
                    last_bytes, last_seen = progress.done_bytes, time.monotonic()
                elif time.monotonic() - last_seen > _GIVE_UP_SECONDS:
                    raise


def _hand_over(view: PulledView, directory: Path) -> None:
    """Make the view the user's: renamed into place, writable for its owner. Its files are hard links of content that goes."""
    for path in [view.path, *view.path.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o200))
    if directory.exists():
        directory.rmdir()
    view.path.rename(directory)
