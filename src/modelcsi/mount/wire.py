"""What driver, holder and servers tell each other about who serves what: `<root_dir>/fuse.sock`, and the socket pair that a
server inherits from the holder.

One packet a message (SOCK_SEQPACKET, `packets`); a /dev/fuse descriptor travels with `Hold`, `Held` and `Serve` (SCM_RIGHTS).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from modelcsi.packets import Codec

_VIEW = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Hold:
    """Driver to holder, with one descriptor: keep it, and see that it is served. Answered with `Done`."""

    op: ClassVar[str] = "hold"
    view: str
    adapter: str
    secret: bytes = field(default=b"", repr=False)
    """The view's credentials, opaque to the holder and only in its memory."""

    def __post_init__(self) -> None:
        _check_view(self.view)


@dataclass(frozen=True, slots=True)
class Release:
    """Driver to holder: the view has gone, close its descriptor. Answered with `Done`; repeatable."""

    op: ClassVar[str] = "release"
    view: str

    def __post_init__(self) -> None:
        _check_view(self.view)


@dataclass(frozen=True, slots=True)
class ListHeld:
    """Driver to holder: answered with one `Held` for each view, then `End`."""

    op: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True)
class Done:
    """Holder to driver: what was asked is so. `error` says why it is not."""

    op: ClassVar[str] = "done"
    ok: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Holder to driver, with the descriptor: a view that is held."""

    op: ClassVar[str] = "held"
    view: str
    adapter: str
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        _check_view(self.view)


@dataclass(frozen=True, slots=True)
class Lost:
    """Holder to driver: a view's server could not be kept alive; its mounts answer with errors."""

    op: ClassVar[str] = "lost"
    view: str
    why: str

    def __post_init__(self) -> None:
        _check_view(self.view)


@dataclass(frozen=True, slots=True)
class Serve:
    """Holder to server, with one descriptor: answer its requests from now on."""

    op: ClassVar[str] = "serve"
    view: str

    def __post_init__(self) -> None:
        _check_view(self.view)


@dataclass(frozen=True, slots=True)
class Drop:
    """Holder to server: close the view's descriptor. No answer."""

    op: ClassVar[str] = "drop"
    view: str

    def __post_init__(self) -> None:
        _check_view(self.view)


@dataclass(frozen=True, slots=True)
class Ping:
    """Holder to server: answered with `Pong` at once, or the server is stuck."""

    op: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True)
class Pong:
    """Server to holder. Said once without a `Ping` too: the server has begun and waits for `Serve`."""

    op: ClassVar[str] = "pong"


@dataclass(frozen=True, slots=True)
class Gone:
    """Server to holder: the view cannot be served any more; `why` is empty when its last mount was taken away."""

    op: ClassVar[str] = "gone"
    view: str
    why: str = ""

    def __post_init__(self) -> None:
        _check_view(self.view)


FromHolder = Serve | Drop | Ping
FromServer = Pong | Gone

_FROM_HOLDER = Codec(Serve, Drop, Ping)
_FROM_SERVER = Codec(Pong, Gone)


def read_by_server(packet: bytes) -> FromHolder:
    """What the holder said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: FromHolder = _FROM_HOLDER.decode(packet)
    return message


def read_by_holder(packet: bytes) -> FromServer:
    """What a server said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: FromServer = _FROM_SERVER.decode(packet)
    return message


def _check_view(view: str) -> None:
    if not _VIEW.fullmatch(view):
        raise ValueError(f"not the id of a view: {view[:80]!r}")
