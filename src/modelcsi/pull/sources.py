"""The repositories that a job may draw on: one for each proven credential of its callers, and the mirrors of their registry.

The failure of one source answers only those who brought it; the job goes on with the others. A mirror's failure answers
nobody: the next one is asked, and at last the registry. Most mirrors give everything to everybody. What such a one has is
taken only after the registry itself showed, for a caller's credentials, that this repository holds the blob: else a manifest
of an attacker's could name a private digest (docs/adr/0021).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError, NotFound, RegistryUnavailable
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.registry.answers import REFUSALS
from modelcsi.registry.blob import Stream
from modelcsi.registry.client import Repository
from modelcsi.registry.credentials import Credentials

logger = logging.getLogger(__name__)

_ASK_SECONDS = 60.0
"""For one small question; it is asked by a job, which no caller's deadline bounds."""
_KNOWN_SECONDS = 60.0
"""How long the list of mirrors, with their credentials, is used: a credential helper takes longer than many a blob."""


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
        # And of mirrors: whose they are, until when, which; what they refused; and who had a part in which blob.
        self._mirrors: tuple[Repository | None, float, tuple[Repository, ...]] = (None, 0.0, ())
        self._without: set[tuple[str, Credentials, Digest | None]] = set()
        self._helped: dict[Digest, set[Repository]] = {}
        # And blobs that the repository showed to hold, or not to; those that come from the registry alone; bytes by host.
        self._shown: dict[Digest, bool] = {}
        self._alone: set[Digest] = set()
        self._received: Counter[str] = Counter()

    def add(self, repository: Repository) -> None:
        """A caller proved that its credentials may pull from this repository; newer credentials are tried first."""
        with self._lock:
            self.host = repository.host
            others = [other for other in self._usable if other.credentials != repository.credentials]
            self._usable = [repository, *others]
            self._errors.pop(repository.credentials, None)
            self._shown = {digest: shown for digest, shown in self._shown.items() if shown}

    def repositories(self) -> list[Repository]:
        """Those that have not failed, best first."""
        with self._lock:
            return list(self._usable)

    def error_of(self, repository: Repository) -> ModelCsiError | None:
        """Why the credentials of this source cannot be used any more, or None."""
        with self._lock:
            return self._errors.get(repository.credentials)

    @property
    def received(self) -> Mapping[str, int]:
        """Bytes by the host, of the registry or a mirror, that sent them."""
        with self._lock:
            return dict(self._received)

    def has_blob(self, repository: Repository, descriptor: Descriptor) -> bool:
        """Whether the repository shows, for the credentials it was brought with, that it holds the blob."""
        try:
            return repository.has_blob(descriptor, Deadline.after(_ASK_SECONDS))
        except REFUSALS:
            return False

    def shows(self, descriptor: Descriptor) -> bool:
        """Whether the repository holds the blob: asked at most once of the registry, with the credentials of the callers.

        Raises RegistryUnavailable.
        """
        with self._lock:
            known = self._shown.get(descriptor.digest)
        if known is None:
            known = any(self.has_blob(repository, descriptor) for repository in self.repositories())
            with self._lock:
                self._shown[descriptor.digest] = known
        return known

    def open_blob(self, descriptor: Descriptor, start: int = 0, end: int | None = None) -> SourceStream:
        """The blob from the first source that serves it: mirrors, then the registry.

        Raises RegistryUnavailable, or the refusal of the last source when all refuse.
        """
        for mirror in self._known_mirrors():
            if not self._is_worth_asking(mirror, descriptor.digest):
                continue
            if not mirror.checks_rights and not self._shows_now(descriptor):
                continue
            stream = self._open_at(mirror, descriptor, start, end)
            if stream is not None:
                return stream
        return self.open_proving(descriptor, start, end, mirrors=False)

    def open_proving(
        self, descriptor: Descriptor, start: int = 0, end: int | None = None, *, mirrors: bool = True
    ) -> SourceStream:
        """The blob from a source that checks rights, so that its delivery is a proof: the registry, else such a mirror.

        Raises as `open_blob` does.
        """
        try:
            stream = self._open_at_registry(descriptor, start, end)
        except RegistryUnavailable:
            for mirror in self._known_mirrors() if mirrors else ():
                if mirror.checks_rights and self._is_worth_asking(mirror, descriptor.digest):
                    found = self._open_at(mirror, descriptor, start, end)
                    if found is not None:
                        return found
            raise
        self._show(descriptor.digest)
        return SourceStream(stream, self.host, self._count)

    def blame_mirrors(self, digest: Digest) -> bool:
        """The blob's bytes do not match: whether a mirror had a part in them. Then it comes from the registry alone now."""
        with self._lock:
            helped = self._helped.pop(digest, set())
            self._alone.add(digest)
        for mirror in helped:
            mirror.blame(digest)
        return bool(helped)

    def _open_at_registry(self, descriptor: Descriptor, start: int, end: int | None) -> Stream:
        while True:
            with self._lock:
                if not self._usable:
                    raise list(self._errors.values())[-1]
                repository = self._usable[0]
            try:
                return repository.open_blob(descriptor, start, end)
            except REFUSALS as error:
                with self._lock:
                    if isinstance(error, NotFound) and self._usable == [repository]:
                        raise  # of this blob: nobody else can be asked for it, and the others may be there
                    if repository in self._usable:  # else another thread was refused too, or newer ones took its place
                        self._usable.remove(repository)
                        self._errors[repository.credentials] = error
                self._refused()

    def _known_mirrors(self) -> tuple[Repository, ...]:
        with self._lock:
            owner = self._usable[0] if self._usable else None
            known_owner, until, mirrors = self._mirrors
        if owner is None:
            return ()
        if known_owner is not owner or until <= time.monotonic():
            mirrors = tuple(mirror for mirror in owner.mirrors() if mirror.can_pull)
            with self._lock:
                self._mirrors = (owner, time.monotonic() + _KNOWN_SECONDS, mirrors)
        return mirrors

    def _is_worth_asking(self, mirror: Repository, digest: Digest) -> bool:
        who = (mirror.source, mirror.credentials)
        with self._lock:
            if digest in self._alone or {(*who, None), (*who, digest)} & self._without:
                return False
        return not mirror.is_blamed(digest)

    def _shows_now(self, descriptor: Descriptor) -> bool:
        try:
            return self.shows(descriptor)
        except RegistryUnavailable as error:  # a mirror that checks rights may follow; else the registry says it again
            logger.debug("no mirror may be asked: %s", error.message)
            return False

    def _open_at(self, mirror: Repository, descriptor: Descriptor, start: int, end: int | None) -> SourceStream | None:
        """The blob from a mirror, or None: whatever its trouble is, somebody else is asked."""
        digest = descriptor.digest
        try:
            stream = mirror.open_blob(descriptor, start, end)
        except ModelCsiError as error:
            logger.debug("passing over the mirror %s: %s", mirror.source, error.message)
            if isinstance(error, REFUSALS):
                refused = digest if isinstance(error, NotFound) else None
                with self._lock:
                    self._without.add((mirror.source, mirror.credentials, refused))
            return None
        with self._lock:
            self._helped.setdefault(digest, set()).add(mirror)
        if mirror.checks_rights:
            self._show(digest)
        logger.debug("%s from byte %d comes from the mirror %s", digest, start, mirror.source)
        return SourceStream(stream, mirror.source, self._count)

    def _show(self, digest: Digest) -> None:
        with self._lock:
            self._shown[digest] = True

    def _count(self, host: str, size: int) -> None:
        with self._lock:
            self._received[host] += size


class SourceStream(Stream):
    """A blob's bytes, counted for the host that sends them."""

    def __init__(self, stream: Stream, host: str, count: Callable[[str, int], None]) -> None:
        self.host = host
        self.honours_ranges = stream.honours_ranges
        self._stream = stream
        self._count = count

    def read(self, size: int) -> bytes:
        """As `Stream.read`."""
        piece = self._stream.read(size)
        self._count(self.host, len(piece))
        return piece

    def close(self) -> None:
        """As `Stream.close`."""
        self._stream.close()
