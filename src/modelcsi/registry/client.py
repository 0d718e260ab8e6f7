"""Pulling from a repository: resolve a tag, check a permission, read blobs.

What is asked of manifests is asked again a few times within the caller's deadline. Blobs are not: whoever collects one
knows what arrived, and goes on from there. Neither is a mirror: the registry itself is the second attempt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar
from urllib.parse import quote

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, RegistryUnavailable, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import EMPTY_BLOB, Digest
from modelcsi.oci.manifest import ACCEPTED_TYPES, MAX_MANIFEST_BYTES
from modelcsi.oci.reference import Reference
from modelcsi.registry.answers import read_bounded
from modelcsi.registry.blob import (
    BlobStream,
    Span,
    Stream,
    content_length,
    is_first_byte,
    open_stream,
    unsatisfied_range,
)
from modelcsi.registry.caller import Caller
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.docker_config import Credentials
from modelcsi.registry.exchange import Exchange, Question
from modelcsi.registry.hosts import Hosts, Mirror
from modelcsi.registry.mirrors import MirrorHealth, MirrorRules, MirrorStream
from modelcsi.registry.redirects import Answer
from modelcsi.registry.tokens import Access
from modelcsi.registry.transport import Timeouts, Transport

__all__ = ["BlobStream", "Registry", "Repository", "ResolvedManifest"]

# The last one: what a registry without content negotiation would send anyway (containerd does the same).
_ACCEPT = ", ".join((*ACCEPTED_TYPES, "*/*"))
# Guessed: the first rides out a dropped connection, the second a restart of a small registry.
_PAUSES_SECONDS = (0.1, 0.5)
_JITTER = 0.2
# A longer Retry-After is the caller's to wait for: it knows of other work, and of a shutdown.
_MAX_PAUSE_SECONDS = 10.0
_NO_HEAD = frozenset({405, 501})

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ResolvedManifest:
    """A manifest's raw bytes, which have this digest."""

    digest: Digest
    media_type: str
    """The answer's Content-Type, as it came."""
    content: bytes = field(repr=False)


