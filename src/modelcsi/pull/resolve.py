"""From what a pod wrote to which manifest it gets, and the proof that it may have it.

Cases, in the order of the code (design: pull policy as Kubernetes has it, proofs as for its images in KEP-2535):
1. the manifest is here and one of the caller's credentials, or anonymous access, was accepted for it before: no network
   (not with Always, unless this very publication was resolved before);
2. `Never`, and 1 does not hold: refused without asking anybody;
3. the registry is asked with each of the caller's credentials in turn; 401 and 403 move on to the next, and the answer is
   then the first one's. What is here is not fetched again (HEAD) if the same host sent it before; else it must send it,
   since any host can say yes to the digest of another one's private manifest.
A mirror that checks rights is asked before the registry, and its answer counts as the registry's; its refusal does not. Other
mirrors only send manifests that the registry named by their digest.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from modelcsi.artifact.artifact import Artifact, recognise
from modelcsi.artifact.layouts import Layout
from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    ModelCsiError,
    NotFound,
    RegistryUnavailable,
    Unauthenticated,
    UnsupportedArtifact,
)
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Index, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pull.policy import PullPolicy
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Registry, Repository
from modelcsi.registry.credentials import ANONYMOUS, Candidates, Credentials, Keychain
from modelcsi.store.store import Store
from modelcsi.store.views import view_id

logger = logging.getLogger(__name__)

_ABOUT_MIRRORS = "tags and rights are asked of the registry, or of a mirror with x-modelcsi-checks-rights in hosts.toml"
_CACHED_BYTES = 2 << 20
"""Sum of the manifests whose artifacts are kept in memory: these take several times as much. Most have a few KiB."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants: an artifact, or the part of it that `selection` leaves, in a layout.

    `pinned` is the digest that this very publication was resolved to before: a tag does not move under a volume.
    """

    reference: Reference
    policy: PullPolicy
    selection: Selection = field(default_factory=Selection)
    caller: Caller = field(default_factory=Caller)
    pinned: Digest | None = None
    layout: Layout = Layout()

    def view_of(self, manifest: Digest) -> str:
        """The name of the view that shows the wish, once it was resolved to `manifest`."""
        return view_id(manifest, self.selection.key(), self.layout.key)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A wish whose artifact is known and whose caller may have it, by the credentials of `repository`."""

    wish: Wish
    artifact: Artifact
    manifest: bytes = field(repr=False)
    repository: Repository


_Found = tuple[Repository, Digest, bytes]
"""Where a manifest is, its digest, its bytes."""


class Recogniser:
    """Makes artifacts of manifests and keeps those that were used last; any thread."""

    def __init__(self, limit_bytes: int = _CACHED_BYTES) -> None:
        """`limit_bytes` bounds the sum of the manifests; one of over an eighth of it is not kept."""
        self.kept_bytes = 0
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()  # guards _kept and kept_bytes
        self._kept: OrderedDict[Digest, tuple[Artifact, int]] = OrderedDict()

    def recognise(self, digest: Digest, content: bytes) -> Artifact:
        """The artifact of a manifest. Raises CorruptContent, UnsupportedArtifact."""
        if not digest.matches(content):
            raise CorruptContent(f"the manifest {digest} has other bytes")
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest][0]
        artifact = _recognise(digest, content)
        if len(content) <= self._limit_bytes // 8:
            self._keep(artifact, len(content))
        return artifact

    def _keep(self, artifact: Artifact, size_bytes: int) -> None:
        with self._lock:
            if artifact.digest in self._kept:
                return
            self._kept[artifact.digest] = (artifact, size_bytes)
            self.kept_bytes += size_bytes
            while self.kept_bytes > self._limit_bytes:
                _, (_, freed_bytes) = self._kept.popitem(last=False)
                self.kept_bytes -= freed_bytes


