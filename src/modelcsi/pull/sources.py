"""The repositories that a job may draw on: one for each proven credential of its callers.

The failure of one source answers only those who brought it; the job goes on with the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from modelcsi.deadline import Deadline
from modelcsi.errors import Forbidden, ModelCsiError, NotFound, Unauthenticated
from modelcsi.oci.descriptor import Descriptor
from modelcsi.registry.client import BlobStream, Repository
from modelcsi.registry.credentials import Credentials

_REFUSALS = (Unauthenticated, Forbidden, NotFound)
_ASK_SECONDS = 60.0
"""For one small question; it is asked by a job, which no caller's deadline bounds."""


class Sources:
    """The sources of one job, in the order in which callers brought them."""

    def __init__(self, refused: Callable[[], None] = lambda: None) -> None:
        """`refused` is called when a source has failed for good."""
        self.host = ""
        """The registry that all of them are on; set by the first."""
        self._refused = refused
        self._lock = threading.Lock()
        # Under the lock: one repository for each of the credentials, and why credentials cannot be used any more.
        self._usable: list[Repository] = []
        self._errors: dict[Credentials, ModelCsiError] = {}

    def add(self, repository: Repository) -> None:
        """A caller proved that its credentials may pull from this repository; newer credentials are tried first."""
        with self._lock:
            self.host = repository.host
            others = [other for other in self._usable if other.credentials != repository.credentials]
            self._usable = [repository, *others]
            self._errors.pop(repository.credentials, None)

    def repositories(self) -> list[Repository]:
        """Those that have not failed, best first."""
        with self._lock:
            return list(self._usable)

    def error_of(self, repository: Repository) -> ModelCsiError | None:
        """Why the credentials of this source cannot be used any more, or None."""
        with self._lock:
            return self._errors.get(repository.credentials)

    def has_blob(self, repository: Repository, descriptor: Descriptor) -> bool:
        """Whether the repository shows, for the credentials it was brought with, that it holds the blob."""
        try:
            return repository.has_blob(descriptor, Deadline.after(_ASK_SECONDS))
        except _REFUSALS:
            return False

    def open_blob(self, descriptor: Descriptor, start: int = 0, end: int | None = None) -> BlobStream:
        """The blob from the first source that serves it.

        Raises RegistryUnavailable, or the refusal of the last source when all refuse.
        """
        while True:
            with self._lock:
                if not self._usable:
                    raise list(self._errors.values())[-1]
                repository = self._usable[0]
            try:
                return repository.open_blob(descriptor, start, end)
            except _REFUSALS as error:
                with self._lock:
                    if repository in self._usable:  # else another thread was refused too, or newer ones took its place
                        self._usable.remove(repository)
                        self._errors[repository.credentials] = error
                self._refused()
