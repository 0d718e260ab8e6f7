"""A small honest Kubernetes API server over real sockets, with faults that a test switches on.

    with FakeApiServer() as server:
        server.add("pods", "team", "train", uid="u1", spec={"imagePullSecrets": [{"name": "pull"}]})
        client = KubeClient(server.kubeconfig(tmp_path / "kubeconfig"))
        server.faults[("GET", "pods")] = 403

It keeps what it is given, checks what the real one would refuse (names, namespaces, patches, label values), and answers with a
Status. It listens on 127.0.0.1, on a port of its own; after the `with` block connections are refused.
"""

from __future__ import annotations

import copy
import enum
import json
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from tests.fakes.http_server import FakeHttpServer

_DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PATH = re.compile(
    r"/(?:api/v1|apis/storage\.k8s\.io/v1)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?"
)
_MAX_MESSAGE_BYTES = 1024


class Fault(enum.Enum):
    """What can go wrong beside a status."""

    HANG = "no answer until the test ends"
    LOST = "the request is carried out, and the connection ends before the answer"
    GARBAGE = "an answer that is no JSON"
    TRICKLE = "the first half of an answer"


@dataclass(frozen=True)
class Seen:
    """A request."""

    method: str
    resource: str
    name: str
    authorization: str
    accept: str
    body: Any


