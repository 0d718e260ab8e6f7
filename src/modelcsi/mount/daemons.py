"""The driver's side of the FUSE servers: what the holder shall keep, and copies of it in case the holder dies.

Under construction: the interface is final, the bodies follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Held:
    """A lazy view that is served."""

    view: str
    adapter: str
    secret: bytes | None = field(repr=False)
    """None if driver and holder died together: then the view's credentials are known to nobody."""
    device: str
    """`major:minor` of its mounts."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server's process."""

    pid: int
    adapter: str
    role: str
    """active, standby, or leaving."""
    views: int


@dataclass(frozen=True, slots=True)
class HolderCommand:
    """How this driver starts a holder; without one somebody else does (`fuse.holder: external`)."""

    arguments: tuple[str, ...]


class Daemons:
    """Thread-safe. Calls wait for the holder a few seconds at most."""

    def __init__(
        self, root_dir: Path, on_lost: Callable[[str, str], None], command: HolderCommand | None = None
    ) -> None:
        """`on_lost(view, why)` is called from a thread of this object, when a view answers with errors from now on."""
        raise NotImplementedError

    def start(self) -> None:
        """Connect to a holder that runs already, if there is one, and take over what it holds; from now on it is watched."""
        raise NotImplementedError

    def stop(self) -> None:
        """Let go of the holder, which goes on."""
        raise NotImplementedError

    def hold(self, view: str, fuse_fd: int, adapter: str, device: str, secret: bytes) -> None:
        """Have an attached view served; returning normally means that the holder has it. Raises MountFailed.

        `fuse_fd` stays the caller's, to be closed at once: with pyfuse3 a copy that is left makes readers hang.
        Of a view that is held already: other secret, same connection.
        """
        raise NotImplementedError

    def release(self, view: str) -> None:
        """After a view's last unmount; repeatable. Never waits long: a holder that is away is told later."""
        raise NotImplementedError

    def held(self) -> tuple[Held, ...]:
        """All views that are served, or will be once the holder is back."""
        raise NotImplementedError

    def is_alive(self, view: str) -> bool:
        """Whether a held view's connection has not ended; asks the kernel only."""
        raise NotImplementedError

    def servers(self) -> tuple[ServerStatus, ...]:
        """All servers; none while the holder is away."""
        raise NotImplementedError

    @property
    def holder_pid(self) -> int | None:
        """None while there is none."""
        raise NotImplementedError


def choose_adapter(wanted: str) -> str:
    """`passthrough` or `pyfuse3`, of `auto`, or the one that is wanted. Raises MountFailed if lazy views are not possible here."""
    raise NotImplementedError