class Registry:
    """The client of all registries of this process; connections and tokens are shared, and never across credentials."""

    def __init__(
        self,
        transport: Transport,
        hosts: Hosts,
        keychain: Keychain | None = None,
        *,
        mirror_rules: MirrorRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keychain` has the credentials for mirrors, none without it; `clock` tells when tokens expire."""
        self._hosts = hosts
        self._keychain = keychain or Keychain(None)
        self._exchange = Exchange(transport, hosts, clock)
        self._health = MirrorHealth(mirror_rules)

    def repository(self, reference: Reference, credentials: Credentials, caller: Caller | None = None) -> Repository:
        """The repository of `reference`, as `credentials` see it; `caller` is whose they are, for mirrors. Asks nothing yet."""
        mirrors = partial(self.mirrors, reference, caller or Caller())
        return Repository(self._exchange, reference, credentials, mirrors=mirrors)

    def mirrors(self, reference: Reference, caller: Caller, *, that_check_rights: bool = False) -> Iterator[Repository]:
        """The same repository in its mirrors, or only in such, best first, once for each of the credentials that go there.

        Mirrors that check rights get the caller's (`Keychain.at_mirror`). The others get the node's: what they answer proves
        nothing, so that nobody gains by them.
        """
        for mirror in self._hosts.mirrors(reference.host):
            if that_check_rights and not mirror.checks_rights:
                continue
            host = mirror.endpoint.host
            if mirror.checks_rights:
                found = self._keychain.at_mirror(host, reference, caller)
            else:
                found = self._keychain.of_node(replace(reference, host=host))
            for credentials in found:
                yield Repository(self._exchange, reference, credentials, (mirror, self._health))


class Repository:
    """One repository through one set of credentials, at the registry itself or at a mirror; threads may share it."""

    def __init__(
        self,
        exchange: Exchange,
        reference: Reference,
        credentials: Credentials,
        mirror: tuple[Mirror, MirrorHealth] | None = None,
        mirrors: Callable[[], Iterable[Repository]] = tuple,
    ) -> None:
        self.host = reference.host
        self.name = reference.repository
        self.credentials = credentials
        self.mirrors = mirrors
        """Where else its content is: reads the configuration."""
        self._exchange = exchange
        self._mirror = mirror
        endpoint = mirror[0].endpoint if mirror else None
        self._timeouts = mirror[1].rules.timeouts if mirror else Timeouts()
        self._access = Access(reference.host, reference.repository, credentials, endpoint)

    def __repr__(self) -> str:
        where = f" at {self.source}" if self._mirror else ""
        return f"<Repository {self._access.name}{where} {self.credentials.shown}>"

    @property
    def source(self) -> str:
        """The host that is asked."""
        return self._access.asked

    @property
    def checks_rights(self) -> bool:
        """Whether an answer proves that these credentials may have it."""
        return self._mirror is None or self._mirror[0].checks_rights

    @property
    def can_pull(self) -> bool:
        """Whether it serves content by digest."""
        return self._mirror is None or self._mirror[0].can_pull

    @property
    def can_resolve(self) -> bool:
        """Whether it tells what a tag means."""
        return self._mirror is None or self._mirror[0].can_resolve

    def blame(self, digest: Digest) -> None:
        """It is a mirror that had a part in bytes which do not match."""
        if self._mirror is not None:
            self._mirror[1].blame(self._mirror[0].endpoint.url, self.source, digest)

    def is_blamed(self, digest: Digest) -> bool:
        """Whether it had, lately."""
        return self._mirror is not None and self._mirror[1].is_blamed(self._mirror[0].endpoint.url, digest)

    def resolve(self, target: str, deadline: Deadline) -> ResolvedManifest:
        """The manifest or index that a tag or digest names; its bytes have the digest it says.

        Raises NotFound, Unauthenticated, Forbidden, RegistryUnavailable, CorruptContent, UnsupportedArtifact (too large).
        """
        return self._asked(deadline, lambda limit: self._resolve(target, limit))

    def check(self, target: str, deadline: Deadline) -> Digest | None:
        """The digest of `target` as the registry itself tells it to these credentials without sending it (HEAD); None: ask `resolve`.

        It is told, not shown: whoever has not sent this manifest before may say so of any. Raises as `resolve` does.
        """
        return self._asked(deadline, lambda limit: self._check(target, limit))

    def has_blob(self, descriptor: Descriptor, deadline: Deadline) -> bool:
        """Whether these credentials may read this blob in this repository, proved by an answer for the blob itself.

        An answer with another length is of something else: a login page answers 200 too. Raises Unauthenticated, Forbidden,
        RegistryUnavailable.
        """
        if descriptor.digest == EMPTY_BLOB:
            return True
        return self._asked(deadline, lambda limit: self._has_blob(descriptor, limit))

    def open_blob(self, descriptor: Descriptor, start: int = 0, end: int | None = None) -> Stream:
        """The bytes from `start` to `end` (exclusive; None: the end of the blob). One attempt; the caller goes on after a failure.

        Raises NotFound, Unauthenticated, Forbidden, RegistryUnavailable, CorruptContent (another length than the descriptor's).
        """
        if self._mirror is None:
            return self._open_blob(descriptor, start, end, Deadline.never())
        mirror, health = self._mirror
        deadline = Deadline.after(health.rules.answer_seconds)
        where = (mirror.endpoint.url, self.source)
        stream = health.ask(*where, lambda: self._open_blob(descriptor, start, end, deadline))
        if start and not stream.honours_ranges:
            # Not worth a failure: it may serve other blobs from their beginning. Nobody waits here for what is thrown away.
            stream.close()
            raise RegistryUnavailable(f"the mirror {self.source} ignores Range, and byte {start} is wanted")
        return MirrorStream(stream, health, *where)

    def _asked(self, deadline: Deadline, operation: Callable[[Deadline], _Result]) -> _Result:
        if self._mirror is None:
            return _retried(deadline, lambda: operation(deadline))
        mirror, health = self._mirror
        seconds = deadline.within(health.rules.answer_seconds)
        if seconds < self._timeouts.connect_seconds:  # its failure would be ours
            raise RegistryUnavailable(f"no time was left to ask {self.source}")
        limit = Deadline.after(seconds)
        return health.ask(mirror.endpoint.url, self.source, lambda: operation(limit))

    def _open_blob(self, descriptor: Descriptor, start: int, end: int | None, deadline: Deadline) -> BlobStream:
        what = self._blob(descriptor.digest)
        span = Span(what, start, descriptor.size if end is None else end, descriptor.size)
        if span.start == span.end:
            return BlobStream(None, span, is_range=True)
        range_asked = start > 0 or end is not None
        headers = {"Range": f"bytes={span.start}-{span.end - 1}"} if range_asked else {}
        question = Question("GET", f"blobs/{descriptor.digest}", what, headers, deadline, self._timeouts)
        answer = self._exchange.ask(self._access, question)
        status = answer.response.status
        if status == 200 or (status == 206 and range_asked):
            return open_stream(answer.response, span, range_asked=range_asked)
        if status == 416:
            answer.response.close()
            raise unsatisfied_range(answer.response, span)
        raise self._exchange.failure(self._access, question, answer)

    def _resolve(self, target: str, deadline: Deadline) -> ResolvedManifest:
        question, answer = self._ask_manifest("GET", target, deadline)
        response = answer.response
        if response.status != 200:
            raise self._exchange.failure(self._access, question, answer)
        try:
            if (content_length(response) or 0) > MAX_MANIFEST_BYTES:
                content = b""
            else:
                content = read_bounded(response, MAX_MANIFEST_BYTES, deadline, question.what)
        finally:
            response.close()
        if not content or len(content) > MAX_MANIFEST_BYTES:
            raise UnsupportedArtifact(f"the manifest {question.what} is empty or has over {MAX_MANIFEST_BYTES} bytes")
        wanted = Digest.parse(target) if ":" in target else _told_digest(response.header("Docker-Content-Digest"))
        digest = Digest.of(content, wanted.algorithm if wanted else "sha256")
        if wanted is not None and digest != wanted:
            raise CorruptContent(
                f"{answer.host} sends for {question.what} a manifest with the digest {digest}, not {wanted}"
            )
        return ResolvedManifest(digest, response.header("Content-Type"), content)

    def _check(self, target: str, deadline: Deadline) -> Digest | None:
        question, answer = self._ask_manifest("HEAD", target, deadline)
        if answer.is_foreign or answer.response.status in _NO_HEAD:
            answer.response.close()
            return None
        if answer.response.status != 200:
            raise self._exchange.failure(self._access, question, answer)
        answer.response.close()
        told = _told_digest(answer.response.header("Docker-Content-Digest"))
        return told if ":" not in target or told == Digest.parse(target) else None

    def _has_blob(self, descriptor: Descriptor, deadline: Deadline) -> bool:
        _, answer = self._ask_blob("HEAD", descriptor.digest, {}, deadline)
        response = answer.response
        response.close()
        if response.status == 200 and content_length(response) == descriptor.size:
            return True
        if response.status == 404 and not answer.is_foreign:
            return False
        # Some registries refuse HEAD of blobs (public.ecr.aws: 401), or tell no length, and a redirect's signature may be
        # for GET only.
        question, answer = self._ask_blob("GET", descriptor.digest, {"Range": "bytes=0-0"}, deadline)
        response = answer.response
        if response.status in {200, 206} or (response.status == 404 and not answer.is_foreign):
            response.close()
            if response.status == 206:
                return is_first_byte(response, descriptor.size)
            return response.status == 200 and content_length(response) == descriptor.size
        raise self._exchange.failure(self._access, question, answer)

    def _ask_manifest(self, method: str, target: str, deadline: Deadline) -> tuple[Question, Answer]:
        shown = f"{self._access.name}{'@' if ':' in target else ':'}{target}"
        path = f"manifests/{quote(target, safe=':')}"
        question = Question(method, path, shown, {"Accept": _ACCEPT}, deadline, self._timeouts)
        return question, self._exchange.ask(self._access, question)

    def _ask_blob(
        self, method: str, digest: Digest, headers: Mapping[str, str], deadline: Deadline
    ) -> tuple[Question, Answer]:
        question = Question(method, f"blobs/{digest}", self._blob(digest), headers, deadline, self._timeouts)
        return question, self._exchange.ask(self._access, question)

    def _blob(self, digest: Digest) -> str:
        return f"blob {digest} of {self._access.name}"


def _told_digest(text: str) -> Digest | None:
    """The digest in a header that may be absent, or of an algorithm that is not supported."""
    try:
        return Digest.parse(text.strip())
    except UnsupportedArtifact:
        return None


def _retried(deadline: Deadline, operation: Callable[[], _Result]) -> _Result:
    """The operation's result, after up to three attempts within the deadline."""
    for pause_seconds in _PAUSES_SECONDS:
        try:
            return operation()
        except (RegistryUnavailable, CorruptContent) as error:
            asked = error.retry_after_seconds if isinstance(error, RegistryUnavailable) else None
            wait_seconds = max(pause_seconds, asked or 0.0) * (1 + random.random() * _JITTER)  # noqa: S311 - not a secret
            if wait_seconds > deadline.within(_MAX_PAUSE_SECONDS):
                raise
            time.sleep(wait_seconds)
    return operation()
