"""From what a pod wrote to which manifest it gets, and the proof that it may have it.

Cases, in the order of the code (design: pull policy as Kubernetes has it, proofs as for its images in KEP-2535):
1. the manifest is here and one of the caller's credentials, or anonymous access, was accepted for it before: no network
   (not with Always, unless this very publication was resolved before);
2. `Never`, and 1 does not hold: refused without asking anybody;
3. the registry is asked with each of the caller's credentials in turn; 401 and 403 move on to the next, and the answer is
   then the first one's. What is here is not fetched again (HEAD) if the same host sent it before; else it must send it,
   since any host can say yes to the digest of another one's private manifest.
When the registry refuses a blob to credentials of case 1, the proof is out of date: `renew` forgets it and goes on with 3.
A mirror that checks rights is asked before the registry, and its answer counts as the registry's; its refusal does not. Other
mirrors only send manifests that the registry named by their digest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from modelcsi.artifact.artifact import Artifact
from modelcsi.artifact.layouts import Layout
from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.errors import (
    Forbidden,
    ModelCsiError,
    NotFound,
    RegistryUnavailable,
    Unauthenticated,
    UnsupportedArtifact,
)
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Index, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pull.documents import Recognised, Recogniser
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.smallblob import read_small_blob
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Registry, Repository
from modelcsi.registry.credentials import Candidates, Credentials, Keychain
from modelcsi.store.store import Store
from modelcsi.store.views import view_id

logger = logging.getLogger(__name__)

_ABOUT_MIRRORS = "tags and rights are asked of the registry, or of a mirror with x-modelcsi-checks-rights in hosts.toml"
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64,128}")
"""Where a registry without the referrers API keeps the list of them (distribution-spec, "Referrers Tag Schema")."""


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
    documents: Mapping[Digest, bytes] = field(default_factory=dict, repr=False)
    """What else was read to know the artifact, kept with it: indexes and their entries, a config."""
    is_remembered: bool = False
    """Whether a proof of earlier says that these credentials may have it: nobody asked the registry now."""


_Found = tuple[Repository, Digest, bytes]
"""Where a manifest is, its digest, its bytes."""


class _WishDocuments:
    """The documents of one wish: from the store what this repository delivered, else from the registry."""

    def __init__(
        self,
        stored: Callable[[Digest], bytes | None],
        fetch_manifest: Callable[[Descriptor], bytes],
        fetch_config: Callable[[Descriptor], bytes],
        *,
        is_remembered: bool,
    ) -> None:
        """`is_remembered`: the artifact was delivered before."""
        self.has_asked = False
        self._is_remembered = is_remembered
        self._stored = stored
        self._fetch_manifest = fetch_manifest
        self._fetch_config = fetch_config

    def manifest(self, descriptor: Descriptor) -> bytes:
        """An entry of an index."""
        return self._stored(descriptor.digest) or self._ask(self._fetch_manifest, descriptor)

    def config(self, descriptor: Descriptor, *, is_needed: bool) -> bytes:
        """A config. Where the artifact came without one that it does not need, nobody is asked again."""
        stored = self._stored(descriptor.digest)
        if stored is None and self._is_remembered and not is_needed:
            raise NotFound(f"the config {descriptor.digest} is not on this node")
        return stored or self._ask(self._fetch_config, descriptor)

    def _ask(self, fetch: Callable[[Descriptor], bytes], descriptor: Descriptor) -> bytes:
        self.has_asked = True
        return fetch(descriptor)


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

        Raises NotFound, Unauthenticated, Forbidden, RegistryUnavailable, ClusterUnavailable, CorruptContent,
        UnsupportedArtifact.
        """
        registry, keychain = self._network
        candidates = keychain.candidates(wish.reference, wish.caller)
        found = self._from_store(wish, registry, candidates)
        if found is not None:
            try:
                return self._resolved(wish, registry, None, found, deadline)
            except (Unauthenticated, Forbidden):  # a document was asked for that is not here
                logger.info("%s: what was accepted before is refused now; asking again", wish.reference)
                self._forget_proofs(wish, found[0], [found[1]])
        elif wish.policy is PullPolicy.NEVER:
            text = f"{wish.reference} is not on this node, or not for these credentials, and pullPolicy is Never"
            raise candidates.refusal(NotFound(text, hint="pull it with another policy first"))
        accepted, found = self._ask(wish, registry, candidates, deadline)
        return self._resolved(wish, registry, accepted, found, deadline)

    def renew(self, refused: Resolved, deadline: Deadline) -> Resolved:
        """The same artifact, as the registry gives it to the caller now: it refused the credentials of a remembered proof.

        Raises as `resolve` does.
        """
        registry, keychain = self._network
        wish, digest = replace(refused.wish, pinned=refused.artifact.digest), refused.artifact.digest
        self._forget_proofs(wish, refused.repository, [digest, *refused.documents])
        candidates = keychain.candidates(wish.reference, wish.caller)
        accepted, (repository, _, _) = self._ask(wish, registry, candidates, deadline)
        self._remember(wish, digest, accepted, Recognised(refused.artifact, refused.manifest))
        return replace(refused, repository=repository, is_remembered=False)

    def _resolved(
        self, wish: Wish, registry: Registry, accepted: Credentials | None, found: _Found, deadline: Deadline
    ) -> Resolved:
        """What was found, recognised; `accepted` are the credentials that the registry was shown now, None: a proof of earlier."""
        repository, digest, content = found
        documents = self._documents(wish, registry, repository, deadline, is_remembered=accepted is None)
        try:
            refuse_referrers(wish.reference, content)
            known = self._recogniser.recognise(digest, content, documents)
        except UnsupportedArtifact as error:
            raise UnsupportedArtifact(f"{wish.reference}: {error.message}", hint=error.hint) from error
        if accepted is not None:
            self._remember(wish, digest, accepted, known)
        elif documents.has_asked:
            self._store.records.put_delivery(known.documents, repository.host, repository.name)
        is_remembered = accepted is None
        return Resolved(wish, known.artifact, known.manifest, repository, known.documents, is_remembered=is_remembered)

    def _forget_proofs(self, wish: Wish, repository: Repository, digests: Iterable[Digest]) -> None:
        records, reference = self._store.records, wish.reference
        fingerprint = repository.credentials.fingerprint(records.salt)
        for digest in digests:
            records.remove_proof(reference.host, reference.repository, digest, fingerprint)

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
        for credentials in chain(candidates.at_hand(), (candidates.anonymous,), candidates):
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
            except NotFound as error:  # some registries say so of what these credentials may not see
                raise candidates.refusal(error) from error
            except RegistryUnavailable as error:
                if error.hint or next(iter(repository.mirrors()), None) is None:
                    raise
                later = error.retry_after_seconds
                raise RegistryUnavailable(error.message, hint=_ABOUT_MIRRORS, retry_after_seconds=later) from error
        assert first_refusal is not None, "a keychain names at least one candidate"
        raise candidates.refusal(first_refusal) from first_refusal

    def _ask_mirror(self, mirror: Repository, target: str, deadline: Deadline) -> tuple[Digest, bytes] | None:
        """The manifest from a mirror that checks rights; None: the registry is asked."""
        if not (mirror.can_pull if ":" in target else mirror.can_resolve):
            return None
        try:
            return self._fetch(mirror, target, deadline)
        except ModelCsiError as error:
            logger.debug("passing over the mirror %s: %s", mirror.source, error.message)
            return None

    def _documents(
        self, wish: Wish, registry: Registry, repository: Repository, deadline: Deadline, *, is_remembered: bool
    ) -> _WishDocuments:
        def stored(digest: Digest) -> bytes | None:
            is_proven = self._store.records.deliveries([digest], repository.host, repository.name)
            return self._store.content.manifest(digest) if is_proven else None

        def fetch_manifest(descriptor: Descriptor) -> bytes:
            _refuse_asking(wish, descriptor)
            target = str(descriptor.digest)
            for mirror in registry.mirrors(wish.reference, wish.caller, that_check_rights=True):
                told = self._ask_mirror(mirror, target, deadline)
                if told is not None:
                    return told[1]
            return self._fetch(repository, target, deadline)[1]

        def fetch_config(descriptor: Descriptor) -> bytes:
            _refuse_asking(wish, descriptor)
            return read_small_blob(repository, descriptor, deadline)

        return _WishDocuments(stored, fetch_manifest, fetch_config, is_remembered=is_remembered)

    def _remember(self, wish: Wish, digest: Digest, accepted: Credentials, known: Recognised) -> None:
        """The registry gave what is an artifact: only now, since a login page that answers 200 is not one."""
        reference, records = wish.reference, self._store.records
        own = known.artifact.digest
        records.put_delivery({digest, own, *known.documents}, reference.host, reference.repository)
        for proven in {digest, own}:  # a publication is pinned to its own
            records.put_proof(reference.host, reference.repository, proven, accepted.fingerprint(records.salt))
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


def _refuse_asking(wish: Wish, descriptor: Descriptor) -> None:
    if wish.policy is PullPolicy.NEVER:
        raise NotFound(
            f"{descriptor.digest}, a part of {wish.reference}, is not on this node, and pullPolicy is Never",
            hint="pull it with another policy first",
        )


def refuse_referrers(reference: Reference, content: bytes) -> None:
    """Raises UnsupportedArtifact if it was found where a registry keeps the list of what refers to an artifact."""
    if _REFERRERS_TAG.fullmatch(reference.target) and isinstance(parse_manifest(content), Index):
        raise UnsupportedArtifact(
            "the tag is a list of what refers to an artifact (signatures, attestations), not a model",
            hint="name the artifact by its own tag, or by the digest in this one",
        )