class FakeApiServer:
    """The server; a context manager that serves between enter and exit. Faults are by method and resource."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls` is a server's context with its certificate; None serves plain HTTP."""
        self._changed = threading.Condition()  # its lock guards _objects, seen and namespaces
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._tls = tls
        self.namespaces = {"team", "other"}
        self.terminating: set[str] = set()
        self.tokens: set[str] | None = None
        """The bearer tokens that are accepted; None asks for none."""
        self.faults: dict[tuple[str, str], int | Fault] = {}
        self.seen: list[Seen] = []
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1]

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler, self._tls)
        self._server.api = self
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        bug = self._server.stop()
        if bug is not None and error is None:
            raise bug

    def kubeconfig(self, path: Path, *, user: dict[str, str] | None = None, ca_file: Path | None = None) -> Path:
        """Write one that leads here."""
        cluster = {"server": f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"}
        if ca_file is not None:
            cluster["certificate-authority"] = str(ca_file)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user or {}}],
        }
        path.write_text(json.dumps(document))
        return path

    def add(self, resource: str, namespace: str, name: str, *, uid: str = "", **fields: Any) -> dict[str, Any]:
        """Store an object; `namespace` is "" for nodes and csidrivers. `metadata` of the fields is merged."""
        metadata = {"name": name, "uid": uid, **fields.pop("metadata", {})}
        with self._changed:
            stored = self._objects[resource, namespace, name] = {"metadata": metadata, **fields}
        return stored

    def remove(self, resource: str, namespace: str, name: str) -> None:
        """Delete an object."""
        with self._changed:
            del self._objects[resource, namespace, name]

    def all(self, resource: str) -> list[dict[str, Any]]:
        """Copies of what is stored, oldest first."""
        with self._changed:
            return [copy.deepcopy(stored) for key, stored in self._objects.items() if key[0] == resource]

    def count(self, method: str, resource: str) -> int:
        """How many such requests came."""
        with self._changed:
            return sum((seen.method, seen.resource) == (method, resource) for seen in self.seen)

    def wait_for(self, is_so: Callable[[], object], seconds: float = 10.0) -> None:
        """Return when it is so after a request, fail when that does not come."""
        with self._changed:
            assert self._changed.wait_for(is_so, seconds), f"not within {seconds} s; requests: {self.seen}"

    # What the handler asks.

    def answer(self, seen: Seen, namespace: str, content_type: str) -> tuple[int, dict[str, Any]]:
        """Carry out a request."""
        with self._changed:
            try:
                return self._answer(seen, namespace, content_type)
            finally:
                self.seen.append(seen)
                self._changed.notify_all()

    def _answer(self, seen: Seen, namespace: str, content_type: str) -> tuple[int, dict[str, Any]]:
        fault = self.faults.get((seen.method, seen.resource))
        if isinstance(fault, int):
            return fault, _status(fault, f"{seen.resource} fail as told")
        if self.tokens is not None and seen.authorization.partition(" ")[2] not in self.tokens:
            return 401, _status(401, "Unauthorized")
        if seen.method == "POST":
            return self._create(seen, namespace)
        stored = self._objects.get((seen.resource, namespace, seen.name))
        if stored is None:
            return 404, _status(404, f'{seen.resource} "{seen.name}" not found')
        if seen.method == "PATCH":
            if content_type != "application/merge-patch+json":
                return 415, _status(415, f"the body of the request was in an unknown format: {content_type}")
            patched = _merged(stored, seen.body)
            if problem := _label_problem(patched):
                return 422, _status(422, problem)
            self._objects[seen.resource, namespace, seen.name] = stored = patched
        if "as=PartialObjectMetadata" in seen.accept:
            return 200, {"kind": "PartialObjectMetadata", "metadata": stored["metadata"]}
        return 200, copy.deepcopy(stored)

    def _create(self, seen: Seen, namespace: str) -> tuple[int, dict[str, Any]]:
        name = seen.body["metadata"]["name"]
        if namespace not in self.namespaces:
            return 404, _status(404, f'namespaces "{namespace}" not found')
        if namespace in self.terminating:
            causes = [{"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}]
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            return 403, _status(403, message, causes=causes)
        if not _DNS.fullmatch(name) or len(name) > 253 or seen.body["involvedObject"]["namespace"] != namespace:
            return 422, _status(422, f"{name} is invalid")
        if len(seen.body["message"].encode()) > _MAX_MESSAGE_BYTES:
            return 422, _status(422, "can have at most 1024 bytes")
        if (seen.resource, namespace, name) in self._objects:
            return 409, _status(409, f"{name} already exists")
        self._objects[seen.resource, namespace, name] = copy.deepcopy(seen.body)
        return 201, seen.body


def _status(code: int, message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message, "details": details}


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _label_problem(stored: dict[str, Any]) -> str:
    for key, value in stored["metadata"].get("labels", {}).items():
        prefix, _, name = key.rpartition("/")
        is_good = (not prefix or _DNS.fullmatch(prefix)) and len(name) <= 63 and _LABEL_NAME.fullmatch(name)
        if not is_good or not _LABEL_VALUE.fullmatch(value) or len(value) > 63:
            return f"metadata.labels: Invalid value: {key}={value}"
    return ""


class _Server(FakeHttpServer):
    api: FakeApiServer


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0 on purpose: a connection for each request leaves no idle ones behind."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        api = cast("_Server", self.server).api
        match = _PATH.fullmatch(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if match is None:
            self._send(404, json.dumps(_status(404, "the server could not find the requested resource")).encode())
            return
        seen = Seen(
            self.command,
            match["resource"],
            match["name"] or "",
            self.headers.get("Authorization", ""),
            self.headers.get("Accept", ""),
            json.loads(body) if body else None,
        )
        fault = api.faults.get((seen.method, seen.resource))
        status, document = api.answer(seen, match["namespace"] or "", self.headers.get("Content-Type", ""))
        content = json.dumps(document).encode()
        if fault is Fault.LOST:
            return
        if fault is Fault.HANG:
            api.closing.wait()
        elif fault is Fault.GARBAGE:
            self._send(200, b"<html>a proxy says hello</html>")
        elif fault is Fault.TRICKLE:
            self._send(status, content[: len(content) // 2], length=len(content))
            self.wfile.flush()
            api.closing.wait()
        else:
            self._send(status, content)

    def _send(self, status: int, content: bytes, *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at `seen`."""
