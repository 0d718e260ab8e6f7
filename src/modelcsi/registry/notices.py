"""Warnings that would repeat at each attempt, said once."""

from __future__ import annotations

import logging
import threading

_MAX_KEPT = 1000
"""Texts may name what pods ask for, so they have no end; after so many some are said again."""


class Notices:
    """What was warned about; any thread."""

    def __init__(self, logger: logging.Logger) -> None:
        """`logger` is the module's that uses it."""
        self._lock = threading.Lock()  # guards _said
        self._said: set[str] = set()
        self._logger = logger

    def warn_once(self, text: str) -> None:
        """Warn, if this text was not said before."""
        with self._lock:
            if text in self._said:
                return
            if len(self._said) >= _MAX_KEPT:
                self._said.clear()
            self._said.add(text)
        self._logger.warning("%s", text)
