"""What driver, holder and servers tell each other about who serves what: `<root_dir>/fuse.sock`, and the socket pair that a
server inherits from the holder.

One packet a message (SOCK_SEQPACKET, `packets`); a /dev/fuse descriptor travels with `Hold`, `Held`, `Serve` and `Returned`
(SCM_RIGHTS). A view's secret is a second descriptor, of a sealed memfd: the holder passes it on and never reads it. How a
server takes over from another is told in `link`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modelcsi.packets import Codec, check_view


@dataclass(frozen=True, slots=True)
class Hold:
    """Driver to holder, with the view's descriptor and its secret: keep them, and see that it is served. Answered with `Done`."""

    op: ClassVar[str] = "hold"
    view: str
    adapter: str
    device: str = ""
    """`major:minor` of its mounts, by which the holder ends a connection that nobody can serve."""
    serial: str = ""
    """Of the connection: the same view may be mounted again, even on a device of the same number, before an end is told."""

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Release:
    """Driver to holder: the view has gone, close its descriptor. Answered with `Done`; repeatable."""

    op: ClassVar[str] = "release"
    view: str

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Part:
    """Driver to holder: I end, and so do my copies of what you hold. Answered with `Done` by a holder that stays."""

    op: ClassVar[str] = "part"


@dataclass(frozen=True, slots=True)
class ListHeld:
    """Driver to holder: answered with one `Held` for each view, one `Server` for each process, then `Done`."""

    op: ClassVar[str] = "list"
    descriptors: bool = True
    """Whether the views' descriptors and secrets come with the answer, or it is only a question how things are."""


@dataclass(frozen=True, slots=True)
class Server:
    """Holder to driver: a process that serves, or waits to."""

    op: ClassVar[str] = "server"
    pid: int
    adapter: str
    role: str
    """`active`, `standby`, or `leaving` of one that shall be gone soon."""
    views: int


@dataclass(frozen=True, slots=True)
class Done:
    """Holder to driver: what was asked is so. `error` says why it is not."""

    op: ClassVar[str] = "done"
    ok: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Holder to driver: a view that is held, with its descriptor unless its server alone has that (pyfuse3), and its secret."""

    op: ClassVar[str] = "held"
    view: str
    adapter: str
    device: str = ""
    serial: str = ""
    has_descriptor: bool = True
    has_secret: bool = True
    """False of a view that came back from a server whose holder was killed: servers know no secrets."""

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Lost:
    """Holder to driver, at any time: the view is not held any more; its mounts, if there are any, answer with errors."""

    op: ClassVar[str] = "lost"
    view: str
    why: str
    serial: str = ""

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Serve:
    """Holder to server, with one descriptor: ask for what was read and not answered (NOTIFY_RESEND), and answer from now on.

    Of a view that is served already: the new descriptor replaces the old one.
    """

    op: ClassVar[str] = "serve"
    view: str
    device: str = ""
    serial: str = ""

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Drop:
    """Holder to server: close the view's descriptor. No answer."""

    op: ClassVar[str] = "drop"
    view: str

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Resend:
    """Holder to server: another process may have read requests of any view and is gone now: NOTIFY_RESEND once more for each."""

    op: ClassVar[str] = "resend"


@dataclass(frozen=True, slots=True)
class Leave:
    """Holder to server: end at once, answering nothing more. Your successor waits for that, then asks for all you had read."""

    op: ClassVar[str] = "leave"


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
    serial: str = ""

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Served:
    """Server to holder: the answer to `Serve`, once the view's requests are answered."""

    op: ClassVar[str] = "served"
    view: str

    def __post_init__(self) -> None:
        check_view(self.view)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A server whose holder has died, to the new one, first of all: take me over. One `Returned` for each view follows."""

    op: ClassVar[str] = "orphan"
    pid: int
    adapter: str


@dataclass(frozen=True, slots=True)
class Returned:
    """An orphan to the new holder: a view that it serves, with its descriptor unless it alone may have that (pyfuse3)."""

    op: ClassVar[str] = "returned"
    view: str
    device: str = ""
    serial: str = ""
    has_descriptor: bool = True

    def __post_init__(self) -> None:
        check_view(self.view)


FromHolder = Serve | Drop | Resend | Leave | Ping
FromServer = Pong | Gone | Served
FromDriver = Hold | Release | Part | ListHeld
FromHolderToDriver = Done | Held | Server | Lost
FromPeer = Hold | Release | Part | ListHeld | Orphan | Returned | Pong | Gone | Served

_FROM_HOLDER = Codec(Serve, Drop, Resend, Leave, Ping)
_FROM_SERVER = Codec(Pong, Gone, Served)
_FROM_PEER = Codec(Hold, Release, Part, ListHeld, Orphan, Returned, Pong, Gone, Served)
_TO_DRIVER = Codec(Done, Held, Server, Lost)


def read_by_server(packet: bytes) -> FromHolder:
    """What the holder said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: FromHolder = _FROM_HOLDER.decode(packet)
    return message


def read_by_holder(packet: bytes) -> FromServer:
    """What a server said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: FromServer = _FROM_SERVER.decode(packet)
    return message


def read_from_peer(packet: bytes) -> FromPeer:
    """What somebody said who connected to the holder: the driver, or an orphan. Raises ValueError, UnknownPacket."""
    message: FromPeer = _FROM_PEER.decode(packet)
    return message


def read_by_driver(packet: bytes) -> FromHolderToDriver:
    """What the holder said. Raises ValueError, UnknownPacket for a message of a newer release."""
    message: FromHolderToDriver = _TO_DRIVER.decode(packet)
    return message
