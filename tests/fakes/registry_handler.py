"""The HTTP side of `FakeRegistry`: distribution-spec "Pull", token service, and the faults."""

from __future__ import annotations

import fcntl
import json
import re
import socket
import struct
import termios
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from modelcsi.oci.digest import Digest
from tests.fakes.registry_faults import Faults, Seen

if TYPE_CHECKING:  # the registry imports this module
    from tests.fakes.registry import FakeRegistry

_STEP_BYTES = 64 << 10
_SLOW_STEPS_PER_SECOND = 50
_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<target>[^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: with Nagle the second would wait for the client's delayed ACK (40 ms).
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer a TLS client on a plain port at once, as Go's server does; http.server would wait for a line's end."""
        if not isinstance(self.connection, socket.socket) or self._peek() != b"\x16":
            super().handle()
            return
        self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `FakeRegistry.seen` has it."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Exchange a refresh token."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._record(body)
        form = parse_qs(body.decode())
        self._registry.count("token_requests")
        if self._took_fault_status():
            return
        user = self._registry.user_of_identity(form.get("refresh_token", [""])[0])
        if user is None or form.get("grant_type") != ["refresh_token"]:
            self._send(
                400, json.dumps({"error": "invalid_grant", "error_description": "unknown refresh token"}).encode()
            )
            return
        self._send_token(user, form.get("scope", [""])[0], "access_token")

    def do_GET(self) -> None:
        """Serve a manifest, a blob or a token."""
        self._record()
        url = urlsplit(self.path)
        if url.path == "/token":
            self._registry.count("token_requests")
            if not self._took_fault_status():
                self._serve_token(parse_qs(url.query))
            return
        match = _PATH.fullmatch(url.path)
        if match is None:
            self._refuse(404, "NOT_FOUND", "no such path")
            return
        self._count(match["kind"], match["target"])
        if self._took_fault_status():
            return
        status = self._registry.check(self.headers.get("Authorization", ""), match["repository"])
        if status != 200:
            code = "UNAUTHORIZED" if status == 401 else "DENIED"
            self._refuse(
                status, code, "requested access to the resource is denied", self._challenge(match["repository"])
            )
        elif match["kind"] == "manifests":
            self._serve_manifest(match["repository"], match["target"])
        else:
            self._serve_blob(match["repository"], match["target"])

    @property
    def _registry(self) -> FakeRegistry:
        return cast("FakeRegistry", cast("Any", self.server).registry)

    @property
    def _faults(self) -> Faults:
        return self._registry.faults

    def _peek(self) -> bytes:
        is_tls = hasattr(self.connection, "cipher")  # an SSLSocket knows no MSG_PEEK
        return b"" if is_tls else self.connection.recv(1, socket.MSG_PEEK)

    def _record(self, body: bytes = b"") -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._registry.record(Seen(self.command, self.path, headers, body))

    def _count(self, kind: str, target: str) -> None:
        if kind == "manifests":
            self._registry.count("manifest_heads" if self.command == "HEAD" else "manifest_requests")
        elif self.command == "HEAD":
            self._registry.count("blob_heads")
        else:
            self._registry.count_blob(target, gets=1)

    def _took_fault_status(self) -> bool:
        fault = self._faults.take_status(self.path)
        if fault is None and self.command == "HEAD" and self._faults.refuse_head:
            fault = (self._faults.refuse_head, {})
        if fault is not None:
            self._refuse(fault[0], "FAULT", "switched on by a test", fault[1])
        return fault is not None

    def _challenge(self, repository: str) -> dict[str, str]:
        if self._faults.challenge:
            return {"WWW-Authenticate": self._faults.challenge}
        if self._registry.auth.value == "basic":
            return {"WWW-Authenticate": 'Basic realm="fake"'}
        scope = f"repository:{repository}:pull"
        return {"WWW-Authenticate": f'Bearer realm="{self._registry.url}/token",service="fake",scope="{scope}"'}

    def _serve_token(self, query: dict[str, list[str]]) -> None:
        user = self._registry.user_of(self.headers.get("Authorization", ""))
        if user is None:
            self._refuse(401, "UNAUTHORIZED", "incorrect username or password")
        else:
            self._send_token(user, query.get("scope", [""])[0], "token")

    def _send_token(self, user: str, scope: str, key: str) -> None:
        token = self._registry.issue_token(user, scope.removeprefix("repository:").removesuffix(":pull"))
        self._send(200, json.dumps({key: token, "expires_in": self._faults.token_seconds}).encode())

    def _serve_manifest(self, repository: str, target: str) -> None:
        found = self._registry.content.manifests[repository].get(target)
        if found is None:
            self._refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        media_type, content = found
        headers = {"Content-Type": media_type}
        if self._faults.tells_digest:
            headers["Docker-Content-Digest"] = str(Digest.of(content))
        self._send(200, content if self._faults.manifest_bytes is None else self._faults.manifest_bytes, headers)

    def _serve_blob(self, repository: str, digest: str) -> None:
        content = self._registry.content.blobs[repository].get(digest)
        if content is None:
            self._refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
        elif self._faults.redirect_loop:
            self._send(307, b"", {"Location": self.path})
        elif self._faults.redirect_blobs_to:
            path = urlsplit(self.path).path
            self._send(307, b"", {"Location": f"{self._faults.redirect_blobs_to}{path}?{self._registry.SIGNATURE}"})
        else:
            self._serve_bytes(digest, self._damage(digest, content))

    def _damage(self, digest: str, content: bytes) -> bytes:
        if digest in self._faults.flip_bit_of:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        resize = self._faults.resize.get(digest, 0)
        return content + b"x" * resize if resize > 0 else content[: len(content) + resize]

    def _serve_bytes(self, digest: str, content: bytes) -> None:
        """distribution-spec, "Pulling blobs", with RFC 9110's ranges."""
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
        }
        status, start, end = 200, 0, len(content)
        if asked and not self._faults.ignores_ranges:
            status, start = 206, int(asked[1])
            end = min(int(asked[2]) + 1, end) if asked[2] else end
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = self._faults.content_range or f"bytes {start}-{end - 1}/{len(content)}"
        if self._faults.chunked:
            headers["Transfer-Encoding"] = "chunked"
        self._send_head(status, headers, end - start)
        if self.command != "HEAD":
            self._send_body(digest, memoryview(content)[start:end])

    def _send_body(self, digest: str, body: memoryview) -> None:
        faults, sent, step_bytes = self._faults, 0, _STEP_BYTES
        if faults.bytes_per_second:
            step_bytes = max(1, min(step_bytes, faults.bytes_per_second // _SLOW_STEPS_PER_SECOND))
        while sent < len(body):
            size = min(step_bytes, len(body) - sent)
            for limit in (faults.cut_every_bytes or None, faults.stall_after_bytes):
                size = min(size, limit - sent) if limit is not None and limit > sent else size
            if faults.cut_every_bytes and sent >= faults.cut_every_bytes:
                self._cut()
                return
            if faults.stall_after_bytes is not None and sent >= faults.stall_after_bytes:
                faults.resume.wait()
            piece = body[sent : sent + size]
            self._registry.count_blob(digest, served_bytes=size)  # before the client has it and looks
            self.wfile.write(b"%x\r\n%b\r\n" % (size, bytes(piece)) if faults.chunked else piece)
            sent += size
            if faults.bytes_per_second:
                self._registry.closing.wait(size / faults.bytes_per_second)
            if faults.bytes_per_second_in_all:
                self._registry.closing.wait(faults.line_is_busy_for(size))
        if faults.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _cut(self) -> None:
        if self._faults.cut_with_reset:
            # RST discards what the kernel has not sent yet: wait until the client's kernel has it all.
            while self._unsent_bytes() and not self._registry.closing.wait(0.001):
                pass
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _unsent_bytes(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, b"\0" * 4))[0])

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._send_head(status, {"Content-Type": "application/json", **(headers or {})}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(length))
        if self._faults.content_encoding and status < 300:
            self.send_header("Content-Encoding", self._faults.content_encoding)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
