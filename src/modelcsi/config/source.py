"""The configuration in force: the file, read again whenever it changes, and who wants to know.

A file that cannot be used never replaces one that could. A polling thread, not inotify: kubelet changes a ConfigMap by swapping
symlinks above the file, which a watch on the file does not see, and one stat a second costs nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from modelcsi.config.file import load_config
from modelcsi.config.model import Config
from modelcsi.errors import InvalidRequest

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_Section = TypeVar("_Section")


class ConfigSource:
    """Owns the current Config; `current` may be read from any thread."""

    def __init__(self, path: Path, environment: Mapping[str, str] = os.environ) -> None:
        """Read the file once; raises InvalidRequest, since there is no older one to keep."""
        # _lock guards the other fields and makes one refresh at a time; _current and _refusal are only ever replaced as a whole.
        self._lock = threading.Lock()
        self._path = path
        self._environment = environment
        # Before reading: a change in between is then seen at the next look.
        self._stamp = _stamp(path)
        self._current = load_config(path, environment)
        self._refusal = ""  # why the file is not in force; "" when it is
        self._listeners: list[Callable[[Config], None]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="config", daemon=True)

    def __repr__(self) -> str:
        return f"ConfigSource({str(self._path)!r})"

    @property
    def current(self) -> Config:
        """The configuration in force."""
        return self._current

    @property
    def rejection(self) -> str | None:
        """Why the file as it is now is not in force; None when it is, but for what needs a restart."""
        return self._refusal or None

    def subscribe(self, listener: Callable[[Config], None]) -> None:
        """Have `listener` called, in the watching thread, with each Config before it comes into force.

        One that raises InvalidRequest keeps the old one in force, until the file, or what it names, is mended.
        """
        with self._lock:
            self._listeners.append(listener)

    def start(self) -> None:
        """Begin to watch the file; once."""
        self._thread.start()

    def stop(self) -> None:
        """End watching; returns when the last listener is done."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """Look at the file now, and if it changed put it in force, but for the keys that need a restart."""
        with self._lock:
            stamp = _stamp(self._path)
            if stamp == self._stamp and not self._refusal:
                return
            self._stamp = stamp
            try:
                self._apply(load_config(self._path, self._environment))
            except InvalidRequest as error:
                if str(error) != self._refusal:
                    logger.error("the configuration changed and cannot be used, the old one stays in force: %s", error)  # noqa: TRY400 (the message is made for people)
                self._refusal = str(error)
            else:
                self._refusal = ""

    def _apply(self, read: Config) -> None:
        config, pending = _merge(self._current, read)
        if config != self._current:
            for listener in self._listeners:
                listener(config)
            self._current = config
            logger.info("%s changed and is in force", self._path)
        if pending:
            logger.warning("%s: these changes need a restart of the driver: %s", self._path, ", ".join(pending))

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS):
            try:
                self.refresh()
            except Exception:
                logger.exception("a change of the configuration could not be applied everywhere")


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs when the file does: of the file that symlinks lead to, which is how a ConfigMap changes."""
    try:
        status = path.stat()
    except OSError:
        # Loading the file will say what is wrong with it.
        return ()
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def _merge(old: _Section, new: _Section, prefix: str = "") -> tuple[_Section, list[str]]:
    """`new` with what needs a restart as in `old`, and the names of the keys for which that made a difference."""
    kept: dict[str, Any] = {}
    pending = []
    for known in dataclasses.fields(new):  # type: ignore[arg-type]  # a TypeVar cannot say "a dataclass"
        before, after = getattr(old, known.name), getattr(new, known.name)
        if before == after:
            continue
        if known.metadata.get("restart"):
            kept[known.name] = before
            pending.append(f"{prefix}{known.name}")
        elif dataclasses.is_dataclass(after):
            kept[known.name], below = _merge(before, after, f"{prefix}{known.name}.")
            pending += below
    return dataclasses.replace(new, **kept), pending  # type: ignore[type-var]