class Resolver:
    """Answers wishes; any thread."""

    def __init__(self, store: Store, registry: Registry, keychain: Keychain) -> None:
        self._store = store
        self._network = (registry, keychain)
        self._recogniser = Recogniser()

    def use(self, registry: Registry, keychain: Keychain) -> None:
        """Ask these from the next wish on: the configuration changed."""
        self._network = (registry, keychain)

    def resolve(self, wish: Wish, deadline: Deadline) -> Resolved:
        """Which artifact the wish means.

        Raises NotFound, Unauthenticated, Forbidden, RegistryUnavailable, CorruptContent, UnsupportedArtifact.
        """
        registry, keychain = self._network
        candidates = keychain.candidates(wish.reference, wish.caller)
        found = self._from_store(wish, registry, candidates)
        if found is None and wish.policy is PullPolicy.NEVER:
            raise NotFound(
                f"{wish.reference} is not on this node, or not for these credentials, and pullPolicy is Never",
                hint=candidates.explain("pull it with another policy first"),
            )
        accepted, (repository, digest, content) = (
            (None, found) if found else self._ask(wish, registry, candidates, deadline)
        )
        try:
            artifact = self._recogniser.recognise(digest, content)
        except UnsupportedArtifact as error:
            raise UnsupportedArtifact(f"{wish.reference}: {error.message}", hint=error.hint) from error
        if accepted is not None:
            self._remember(wish, digest, accepted)
        return Resolved(wish, artifact, content, repository)

    def _from_store(self, wish: Wish, registry: Registry, candidates: Candidates) -> _Found | None:
        reference, records = wish.reference, self._store.records
        digest = wish.pinned or reference.digest
        if wish.policy is PullPolicy.ALWAYS and wish.pinned is None:
            return None
        if digest is None and reference.tag:
            digest = records.tag(reference.host, reference.repository, reference.tag)
        content = None if digest is None else self._store.content.manifest(digest)
        if digest is None or content is None:
            return None
        # What costs nothing first: which credentials were proved does not matter, and a cached volume must not wait for plugins.
        for credentials in chain(candidates.at_hand(), (ANONYMOUS,), candidates):
            fingerprint = credentials.fingerprint(records.salt)
            if records.has_proof(reference.host, reference.repository, digest, fingerprint):
                return registry.repository(reference, credentials, wish.caller), digest, content
        for mirror in registry.mirrors(reference, wish.caller, that_check_rights=True):
            fingerprint = mirror.credentials.fingerprint(records.salt)
            if records.has_proof(reference.host, reference.repository, digest, fingerprint):
                return registry.repository(reference, next(iter(candidates)), wish.caller), digest, content
        return None

    def _ask(
        self, wish: Wish, registry: Registry, candidates: Candidates, deadline: Deadline
    ) -> tuple[Credentials, _Found]:
        """The credentials that were accepted, and for what; the repository is the registry's own in any case."""
        reference, target = wish.reference, str(wish.pinned or wish.reference.target)
        for mirror in registry.mirrors(reference, wish.caller, that_check_rights=True):
            told = self._ask_mirror(mirror, target, deadline)
            if told is not None:
                repository = registry.repository(reference, next(iter(candidates)), wish.caller)
                return mirror.credentials, (repository, *told)
        first_refusal: Unauthenticated | Forbidden | None = None
        for credentials in candidates:
            repository = registry.repository(reference, credentials, wish.caller)
            try:
                return credentials, (repository, *self._fetch(repository, target, deadline))
            except (Unauthenticated, Forbidden) as error:
                first_refusal = first_refusal or error
            except RegistryUnavailable as error:
                if error.hint or next(iter(repository.mirrors()), None) is None:
                    raise
                later = error.retry_after_seconds
                raise RegistryUnavailable(error.message, hint=_ABOUT_MIRRORS, retry_after_seconds=later) from error
        assert first_refusal is not None, "a keychain names at least one candidate"
        hint = candidates.explain(first_refusal.hint)
        raise type(first_refusal)(first_refusal.message, hint=hint) from first_refusal

    def _ask_mirror(self, mirror: Repository, target: str, deadline: Deadline) -> tuple[Digest, bytes] | None:
        """The manifest from a mirror that checks rights; None: the registry is asked."""
        if not (mirror.can_pull if ":" in target else mirror.can_resolve):
            return None
        try:
            return self._fetch(mirror, target, deadline)
        except ModelCsiError as error:
            logger.debug("passing over the mirror %s: %s", mirror.source, error.message)
            return None

    def _remember(self, wish: Wish, digest: Digest, accepted: Credentials) -> None:
        """The registry gave what is an artifact: only now, since a login page that answers 200 is not one."""
        reference, records = wish.reference, self._store.records
        records.put_delivery([digest], reference.host, reference.repository)
        records.put_proof(reference.host, reference.repository, digest, accepted.fingerprint(records.salt))
        if reference.tag and not reference.digest and wish.pinned is None:
            records.put_tag(reference.host, reference.repository, reference.tag, digest)

    def _fetch(self, repository: Repository, target: str, deadline: Deadline) -> tuple[Digest, bytes]:
        """The manifest; a HEAD suffices when the same host sent it before, or a mirror does (Docker Hub counts GETs only)."""
        if ":" in target:
            may_be_here = self._sent_before(repository, Digest.parse(target)) is not None
        else:
            may_be_here = self._store.records.knows_repository(repository.host, repository.name)
        mirrors = () if may_be_here else tuple(repository.mirrors())
        told = repository.check(target, deadline) if may_be_here or mirrors else None
        if told is not None:
            content = self._sent_before(repository, told) or _sent_by(mirrors or repository.mirrors(), told, deadline)
            if content is not None:
                return told, content
        resolved = repository.resolve(target, deadline)
        return resolved.digest, resolved.content

    def _sent_before(self, repository: Repository, digest: Digest) -> bytes | None:
        """The manifest that is here, if it came from the repository's host."""
        is_from_there = self._store.records.came_from(digest, repository.host)
        return self._store.content.manifest(digest) if is_from_there else None


def _sent_by(mirrors: Iterable[Repository], digest: Digest, deadline: Deadline) -> bytes | None:
    """The manifest from the first mirror that has it, with this digest."""
    for mirror in mirrors:
        if not mirror.can_pull:
            continue
        try:
            return mirror.resolve(str(digest), deadline).content
        except ModelCsiError as error:
            logger.debug("passing over the mirror %s: %s", mirror.source, error.message)
    return None


def _recognise(digest: Digest, content: bytes) -> Artifact:
    manifest = parse_manifest(content)
    if isinstance(manifest, Index):
        entries = ", ".join(str(entry.digest) for entry in manifest.manifests[:8]) or "none"
        raise UnsupportedArtifact(
            f"{digest} is an index of several manifests: {entries}", hint="name one of them by its digest"
        )
    return recognise(manifest, digest)
