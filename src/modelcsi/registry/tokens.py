"""The Authorization header for a repository: Basic, or a token fetched from the realm that the registry names.

Kept per (registry host or mirror, repository, credentials): the last challenge, and the token until shortly before it expires. So
nothing obtained for one registry, repository or user ever serves another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError, RegistryUnavailable, Unauthenticated
from modelcsi.registry.answers import Subject, failure, read_bounded, read_detail
from modelcsi.registry.challenge import Challenge, may_hold_credentials, parse_realm
from modelcsi.registry.docker_config import Credentials, parse_json
from modelcsi.registry.hosts import Endpoint, Hosts
from modelcsi.registry.redirects import follow
from modelcsi.registry.transport import Request, Response, Timeouts, Transport

_DEFAULT_LIFE_SECONDS = 60.0
_MAX_LIFE_SECONDS = 3600.0
# A token is renewed while it is still good for the request that is about to be sent; short lives keep four fifths.
_MARGIN_SECONDS = 30.0
# For a whole token, its body included: what is asked of blobs has no deadline, and its token needs one. Guessed.
_ANSWER_SECONDS = 40.0
_MAX_TOKEN_BYTES = 256 << 10
_MAX_KEPT = 1000
_CLIENT_ID = "modelcsi"


@dataclass(frozen=True, slots=True)
class Access:
    """Who wants to pull from where."""

    host: str
    repository: str
    credentials: Credentials
    mirror: Endpoint | None = None
    """Who is asked instead of the registry itself."""

    @property
    def asked(self) -> str:
        """The host that is asked, for messages."""
        return self.mirror.host if self.mirror else self.host

    @property
    def name(self) -> str:
        """Registry and repository, for messages."""
        return f"{self.host}/{self.repository}"


@dataclass(frozen=True, slots=True)
class _Kept:
    authorization: str = field(repr=False)
    expires_at: float


class Authorizer:
    """Answers challenges and remembers the answers."""

    def __init__(self, transport: Transport, hosts: Hosts, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()  # guards _kept; never held while the network is asked
        self._kept: dict[Access, _Kept] = {}
        self._transport = transport
        self._hosts = hosts
        self._clock = clock

    def known(self, access: Access) -> str:
        """The header that was accepted before and is still good, or is sent unasked; or empty."""
        if access.credentials.header:
            return access.credentials.header
        with self._lock:
            kept = self._kept.get(access)
        return kept.authorization if kept and kept.expires_at > self._clock() else ""

    def answer(
        self, access: Access, endpoint: Endpoint, challenges: Sequence[Challenge], rejected: str, deadline: Deadline
    ) -> str:
        """A header for these challenges, or empty when there is none but `rejected`, the one that was just refused.

        Raises what asking a token service may: Unauthenticated, Forbidden, RegistryUnavailable.
        """
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        credentials = access.credentials
        # 1. a ready header, which was sent already; 2. a ready token; 3. a token service; 4. user and password.
        if credentials.header:
            return ""
        if credentials.registry_token:
            kept = _Kept(f"Bearer {credentials.registry_token}", self._clock() + _MAX_LIFE_SECONDS)
        elif "bearer" in by_scheme:
            kept = self._fetch(access, endpoint, by_scheme["bearer"], deadline)
        elif "basic" in by_scheme and credentials.basic:
            kept = _Kept(credentials.basic, self._clock() + _MAX_LIFE_SECONDS)
        else:
            return ""
        if kept.authorization == rejected:
            self.forget(access)
            return ""
        self._keep(access, kept)
        return kept.authorization

    def forget(self, access: Access) -> None:
        """The kept header was refused."""
        with self._lock:
            self._kept.pop(access, None)

    def _keep(self, access: Access, kept: _Kept) -> None:
        now = self._clock()
        with self._lock:
            # The keys hold passwords: not longer than they are of use.
            self._kept = {key: value for key, value in self._kept.items() if value.expires_at > now}
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[access] = kept

    def _fetch(self, access: Access, endpoint: Endpoint, challenge: Challenge, deadline: Deadline) -> _Kept:
        realm = self._checked_realm(access, endpoint, challenge)
        subject = Subject(f"a token for {access.name}", f"the token service {realm.netloc}", access.credentials)
        deadline = Deadline.after(deadline.within(_ANSWER_SECONDS))
        service = Endpoint(f"{realm.scheme}://{realm.netloc}", self._hosts.tls_of(realm.netloc, endpoint))
        request = replace(
            _token_request(access, realm, challenge), tls=service.tls, timeouts=Timeouts().within(deadline)
        )
        if request.method == "POST":  # the refresh token is in the body: it follows no redirect
            response, is_foreign = self._transport.request(request), False
        else:
            answer = follow(self._transport, self._hosts, service, request, deadline)
            response, is_foreign = answer.response, answer.is_foreign
        if response.status != 200:
            raise _token_failure(response, subject, deadline, is_foreign=is_foreign)
        try:
            body = read_bounded(response, _MAX_TOKEN_BYTES, deadline, f"the answer of {subject.host}")
        finally:
            response.close()
        return self._parse_token(body, subject)

    def _checked_realm(self, access: Access, endpoint: Endpoint, challenge: Challenge) -> SplitResult:
        realm = parse_realm(challenge.parameters.get("realm", ""))
        if realm is None:
            raise RegistryUnavailable(f"{endpoint.host} asks for a token and names no token service for {access.name}")
        origin = urlsplit(endpoint.url)
        if realm.scheme != "https" and origin.scheme == "https":
            raise Unauthenticated(
                f"{endpoint.host} names the token service {realm.netloc} over plain http, which is refused",
                hint="the registry's token realm must be https",
            )
        if not access.credentials.is_anonymous and not may_hold_credentials(
            origin.hostname or "", realm.hostname or ""
        ):
            raise Unauthenticated(
                f"{endpoint.host} names the token service {realm.netloc}, which is of another domain: "
                f"the credentials of {access.credentials.source} are not sent there",
                hint="is this the right registry? Its token service must be in the registry's own domain",
            )
        return realm

    def _parse_token(self, body: bytes, subject: Subject) -> _Kept:
        try:
            document = parse_json(body, "a token answer")
        except ModelCsiError:
            document = {}
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not all("!" <= character <= "~" for character in token):
            # Raised outside the except clause, since the exception of the parser carries the document.
            raise RegistryUnavailable(
                f"{subject.host} answers without a usable token for {subject.what.removeprefix('a token for ')}"
            )
        life = document.get("expires_in")
        if not isinstance(life, int | float) or isinstance(life, bool) or life <= 0:
            life = _DEFAULT_LIFE_SECONDS
        life = min(float(life), _MAX_LIFE_SECONDS)
        return _Kept(f"Bearer {token}", self._clock() + life - min(_MARGIN_SECONDS, life / 5))


def _token_request(access: Access, realm: SplitResult, challenge: Challenge) -> Request:
    """distribution, "Token Authentication": each scope its own parameter; a refresh token goes by POST (OAuth 2)."""
    credentials = access.credentials
    service = [("service", challenge.parameters["service"])] if challenge.parameters.get("service") else []
    scopes = (challenge.parameters.get("scope") or f"repository:{access.repository}:pull").split()
    if credentials.identity_token:
        form = [
            ("grant_type", "refresh_token"),
            *service,
            ("scope", " ".join(scopes)),
            ("client_id", _CLIENT_ID),
            ("refresh_token", credentials.identity_token),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("POST", realm.geturl(), headers, urlencode(form).encode())
    query = [*parse_qsl(realm.query, keep_blank_values=True), *service, *(("scope", scope) for scope in scopes)]
    headers = {"Authorization": credentials.basic} if credentials.basic else {}
    return Request("GET", realm._replace(query=urlencode(query), fragment="").geturl(), headers)


def _token_failure(response: Response, subject: Subject, deadline: Deadline, *, is_foreign: bool) -> ModelCsiError:
    detail = read_detail(response, subject.credentials, deadline)
    # OAuth 2 says 400 invalid_grant for a refresh token that is no longer good.
    if response.status == 400 and subject.credentials.identity_token:
        said = f": {detail}" if detail else ""
        return Unauthenticated(f"{subject.host} refuses the identity token of {subject.credentials.source} (400){said}")
    if is_foreign and response.status in {401, 403, 404}:
        return RegistryUnavailable(f"{subject.host} redirects to a host that answers {response.status}")
    return failure(response, subject, detail)
