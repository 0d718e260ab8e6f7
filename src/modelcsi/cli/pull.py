"""`modelcsi pull` and the store it works in: hidden beside DIR, or in a DIR that is there already.

An interrupted pull goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from contextlib import closing
from pathlib import Path

from modelcsi.cli.build import registry_of, settings_of_flags
from modelcsi.cli.selection import selection_of, value_of
from modelcsi.cli.terminal import ProgressLine
from modelcsi.deadline import Deadline
from modelcsi.errors import (
    FinalError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PullPending,
    StoreFull,
    TransientError,
    Unauthenticated,
    UnsupportedArtifact,
)
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import PulledView, Puller, PullLimits
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.quantities import format_seconds, format_size
from modelcsi.store.durable import remove_tree
from modelcsi.store.store import Store
from modelcsi.volume.values import layout_of, parse_model_name

_OWNER = "modelcsi pull"
_HIDDEN = ".modelcsi-pull"
_SPENT = ".done"
_TICK_SECONDS = 0.2
_RESOLVE_SECONDS = 60.0
_GIVE_UP_SECONDS = 120.0
"""Without a byte; the driver would go on for ever, a person wants to know."""


def run_pull(options: argparse.Namespace) -> int:
    """Pull an artifact's files into a new or empty directory."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger(Puller.__module__).setLevel(logging.ERROR)  # how a pull ended is this command's answer
    directory = _resolved(options.directory)
    reference = Reference.parse(options.reference)
    model_name = value_of("--model-name", parse_model_name, options.model_name) if options.model_name else ""
    layout = layout_of(options.layout, model_name, reference)
    wish = Wish(reference, PullPolicy.ALWAYS, selection_of(options), layout=layout)
    directory.parent.mkdir(parents=True, exist_ok=True)
    root = _store_root(directory)
    began = time.monotonic()
    _remove_spent(root)
    try:
        digest, size = _pull(wish, directory, root, options)
    except StoreFull as error:  # whose advice is for the driver's store
        raise StoreFull(
            error.message, hint=f"free space there, or name a directory on a larger disk than {directory}'s"
        ) from error
    result = {
        "reference": str(wish.reference),
        "digest": str(digest),
        "directory": str(directory),
        "size_bytes": size,
    }
    seconds = time.monotonic() - began
    text = f"{directory}: {format_size(size)} in {format_seconds(seconds)}, {digest}"
    print(json.dumps(result) if options.json else text)
    return 0


def _resolved(path: Path) -> Path:
    """The directory that is meant. Raises InvalidRequest for one that is not empty, or no directory."""
    try:
        directory = path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of symlinks is a RuntimeError up to Python 3.12
        raise InvalidRequest(f"{path} cannot be resolved: {error}") from error
    _check_empty(directory)
    return directory


def _check_empty(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(not _is_ours(child) for child in directory.iterdir())):
        raise InvalidRequest(f"{directory} exists and is not an empty directory", hint="name another one, or empty it")


def _store_root(directory: Path) -> Path:
    """Where the store is: on the filesystem of the directory, since files are linked and renamed.

    A directory that is there may be a mount point, or its parent read-only: then the store is in it.
    """
    return directory / _HIDDEN if directory.is_dir() else directory.parent / f".{directory.name}{_HIDDEN}"


def _spent(root: Path) -> Path:
    """The name under which a store is never used again."""
    return root.with_name(f"{root.name}{_SPENT}")


def _is_ours(path: Path) -> bool:
    return path.name in {_HIDDEN, f"{_HIDDEN}{_SPENT}"}


def _remove_spent(root: Path) -> None:
    """Remove what an interrupted call left of a store that it had done with. Raises Busy while it still works on that."""
    spent = _spent(root)
    if spent.exists():
        with closing(Store(spent)):
            remove_tree(spent)


def _pull(wish: Wish, directory: Path, root: Path, options: argparse.Namespace) -> tuple[Digest, int]:
    """The manifest's digest, and the size of all files."""
    was_there = root.exists()
    with closing(Store(root, is_handed_over=True)) as store:
        registry, keychain = registry_of(settings_of_flags(options.docker_config, options.registry_config))
        puller = Puller(store, registry, keychain, PullLimits())
        try:
            resolved = puller.resolve(wish, Patience(Deadline.after(_RESOLVE_SECONDS)))
            store.begin_view(wish.view_of(resolved.artifact.digest))
            view = _wait(puller, resolved)
            size = int((store.views.record(view.view) or {}).get("size_bytes", 0))
            _hand_over(view, directory, root)
        except FinalError as error:
            # Nothing to go on with, except where an earlier call got further than this one's credentials or name.
            if was_there and isinstance(error, (NotFound, Unauthenticated, Forbidden)):
                raise
            root.rename(_spent(root))
            remove_tree(_spent(root))
            raise
        remove_tree(_spent(root))
    return resolved.artifact.digest, size


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


def _hand_over(view: PulledView, directory: Path, root: Path) -> None:
    """Make the view the user's: renamed into place.

    Some of its files are hard links of the store's content, which the user may change from then on. The store loses its name
    first, so that a call after an interruption cannot take it for what was verified.
    """
    _check_empty(directory)
    if directory.exists() and any(_is_ours(child) for child in view.path.iterdir()):
        raise UnsupportedArtifact(
            f"the artifact has a {_HIDDEN}, as this command's own directory is called",
            hint="name a directory that does not exist",
        )
    root.rename(_spent(root))
    tree = _spent(root) / view.path.relative_to(root)
    if not directory.exists():
        tree.rename(directory)
        return
    for child in tree.iterdir():
        child.rename(directory / child.name)
