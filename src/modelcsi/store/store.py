"""Opens a store: one process per root directory, leftovers of the last one cleared, every part built."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from modelcsi.deadline import Deadline
from modelcsi.errors import Busy, InvalidRequest, StoreFull
from modelcsi.store.collector import Collector
from modelcsi.store.content import ContentStore, empty_trash
from modelcsi.store.durable import disk_bytes, replace_file
from modelcsi.store.dynamic import DynamicTrees
from modelcsi.store.layout import FORMAT_VERSION, StoreLayout
from modelcsi.store.records import DamagedRecords, Records, error_code
from modelcsi.store.space import Space
from modelcsi.store.views import Views

logger = logging.getLogger(__name__)

_LOCK_LOOK_SECONDS = 0.05
_NO_PLACE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR})
"""What SQLite says on a full disk, or without a free inode, when it makes the files beside the database."""


class Store:
    """The parts of one open store. `close` it before the process ends; a kill instead loses nothing.

    `disk_usage_limit` is asked at each reservation for the greatest number of bytes the store may hold (0: no limit). Waits
    until `patience` for another process that holds the store (the last driver may be about to end). Raises Busy then.
    With `is_handed_over` the files belong to who made it in the end: they are moved into the one view, and writable for him.
    """

    def __init__(
        self,
        root: Path,
        disk_usage_limit: Callable[[], int] = lambda: 0,
        patience: Deadline | None = None,
        *,
        is_handed_over: bool = False,
    ) -> None:
        self.layout = StoreLayout(root, 0o644 if is_handed_over else 0o444)
        for directory in self.layout.directories():
            directory.mkdir(mode=0o711 if directory == root else 0o700, parents=directory == root, exist_ok=True)
        self._lock_fd = _lock(self.layout, patience or Deadline.after(0))
        try:
            _check_format(self.layout)
            self.records = _open_records(self.layout.database)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.content = ContentStore(self.layout)
        self.views = Views(self.layout, is_handed_over=is_handed_over)
        self.dynamic = DynamicTrees(self.layout, self.views, self.content)
        self.collector = Collector(self.layout, self.content, self.views, self.records)
        self.space = Space(root, self._make_room, lambda: self._limit(disk_usage_limit()))
        self._clear_leftovers(() if is_handed_over else self.layout.views.glob(".*"))

    def begin_view(self, view: str) -> None:
        """A store that is handed over makes this view now.

        Of content that was moved into another one nobody knows what is left: it is fetched again.
        """
        others = self.views.others(view)
        if others:  # they go last: who is killed before begins again
            empty_trash(*self.content.take_away(list(self.content.digests())))
            empty_trash(*(away for other in others for away in self.content.discard(other)))

    def close(self) -> None:
        """Close the database and give the lock back."""
        self.records.close()
        os.close(self._lock_fd)

    def _make_room(self, need_bytes: int) -> int:
        return self.collector.make_room(need_bytes).freed_bytes

    def _limit(self, limit: int) -> tuple[int | None, int]:
        return (limit, self.content.size_bytes() + disk_bytes(self.layout.ingests)) if limit else (None, 0)

    def _clear_leftovers(self, views: Iterable[Path]) -> None:
        """What a crash left half-made under a temporary name; half-written content stays, to be resumed.

        What cannot be removed stays too: without a start nobody could unpublish.
        """
        half_made = (*views, *self.layout.manifests.glob("*/.*"))
        for path in (*self.layout.trash.iterdir(), *half_made):
            try:
                empty_trash(path)
            except OSError as error:
                logger.warning("cannot remove the leftover %s: %s", path, error)


def _lock(layout: StoreLayout, patience: Deadline) -> int:
    fd = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    pause = threading.Event()  # flock has no timeout, and nobody tells when a lock is given back
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if patience.is_over():
                os.close(fd)
                raise Busy(
                    f"another process uses the store {layout.root}",
                    hint="one driver runs per root_dir: end the other one, or ask it by `modelcsi status`",
                ) from error
            pause.wait(_LOCK_LOOK_SECONDS)
        else:
            return fd


def _check_format(layout: StoreLayout) -> None:
    try:
        version = int(layout.format_file.read_text())
    except FileNotFoundError:
        replace_file(layout.format_file, b"%d\n" % FORMAT_VERSION)
        return
    except ValueError as error:
        raise InvalidRequest(
            f"{layout.format_file} is not a number", hint="is root_dir the right directory?"
        ) from error
    if version > FORMAT_VERSION:
        raise InvalidRequest(
            f"the store {layout.root} has format {version}; this release knows formats up to {FORMAT_VERSION}",
            hint="run a newer release, or empty the directory while no pod uses it",
        )


def _open_records(path: Path) -> Records:
    """The database. A damaged one is set aside and begun anew, since everything in it can be found again.

    For the same reason one in memory serves where the disk has no place for it: unpublishing must work on a full disk.
    """
    try:
        return Records(path)
    except (StoreFull, sqlite3.OperationalError) as error:
        if isinstance(error, sqlite3.OperationalError) and error_code(error) not in _NO_PLACE:
            raise
        logger.warning(
            "cannot use %s (%s): until the next start the records are kept in memory, made again from the mounts and the "
            "content; free space on the disk, then restart",
            path,
            error,
        )
        return Records(None)
    except DamagedRecords as error:
        logger.warning("%s is unreadable (%s): set aside as %s.bad and begun anew", path, error, path.name)
        for suffix in ("", "-wal", "-shm"):
            file = path.with_name(path.name + suffix)
            if file.exists():
                file.rename(file.with_name(f"{file.name}.bad"))
        return Records(path)
