"""Addresses as the configuration writes them: `tcp://host:port` and `unix:///path`. Pure values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelcsi.errors import InvalidRequest

# sockaddr_un.sun_path has 108 bytes, the last of which is NUL (unix(7)).
_MAX_SOCKET_PATH_BYTES = 107
_TCP = re.compile(r"tcp://(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/\[\]]*)):([0-9]{1,5})/?")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen; the host is a name or an address, an IPv6 one without brackets, or empty for all IPv4 addresses."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> TcpAddress:
        """Read `tcp://host:port`.

        Raises InvalidRequest.
        """
        match = _TCP.fullmatch(text)
        if match is None or int(match[3]) > _MAX_PORT:
            raise InvalidRequest(
                f"{text!r} is no address", hint="write tcp://HOST:PORT, with brackets around IPv6: tcp://[::1]:5244"
            )
        return cls(match[1] or match[2] or "", int(match[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse_socket_path(text: str) -> Path:
    """The path in `unix:///path`.

    Raises InvalidRequest, also for a path that no socket can have.
    """
    path = text.removeprefix("unix://")
    if path == text or not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"{text!r} is no unix socket", hint="write unix:///csi/csi.sock")
    if len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
        raise InvalidRequest(
            f"{path} is too long for a unix socket, whose path has at most {_MAX_SOCKET_PATH_BYTES} bytes"
        )
    return Path(path)
