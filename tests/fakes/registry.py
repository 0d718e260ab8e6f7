"""A small honest OCI registry over real sockets, with faults that a test switches on.

    with FakeRegistry() as registry:
        registry.content.push("models/tiny", "v1", {"model.safetensors": b"weights"})
        registry.faults.cut_every_bytes = 3_000_000
        ... pull f"{registry.host}/models/tiny:v1" ...
        assert registry.blob_gets == ...

It listens on 127.0.0.1, on a port of its own. Faults may be changed at any time; counters only grow.
"""

from __future__ import annotations

import base64
import enum
import secrets
import ssl
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.fakes.content import Content
from tests.fakes.http_server import FakeHttpServer
from tests.fakes.registry_faults import Faults, Seen
from tests.fakes.registry_handler import Handler


class Auth(enum.Enum):
    """How the registry wants to be asked."""

    NONE = "none"
    BASIC = "basic"
    BEARER = "bearer"


@dataclass(frozen=True)
class User:
    """Somebody who may pull from some repositories, or from all (None)."""

    password: str
    repositories: frozenset[str] | None = None
    identity_token: str = ""


class FakeRegistry:
    """The registry; a context manager that serves between enter and exit."""

    SIGNATURE = "X-Signature=signed-by-the-registry"
    """The query of its redirects: nobody but the target may see it."""

    def __init__(
        self,
        *,
        auth: Auth = Auth.NONE,
        users: Mapping[str, User] | None = None,
        content: Content | None = None,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """`tls` is a server's context with its certificate; None serves plain HTTP. Port 0 is any that is free."""
        self._lock = threading.Lock()  # guards _tokens, the counters and `seen`
        self._tokens: dict[str, tuple[str, str]] = {}
        self.auth = auth
        self.users = dict(users or {})
        self.public: set[str] = set()
        """Repositories that need no user although `auth` asks for one."""
        self.content = content or Content()
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.manifest_requests = 0
        """GETs of manifests."""
        self.manifest_heads = 0
        self.blob_heads = 0
        self.token_requests = 0
        self.blob_gets: Counter[str] = Counter()
        """GETs by digest, with or without Range; also those answered with a redirect or an error."""
        self.bytes_served: Counter[str] = Counter()
        """Bytes of blobs by digest, as handed to the kernel."""
        self.closing = threading.Event()
        self._address = address
        self._port = port
        self._tls = tls

    @property
    def host(self) -> str:
        """`127.0.0.1:port`, the first part of a reference; known once the registry was entered."""
        return f"{self._address}:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Scheme and host."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def __enter__(self) -> Self:
        self._server = _Server((self._address, self._port), Handler, self._tls)
        self._server.registry = self
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self.faults.resume.set()
        bug = self._server.stop()
        if bug is not None and error is None:
            raise bug

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._server.accepted

    def expire_tokens(self) -> None:
        """Refuse every token that was handed out so far."""
        with self._lock:
            self._tokens.clear()

    def leaked(self, *needles: str) -> list[Seen]:
        """The requests in which one of these texts arrived, in a path, header or body; Basic credentials are looked into."""
        return [seen for seen in self.seen if any(needle in _everything_in(seen) for needle in needles)]

    # What the handler asks and tells.

    def record(self, seen: Seen) -> None:
        """A request arrived."""
        with self._lock:
            self.seen.append(seen)

    def count(self, counter: str) -> None:
        """One more of the counter of this name."""
        with self._lock:
            setattr(self, counter, getattr(self, counter) + 1)

    def count_blob(self, digest: str, *, gets: int = 0, served_bytes: int = 0) -> None:
        """A GET, or bytes, of a blob."""
        with self._lock:
            self.blob_gets[digest] += gets
            self.bytes_served[digest] += served_bytes

    def user_of(self, authorization: str) -> str | None:
        """The user whose Basic credentials these are; "" without any, None when they are wrong."""
        if not authorization:
            return ""
        scheme, _, value = authorization.partition(" ")
        name, _, password = base64.b64decode(value).decode().partition(":") if scheme == "Basic" else ("", "", "")
        user = self.users.get(name)
        return name if user is not None and user.password == password else None

    def user_of_identity(self, token: str) -> str | None:
        """The user whose refresh token this is."""
        return next((name for name, user in self.users.items() if user.identity_token == token), None)

    def may_pull(self, user: str, repository: str) -> bool:
        """Whether this user, or nobody (""), may read the repository."""
        if self.auth is Auth.NONE or repository in self.public:
            return True
        allowed = self.users[user].repositories if user else frozenset()
        return allowed is None or repository in allowed

    def issue_token(self, user: str, repository: str) -> str:
        """A token with which this user reads this repository, as far as allowed."""
        token = f"token-{secrets.token_hex(8)}"
        with self._lock:
            self._tokens[token] = (user, repository)
        return token

    def check(self, authorization: str, repository: str) -> int:
        """200, 401 or 403 for a request with this header."""
        if self.auth is Auth.BEARER:
            with self._lock:
                bearer, scope = self._tokens.get(authorization.removeprefix("Bearer "), ("", ""))
            # As Docker Hub does: a token without the right is a token of somebody who must authenticate.
            return 200 if scope == repository and self.may_pull(bearer, repository) else 401
        user = self.user_of(authorization)
        if user is None or (not user and not self.may_pull("", repository)):
            return 401
        return 200 if self.may_pull(user, repository) else 403


def _everything_in(seen: Seen) -> str:
    scheme, _, value = seen.headers.get("authorization", "").partition(" ")
    basic = base64.b64decode(value).decode(errors="replace") if scheme == "Basic" else ""
    return f"{seen.path} {dict(seen.headers)} {basic} {seen.body.decode(errors='replace')}"


class _Server(FakeHttpServer):
    registry: FakeRegistry
