"""Where uploads stand that were interrupted: what a registry called each of them, so that a later push can ask for it.

One small file for each, locked by the process that uploads, gone when the blob has arrived. Losing one costs time, no more: so
nothing here is an error, and where no file can be written the record lives as long as the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference

logger = logging.getLogger(__name__)

_KEPT_SECONDS = 7 * 86_400.0
"""Registries forget uploads, too: distribution after a week."""
_MAX_BYTES = 16 << 10
_END = b"\n"
"""A record that was cut short does not end so."""


class UploadRecord:
    """Where one blob's upload goes on. `location` is a secret: who knows it may write to the upload."""

    def __init__(self, fd: int | None = None) -> None:
        """`fd` is an open, locked file, which stays its opener's to close."""
        self._fd = fd
        self._failures = 0
        self.location = "" if fd is None else _read(fd)
        """An absolute URL; empty where no upload was begun."""

    def save(self, location: str) -> None:
        """The registry has everything up to here."""
        self.location = location
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, location.encode() + _END if location else b"", 0)
        except OSError as error:  # the disk is full, say
            logger.debug("an interrupted push could not go on: %s", error)

    def fail(self) -> None:
        """Nobody answers at the location; after the second time it is forgotten."""
        self._failures += 1
        if self._failures > 1:
            self.forget()

    def forget(self) -> None:
        """There is nothing to go on with: the blob has arrived, or the upload is lost."""
        self.save("")


class UploadRecords:
    """The records in one directory; any thread, and several processes."""

    def __init__(self, directory: Path | None) -> None:
        """None keeps nothing beyond the process. Records that no registry would know any more are removed."""
        self._directory = directory
        if directory is not None and directory.is_dir():
            _remove_old(directory)

    @contextlib.contextmanager
    def claimed(self, reference: Reference, digest: Digest) -> Iterator[UploadRecord]:
        """The record of a blob's upload to a repository; one that is not kept while another process has it."""
        with contextlib.ExitStack() as stack:
            path = self._path(reference, digest)
            fd = None if path is None else _open_locked(path)
            if path is None or fd is None:
                yield UploadRecord()
                return
            stack.callback(os.close, fd)  # which unlocks it
            record = UploadRecord(fd)
            try:
                yield record
            finally:
                if not record.location:
                    path.unlink(missing_ok=True)

    def _path(self, reference: Reference, digest: Digest) -> Path | None:
        if self._directory is None:
            return None
        key = f"{reference.host}/{reference.repository}@{digest}"
        return self._directory / hashlib.sha256(key.encode()).hexdigest()


def _open_locked(path: Path) -> int | None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        logger.debug("an interrupted push could not go on: %s", error)
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _read(fd: int) -> str:
    content = os.pread(fd, _MAX_BYTES, 0)
    text = content.removesuffix(_END)
    return text.decode("ascii", "ignore") if content != text else ""


def _remove_old(directory: Path) -> None:
    end = time.time() - _KEPT_SECONDS
    try:
        paths = list(directory.iterdir())
    except OSError:  # somebody else's
        return
    for path in paths:
        with contextlib.suppress(OSError):  # another process removes it, too
            if path.stat().st_mtime < end:
                path.unlink()
