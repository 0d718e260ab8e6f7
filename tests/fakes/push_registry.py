"""A small registry to push to, over real sockets: keeps what it was given, and has faults that a test switches on.

`fakes/registry.py` is the one to pull from; this one knows uploads, and tokens whose scope matters.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from modelcsi.oci.digest import Digest
from tests.fakes.http_server import FakeHttpServer

_REPOSITORY = "/v2/m/x/"


@dataclass
class PushFaults:
    """What goes wrong, each so many times."""

    unavailable: int = 0
    """PUTs of blobs that are answered with 503, after their body was read."""
    cut: int = 0
    """PUTs of blobs whose connection is closed in the middle of the body."""
    status: int = 0
    """Every PUT of a blob is answered with this status."""
    location: str = ""
    """Where every upload is said to go, instead of here."""
    forbids: bool = False
    """Nobody may begin an upload."""
    cut_part: int = 0
    """PATCHes whose connection is closed in the middle of the body; what came before is kept."""
    cut_after: int = 0
    """So many PATCHes are well before those."""
    signs_position: bool = False
    """As distribution: an upload goes on only where a whole PATCH had ended."""
    part_status: int = 0
    """Every PATCH is answered with this status, after its body was read."""
    second_part_status: int = 0
    """Every PATCH but the first one of an upload is."""
    after_blobs: int = 0
    """PATCHes wait until so many blobs are here: what goes wrong with them finds the small blobs of an artifact complete."""


@dataclass
class PushRegistry:
    """The registry of the one repository `m/x`; a context manager that serves between enter and exit."""

    password: str = ""
    """Of the user alice; with it, tokens are needed, and given for what is asked of them only."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    faults: PushFaults = field(default_factory=PushFaults)
    requests: Counter[str] = field(default_factory=Counter)
    """By method and kind: `PUT blob`."""
    tls: ssl.SSLContext | None = None
    """Of a server; None speaks plain HTTP."""
    scopes: list[str] = field(default_factory=list)
    """Asked of the token service."""
    uploads: dict[str, bytearray] = field(default_factory=dict)
    """What arrived in parts, by the upload's name."""
    received: int = 0
    """Bytes of blobs, wherever they went."""

    def __post_init__(self) -> None:
        registry = self

        class Handler(_Handler):
            state = registry

        self.lock = threading.Lock()
        self._arrived = threading.Condition(self.lock)
        self._server = FakeHttpServer(("127.0.0.1", 0), Handler, self.tls)

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def reference(self) -> str:
        """Where tests push to."""
        return f"{self.host}/m/x:v1"

    def take_fault(self, name: str) -> bool:
        """Whether the fault happens now."""
        with self.lock:
            left: int = getattr(self.faults, name)
            setattr(self.faults, name, max(0, left - 1))
            return left > 0

    def keep(self, digest: str, content: bytes) -> None:
        """A blob is here."""
        with self._arrived:
            self.blobs[digest] = content
            self._arrived.notify_all()

    def wait_for_blobs(self) -> None:
        """See `PushFaults.after_blobs`."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.blobs) >= self.faults.after_blobs, 60)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bug = self._server.stop()
        if bug is not None and error is None:
            raise bug


class _Handler(BaseHTTPRequestHandler):
    state: PushRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._count("blob")
        if self._is_admitted("pull"):
            digest = self.path.rpartition("/")[2]
            self._answer(200 if digest in self.state.blobs else 404)

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            self._give_token()
        elif "/blobs/uploads/" in self.path:
            self._count("upload")
            if self._is_admitted("pull,push"):
                if self._is_known():
                    self._answer(204, self._progress())
                else:
                    self._answer(404, body=b'{"errors":[{"code":"BLOB_UPLOAD_INVALID"}]}')
        else:
            self._answer(200)

    def do_POST(self) -> None:
        self._count("blob")
        self._body()
        if self.state.faults.forbids:
            self._answer(403, body=b'{"errors":[{"code":"DENIED"}]}')
        elif self._is_admitted("pull,push"):
            with self.state.lock:
                name = str(len(self.state.uploads) + 1)
                self.state.uploads[name] = bytearray()
            self._answer(202, {"Location": self.state.faults.location or self._location(name)})

    def do_DELETE(self) -> None:
        self._count("upload")
        if self._is_admitted("pull,push"):
            del self.state.uploads[self._upload()]
            self._answer(204)

    def do_PATCH(self) -> None:
        self._count("blob")
        self.state.wait_for_blobs()
        faults = self.state.faults
        size = int(self.headers["Content-Length"])
        if faults.cut_part and not self.state.take_fault("cut_after"):
            self.state.take_fault("cut_part")
            self.state.uploads[self._upload()] += self.rfile.read(size // 2)
            self.close_connection = True
            return
        kept = len(self.state.uploads.get(self._upload(), b""))
        body = self._body()
        status = faults.part_status or (faults.second_part_status if kept else 0)
        if len(body) < size:
            self.close_connection = True  # the client has given up
        elif not self._is_admitted("pull,push"):
            pass
        elif status or not self._is_known():
            self._answer(status or 404, body=b'{"errors":[{"code":"SOME","message":"reason"}]}')
        elif self.headers["Content-Range"] != f"{kept}-{kept + size - 1}":
            self._answer(416)
        else:
            self.state.uploads[self._upload()] += body
            self._answer(202, self._progress())

    def do_PUT(self) -> None:
        kind = "manifest" if "/manifests/" in self.path else "blob"
        self._count(kind)
        if kind == "blob" and self.state.take_fault("cut"):
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.close_connection = True
            return
        body = self._body()
        if len(body) < int(self.headers["Content-Length"]):
            self.close_connection = True  # the client has given up
            return
        if not self._is_admitted("pull,push"):
            return
        if kind == "manifest":
            self.state.manifests[self.path.rpartition("/")[2]] = body
            self._answer(201, {"Docker-Content-Digest": str(Digest.of(body))})
        elif self.state.faults.status or self.state.take_fault("unavailable"):
            self._answer(self.state.faults.status or 503, body=b'{"errors":[{"code":"SOME","message":"reason"}]}')
        else:
            self._store(body)

    def _store(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        assert query["_state"][0].startswith("a/b"), "the location is kept as it was told"
        digest = query["digest"][0]
        body = bytes(self.state.uploads.pop(self._upload(), b"")) + body
        if str(Digest.of(body)) != digest:
            self._answer(400, body=b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        else:
            self.state.keep(digest, body)
            self._answer(201)

    def _upload(self) -> str:
        """The name of the upload that the path leads to."""
        return urlsplit(self.path).path.rpartition("/")[2]

    def _is_known(self) -> bool:
        upload = self.state.uploads.get(self._upload())
        position = parse_qs(urlsplit(self.path).query)["_state"][0].removeprefix("a/b")
        return upload is not None and (not self.state.faults.signs_position or int(position or 0) == len(upload))

    def _location(self, name: str) -> str:
        position = len(self.state.uploads[name]) if self.state.faults.signs_position else ""
        return f"{_REPOSITORY}blobs/uploads/{name}?_state=a%2Fb{position}"

    def _progress(self) -> dict[str, str]:
        last = max(0, len(self.state.uploads[self._upload()]) - 1)
        return {"Location": self._location(self._upload()), "Range": f"0-{last}"}

    def _is_admitted(self, scope: str) -> bool:
        wanted = f"repository:m/x:{scope}"
        if not self.state.password or self.headers.get("Authorization") in {
            f"Bearer {wanted}",
            "Bearer repository:m/x:pull,push",
        }:
            return True
        scheme = "https" if self.state.tls else "http"
        challenge = f'Bearer realm="{scheme}://{self.state.host}/token",service="tests",scope="{wanted}"'
        self._answer(401, {"WWW-Authenticate": challenge})
        return False

    def _give_token(self) -> None:
        basic = base64.b64encode(f"alice:{self.state.password}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {basic}":
            self._answer(401)
            return
        scope = parse_qs(urlsplit(self.path).query)["scope"][0]
        with self.state.lock:
            self.state.scopes.append(scope)
        self._answer(200, body=json.dumps({"token": scope, "expires_in": 300}).encode())

    def _count(self, kind: str) -> None:
        with self.state.lock:
            self.state.requests[f"{self.command} {kind}"] += 1

    def _body(self) -> bytes:
        assert "Transfer-Encoding" not in self.headers, "some registries refuse chunked bodies"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.state.lock:
            self.state.received += len(body) if "/blobs/" in self.path else 0
        return body

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
