"""What a server and the driver tell each other of a lazy view: the demand socket, `<root_dir>/demand.sock`.

One packet a message (SOCK_SEQPACKET, `packets`); the driver listens, servers connect and, when the driver was away, connect
again and repeat what they want. A server that is told `Here` looks at the fill map and the chunk map itself. What the holder
is told is in `mount.wire`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from modelcsi.packets import Codec, check_view

MAX_CHANGED_FILES = 4096
"""In one `Changed`, so that it fits into a packet (`packets.MAX_PACKET_BYTES`): more files are several messages."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A server's first words on a connection."""

    op: ClassVar[str] = "hello"
    pid: int
    adapter: str
    born: float
    """When the process began, in seconds since 1970: a pid alone may be another process by now."""


@dataclass(frozen=True, slots=True)
class Want:
    """Bytes [start, end) of a file that somebody waits for; answered with `Here` or `Failed` of the same id, unless cancelled."""

    op: ClassVar[str] = "want"
    id: int
    """The server's own count: another connection may use it again."""
    view: str
    file: int
    start: int
    end: int
    verified: bool = False
    """Not the bytes are waited for, but that the file is complete."""

    def __post_init__(self) -> None:
        _check_range(self)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Bytes that will be read soon, by the look of it; no answer."""

    op: ClassVar[str] = "ahead"
    view: str
    file: int
    start: int
    end: int

    def __post_init__(self) -> None:
        _check_range(self)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for `Want` `id` any more. Its answer may be under way."""

    op: ClassVar[str] = "cancel"
    id: int


@dataclass(frozen=True, slots=True)
class Here:
    """What `Want` `id` asked for may be read."""

    op: ClassVar[str] = "here"
    id: int


@dataclass(frozen=True, slots=True)
class Failed:
    """What `Want` `id` asked for cannot be had."""

    op: ClassVar[str] = "failed"
    id: int
    errno: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """What was read of these files is worth nothing: they have a new epoch in the fill map. No answer."""

    op: ClassVar[str] = "changed"
    view: str
    files: tuple[int, ...]

    def __post_init__(self) -> None:
        check_view(self.view)


ToDriver = Hello | Want | Ahead | Cancel
ToServer = Here | Failed | Changed

_TO_DRIVER = Codec(Hello, Want, Ahead, Cancel)
_TO_SERVER = Codec(Here, Failed, Changed)


def read_by_driver(packet: bytes) -> ToDriver:
    """What a server said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: ToDriver = _TO_DRIVER.decode(packet)
    return message


def read_by_server(packet: bytes) -> ToServer:
    """What the driver said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: ToServer = _TO_SERVER.decode(packet)
    return message


def _check_range(message: Any) -> None:
    check_view(message.view)
    if message.end < message.start:
        raise ValueError(f"the range {message.start}-{message.end} ends before it begins")
