"""oras-py as the client of the one repository that is pushed to; the only module that imports oras.

oras gives the conversation: the session, whether a blob is there, the order of an upload, the URLs. Four of its parts are
replaced by its own means of extension, each for a reason found in 0.2.43:

1. below its session, our transport (`wire.py`): TLS roots, hosts.toml, proxies, timeouts and refused addresses are those of
   a pull. oras sets no timeout; requests trusts certifi's roots only, and sends what is in ~/.netrc;
2. its auth backend: oras sends passwords to whatever realm a registry names, knows no identity tokens, and keeps a token
   of the wrong scope (after the HEAD's `pull`, the POST fails with 401);
3. `do_request`: it tries everything again for two minutes, a wrong password too;
4. `put_upload` reads the whole file into memory, so it is streamed here, and a large one goes in parts (`parts.py`); and
   `upload_manifest` serialises the manifest anew, which changes its digest, so the bytes are sent as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

import requests
from oras.auth.base import AuthBackend
from oras.container import Container
from oras.provider import Registry

from modelcsi.deadline import Deadline
from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    ModelCsiError,
    NotFound,
    PolicyDenied,
    RegistryUnavailable,
    Unauthenticated,
    UnsupportedArtifact,
)
from modelcsi.oci.digest import EMPTY_BLOB, Digest
from modelcsi.oci.reference import Reference
from modelcsi.pack.parts import OCTETS, PART_BYTES, PartwiseUpload
from modelcsi.pack.uploads import UploadRecord
from modelcsi.pack.wire import Answer, BlobBody, BlobPart, TransportAdapter
from modelcsi.registry.answers import Subject, failure, read_detail
from modelcsi.registry.causes import NotTls
from modelcsi.registry.challenge import Challenge, parse_challenges
from modelcsi.registry.credentials import Credentials
from modelcsi.registry.hosts import Endpoint, Hosts
from modelcsi.registry.tokens import Access, Authorizer
from modelcsi.registry.transport import STALL_SECONDS, Request, Timeouts, Transport

_TOKEN_SECONDS = 60.0
_TAKEN_AT_LEAST = 20e6
"""Bytes a second: a registry over an object store copies a whole blob before it answers. Guessed."""
_TRIED_AGAIN = frozenset({408, 429})


class RepositoryClient(Registry):  # type: ignore[misc]  # oras carries no types
    """Uploads blobs and manifests with one set of credentials; threads may share it."""

    def __init__(
        self,
        transport: Transport,
        hosts: Hosts,
        reference: Reference,
        credentials: Credentials,
        *,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Asks nothing but, on loopback, whether the port speaks TLS. Raises RegistryUnavailable, InvalidRequest."""
        self._part_bytes = part_bytes
        self._takes_parts = True  # until it refuses one; threads may find that out at the same time
        endpoint = _endpoint(transport, hosts, reference.host)
        self._origin = urlsplit(endpoint.url)
        super().__init__(hostname=endpoint.host, insecure=self._origin.scheme == "http")
        self.session.trust_env = False  # ~/.netrc and the proxy variables, which the transport has already
        self.session.headers.clear()
        self.session.adapters.clear()
        self.session.mount(f"{self._origin.scheme}://", TransportAdapter(transport, hosts, endpoint))
        if self._origin.scheme == "http":  # an upload may be led to a server that speaks TLS; never the other way
            self.session.mount("https://", TransportAdapter(transport, hosts, endpoint))
        self._access = Access(reference.host, reference.repository, credentials)
        self.auth = _Auth(Authorizer(transport, hosts), self._access, endpoint)
        self._place = _Place(endpoint, reference)

    def check_rights(self) -> None:
        """Returning normally means that these credentials may push: an upload was begun, and is cancelled. Raises as `upload`."""
        url, _ = self.begin_upload(f"a push to {self._access.name}")
        with contextlib.suppress(ModelCsiError):  # the registry forgets it in the end
            if _origin(urlsplit(url)) == _origin(self._origin):
                self.do_request(url, "DELETE")

    def uploads_in_parts(self, size: int) -> bool:
        """Whether an upload of so many bytes can be interrupted and go on."""
        return self._takes_parts and size > self._part_bytes

    def upload(self, body: BlobBody, record: UploadRecord) -> None:
        """Returning normally means that the repository has the blob; the body knows what of it was sent.

        Raises Unauthenticated, Forbidden, NotFound, RegistryUnavailable, UnsupportedArtifact (refused), CorruptContent.
        """
        layer = {"digest": str(body.digest), "size": body.size, "body": body, "record": record}
        self.upload_blob(str(body.path), self._place, layer)
        body.seek(body.size)

    def upload_manifest_bytes(self, content: bytes, media_type: str, target: str) -> Digest:
        """Put a manifest under a tag or its digest. Raises as `upload` does."""
        url = f"{self.prefix}://{self._place.manifest_url(target)}"
        answer = self.do_request(url, "PUT", content, {"Content-Type": media_type})
        if answer.status not in {200, 201, 202}:
            raise self.refusal(answer, f"the manifest of {self._access.name}")
        digest = Digest.of(content)
        told = answer.header("Docker-Content-Digest")
        if told and told != str(digest):
            raise CorruptContent(f"{self._access.host} stored the manifest {digest} as {told[:140]}")
        return digest

    # What follows is called by oras.

    def blob_exists(self, layer: Mapping[str, Any], container: Container) -> bool:
        """Whether the registry has the blob of a layer; what it does not tell plainly counts as no."""
        answer = self.do_request(f"{self.prefix}://{container.get_blob_url(layer['digest'])}", "HEAD")
        if answer.status in {401, 403} and not answer.is_foreign:
            raise self.refusal(answer, self._push_of(layer))
        return answer.status == 200

    def put_upload(self, blob: str, container: Container, layer: dict[str, Any]) -> Answer:
        """In parts where that pays and the registry takes them; else in one piece: two requests whatever the size."""
        del blob, container
        what = self._push_of(layer)
        body: BlobBody = layer["body"]
        if self.uploads_in_parts(body.size):
            answer = PartwiseUpload(self, body, layer["record"], self._part_bytes, what).run()
            if answer is not None:
                return answer
            self._takes_parts = False
        body.seek(0)
        url, _ = self.begin_upload(what)
        # requests would send an empty one chunked
        stored = self.complete(url, layer["digest"], body.part(body.size, is_kept=False) if body.size else b"")
        if stored.status not in {200, 201, 202} and layer["digest"] != str(EMPTY_BLOB):  # oras forgives that one
            if stored.status == 404:  # the session of the upload is gone, not the repository
                raise RegistryUnavailable(f"{self._access.host} has lost {what} (404)")
            raise self.refusal(stored, what)
        return stored

    # What follows is called by an upload in parts.

    def begin_upload(self, what: str) -> tuple[str, Answer]:
        """A new upload: its URL, and the answer that named it. Raises as `upload` does."""
        start = f"{self.prefix}://{self._place.upload_blob_url()}"
        opened = self.do_request(start, "POST", b"", OCTETS)
        if opened.status not in {200, 201, 202}:
            raise self.refusal(opened, what)
        if not opened.header("Location"):
            raise RegistryUnavailable(f"{self._access.host} opens an upload and does not say where")
        return self.following(start, opened), opened

    def complete(self, url: str, digest: str, body: BlobPart | bytes) -> Answer:
        """The last request of an upload, with the whole blob or with nothing more."""
        target = urlsplit(url)
        query = urlencode({"digest": digest})
        target = target._replace(query=f"{target.query}&{query}" if target.query else query)
        return self.do_request(target.geturl(), "PUT", body, OCTETS)

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: BlobPart | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        json: None = None,
        stream: bool = False,  # noqa: FBT001, FBT002 - the signature of oras
    ) -> Answer:
        """The answer, whatever its status; a challenge is answered once. Raises as the transport does."""
        del json, stream
        is_origin = _origin(urlsplit(url)) == _origin(self._origin)
        plain = dict(headers or {})
        sent = plain | (self.auth.get_auth_header() if is_origin else {})
        answer = self._send(url, method, data, sent)
        if answer.status == 401 and is_origin and not answer.is_foreign:
            renewed, has_changed = self.auth.authenticate_request(answer, sent)
            if has_changed:
                answer = self._send(url, method, data, plain | renewed)
        return answer

    def _send(self, url: str, method: str, data: BlobPart | bytes | None, headers: Mapping[str, str]) -> Answer:
        timeouts = Timeouts(stall_seconds=STALL_SECONDS + len(data or b"") / _TAKEN_AT_LEAST)
        # requests hands the timeout on to the adapter, which is ours.
        answer = self.session.request(
            method,
            url,
            data=cast("Any", data),
            headers=headers,
            timeout=cast("Any", timeouts),
            allow_redirects=False,
            stream=True,  # the body is left to whom the status makes curious
        )
        return cast("Answer", answer)

    def following(self, url: str, answer: Answer) -> str:
        """distribution-spec: the location may be relative, and must be kept as it is but for the digest; `url` without one.

        Raises PolicyDenied, RegistryUnavailable.
        """
        try:
            target = urlsplit(urljoin(url, answer.header("Location")))
            usable = target.scheme in {"http", "https"} and bool(target.hostname)
        except ValueError:
            usable = False
        if not usable or "@" in target.netloc:
            raise RegistryUnavailable(f"{self._access.host} opens an upload and does not say where")
        if target.scheme == "http" and self._origin.scheme == "https":
            raise PolicyDenied(
                f"{self._access.host} leads an upload from https to http, which is refused",
                hint="the proxy before the registry must pass X-Forwarded-Proto on",
            )
        return target._replace(fragment="").geturl()

    def _push_of(self, layer: Mapping[str, Any]) -> str:
        return f"the push of blob {layer['digest']} to {self._access.name}"

    def refusal(self, answer: Answer, what: str) -> ModelCsiError:
        """The error that an answer's status is to somebody who pushes."""
        credentials, host, status = self._access.credentials, self._access.host, answer.status
        detail = read_detail(answer, credentials)
        error = failure(answer, Subject(what, host, credentials), detail)
        if isinstance(error, Unauthenticated | Forbidden):
            return error
        if isinstance(error, NotFound):
            return NotFound(
                f"{host} has no place for {what} ({status})",
                hint="some registries want the repository or its project to be made first",
            )
        if 400 <= status < 500 and status not in _TRIED_AGAIN:
            said = f": {detail}" if detail else ""
            hint = "a proxy before the registry limits the size of a request" if status == 413 else ""
            return UnsupportedArtifact(f"{host} refuses {what} ({status}){said}", hint=hint)
        return error


class _Place(Container):  # type: ignore[misc]  # oras carries no types
    """Where a repository is. Not parsed by oras: its expression takes `localhost/a:v1` for a path on docker.io."""

    def __init__(self, endpoint: Endpoint, reference: Reference) -> None:
        self.registry = endpoint.host
        self.namespace = ""
        self.repository = reference.repository
        self.tag = reference.tag
        self.digest = str(reference.digest) if reference.digest else None
        # Without the scheme, which oras puts before it; the path may be another than /v2 (hosts.toml, override_path).
        self._base = f"{endpoint.url.partition('://')[2]}/{reference.repository}"

    def get_blob_url(self, digest: str) -> str:
        return f"{self._base}/blobs/{digest}"

    def upload_blob_url(self) -> str:
        return f"{self._base}/blobs/uploads/"

    def manifest_url(self, tag: str | None = None) -> str:
        return f"{self._base}/manifests/{tag or self.digest or self.tag}"


class _Auth(AuthBackend):  # type: ignore[misc]  # oras carries no types
    """Answers challenges as a pull does, asking for the right to push, too."""

    def __init__(self, authorizer: Authorizer, access: Access, endpoint: Endpoint) -> None:
        super().__init__()
        self._authorizer = authorizer
        self._access = access
        self._endpoint = endpoint

    def get_auth_header(self) -> dict[str, str]:
        known = self._authorizer.known(self._access)
        return {"Authorization": known} if known else {}

    def authenticate_request(
        self,
        original: requests.Response,
        headers: Mapping[str, str],
        refresh: bool = False,  # noqa: FBT001, FBT002 - the signature of oras
    ) -> tuple[dict[str, str], bool]:
        del refresh
        lines = (original.headers.get("WWW-Authenticate", ""),)
        challenges = tuple(self._widened(challenge) for challenge in parse_challenges(lines))
        rejected = headers.get("Authorization", "")
        deadline = Deadline.after(_TOKEN_SECONDS)
        renewed = self._authorizer.answer(self._access, self._endpoint, challenges, rejected, deadline)
        return {**headers, "Authorization": renewed} if renewed else dict(headers), bool(renewed)

    def _widened(self, challenge: Challenge) -> Challenge:
        """The first question of a push is a HEAD, for which a registry names the scope `pull`."""
        asked = challenge.parameters.get("scope") or f"repository:{self._access.repository}:pull"
        scopes = [
            f"{scope},push" if scope.startswith("repository:") and scope.endswith(":pull") else scope
            for scope in asked.split()
        ]
        return replace(challenge, parameters=MappingProxyType({**challenge.parameters, "scope": " ".join(scopes)}))


def _endpoint(transport: Transport, hosts: Hosts, host: str) -> Endpoint:
    endpoint = hosts.origin(host)
    if not endpoint.may_be_plain:
        return endpoint
    try:
        transport.request(Request("GET", f"{endpoint.url}/", tls=endpoint.tls)).close()
    except NotTls:
        hosts.remember_plain(host)
    return hosts.origin(host)


def _origin(url: SplitResult) -> tuple[str, str, int]:
    return url.scheme, (url.hostname or "").lower(), url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
